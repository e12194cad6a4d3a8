// Command psi is an algorithm that tells which entries two lists have in common,
// or only how many, and nothing else of either: private set intersection.
//
// It reads the two files in datasets/, one entry a line, and writes
// results/intersection.txt, sorted, so that no order of a list shows; with -count
// results/count.txt. Entries are compared as list.go says. Names that are in one
// list alone leave nothing behind: not in results, not in what it prints, nor in
// errors, which name a file and a line and never what stands there.
//
// Memory is what the shorter list needs, some 100 bytes an entry and the entry
// itself; the longer one is read past it. It is a static Go program
// (docs/examples/psi.md):
//
//	CGO_ENABLED=0 GOOS=linux GOARCH=amd64 go build -trimpath -buildvcs=false -o psi ./examples/psi
package main

import (
	"bufio"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
)

func main() {
	if err := run(os.Args[1:], ".", os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "psi:", err)
		os.Exit(1)
	}
}

// run works in dir, which holds datasets/ and results/.
func run(args []string, dir string, stdout io.Writer) error {
	flags := flag.NewFlagSet("psi", flag.ContinueOnError)
	count := flags.Bool("count", false, "tell how many entries are in both lists, and not which")
	exact := flags.Bool("match-case", false, "take capital and small letters for different")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	short, long, err := lists(filepath.Join(dir, "datasets"))
	if err != nil {
		return err
	}
	both, err := intersect(short, long, *exact)
	if err != nil {
		return err
	}
	if *count {
		err = os.WriteFile(filepath.Join(dir, "results", "count.txt"), fmt.Appendln(nil, len(both)), 0o644)
	} else {
		err = writeLines(filepath.Join(dir, "results", "intersection.txt"), both)
	}
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(stdout, "%d entries are in both lists\n", len(both))
	return err
}

// lists finds the two files in folder, the smaller one first.
func lists(folder string) (short, long string, err error) {
	entries, err := os.ReadDir(folder)
	if err != nil {
		return "", "", err
	}
	if len(entries) != 2 {
		return "", "", fmt.Errorf("datasets/ has %d entries; give two files, the lists to compare", len(entries))
	}
	var sizes [2]int64
	for i, e := range entries {
		info, err := os.Stat(filepath.Join(folder, e.Name()))
		if err != nil {
			return "", "", err
		}
		if !info.Mode().IsRegular() {
			return "", "", fmt.Errorf("%s is not a file; give two files, the lists to compare", e.Name())
		}
		sizes[i] = info.Size()
	}
	first, second := filepath.Join(folder, entries[0].Name()), filepath.Join(folder, entries[1].Name())
	if sizes[0] > sizes[1] {
		return second, first, nil
	}
	return first, second, nil
}

// intersect returns what is in both files, sorted, each once.
func intersect(short, long string, exact bool) ([]string, error) {
	inBoth := map[string]bool{} // for each entry of the short list
	if err := readList(short, exact, func(entry []byte) {
		inBoth[string(entry)] = false
	}); err != nil {
		return nil, err
	}
	if err := readList(long, exact, func(entry []byte) {
		if _, ok := inBoth[string(entry)]; ok {
			inBoth[string(entry)] = true
		}
	}); err != nil {
		return nil, err
	}
	maps.DeleteFunc(inBoth, func(_ string, is bool) bool { return !is })
	return slices.Sorted(maps.Keys(inBoth)), nil
}

func writeLines(name string, lines []string) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	defer f.Close()
	w := bufio.NewWriter(f)
	for _, l := range lines {
		w.WriteString(l)
		w.WriteByte('\n')
	}
	if err := w.Flush(); err != nil {
		return fmt.Errorf("writing %s: %w", filepath.Base(name), err)
	}
	return f.Close()
}
