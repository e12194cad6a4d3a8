// Command probe is the algorithm of the end-to-end tests: one static binary
// that does what its first argument says.
package main

import (
	"crypto/sha256"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "probe:", err)
		os.Exit(3)
	}
}

func run(args []string) error {
	if len(args) == 0 {
		return fmt.Errorf("say what to do")
	}
	switch args[0] {
	case "sum":
		return sum()
	case "careless":
		return careless()
	case "look":
		return look()
	case "files":
		return files()
	case "forever":
		for {
			time.Sleep(time.Hour)
		}
	case "fill":
		return fill()
	}
	return fmt.Errorf("%q: not known", args[0])
}

// sum writes the digest of every file below datasets/.
func sum() error {
	out, err := os.Create("results/sums.txt")
	if err != nil {
		return err
	}
	err = filepath.WalkDir("datasets", func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		h := sha256.New()
		if _, err := io.Copy(h, f); err != nil {
			return err
		}
		_, err = fmt.Fprintf(out, "%x  %s\n", h.Sum(nil), path)
		return err
	})
	if err != nil {
		return err
	}
	fmt.Println("summed")
	return out.Close()
}

// careless takes an error for the end of a file: it prints how much it read of each,
// leaves a result, and ends as if that were all.
func careless() error {
	err := filepath.WalkDir("datasets", func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return nil
		}
		n := int64(0)
		if f, err := os.Open(path); err == nil {
			defer f.Close()
			n, _ = io.Copy(io.Discard, f)
		}
		fmt.Println(path, n)
		return nil
	})
	if err != nil {
		return err
	}
	return os.WriteFile("results/done.txt", nil, 0o644)
}

// look writes what an algorithm finds around itself.
func look() error {
	out, err := os.Create("results/look.txt")
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "uid %d gid %d pid %d\n", os.Getuid(), os.Getgid(), os.Getpid())
	for _, addr := range []string{"10.0.2.2:7001", "127.0.0.1:7002"} {
		c, err := net.DialTimeout("tcp", addr, 3*time.Second)
		if err == nil {
			c.Close()
		}
		fmt.Fprintf(out, "dial %s: reached %t\n", addr, err == nil)
	}
	fmt.Fprintf(out, "write to the root: refused %t\n", os.WriteFile("/x", nil, 0o600) != nil)
	fmt.Fprintf(out, "write to datasets: refused %t\n", os.WriteFile("datasets/x", nil, 0o600) != nil)
	others := 0
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Name() != fmt.Sprint(os.Getpid()) && e.Name()[0] >= '0' && e.Name()[0] <= '9' {
			others++
		}
	}
	fmt.Fprintf(out, "other processes: %d\n", others)
	return out.Close()
}

// files makes names of one file until there can be no more: each counts as one,
// and takes an emulated processor the least.
func files() error {
	if err := os.WriteFile("results/0", nil, 0o600); err != nil {
		return err
	}
	for i := 1; ; i++ {
		if err := syscall.Link("results/0", fmt.Sprintf("results/%d", i)); err != nil {
			return fmt.Errorf("failing after %d files: %w", i, err)
		}
	}
}

// fill writes until something stops it.
func fill() error {
	f, err := os.Create("results/full")
	if err != nil {
		return err
	}
	block := make([]byte, 1<<20)
	for {
		if _, err := f.Write(block); err != nil {
			return err
		}
	}
}
