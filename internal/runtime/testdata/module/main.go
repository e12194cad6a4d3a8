// Module is built for WASI and does what its arguments say, one thing each, for
// the tests of how WebAssembly modules are run. Of each it prints a line.
package main

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unsafe"
)

const (
	firstFolder = 3
	rightRead   = 1 << 1
)

//go:wasmimport wasi_snapshot_preview1 path_open
func pathOpen(folder, lookup uint32, path string, open uint32, rights, inherited uint64, flags uint32, fd unsafe.Pointer) uint32

func main() {
	for _, arg := range os.Args[1:] {
		words := strings.Fields(arg)
		out, err := do(words[0], words[1:])
		if err != nil {
			out = "error: " + err.Error()
		}
		fmt.Printf("%s: %s\n", arg, out)
	}
}

func do(what string, args []string) (string, error) {
	switch what {
	case "args":
		return fmt.Sprintf("%q", os.Args), nil
	case "env":
		return fmt.Sprintf("%q", os.Environ()), nil
	case "cwd":
		return os.Getwd()
	case "read":
		b, err := os.ReadFile(args[0])
		return fmt.Sprintf("%q", b), err
	case "open-at": // the working folder's descriptor, without Go's own look at the path
		var fd uint32
		if errno := pathOpen(firstFolder, 0, args[0], 0, rightRead, 0, 0, unsafe.Pointer(&fd)); errno != 0 {
			return "", syscall.Errno(errno)
		}
		return "done", nil
	case "stdin":
		b, err := io.ReadAll(os.Stdin)
		return fmt.Sprintf("%q", b), err
	case "list":
		entries, err := os.ReadDir(args[0])
		var names []string
		for _, e := range entries {
			names = append(names, e.Name())
		}
		return strings.Join(names, " "), err
	case "write":
		if err := os.MkdirAll(filepath.Dir(args[0]), 0o755); err != nil {
			return "", err
		}
		return "done", os.WriteFile(args[0], []byte(args[1]), 0o644)
	case "symlink":
		return "done", os.Symlink(args[0], args[1])
	case "rename":
		return "done", os.Rename(args[0], args[1])
	case "dial":
		_, err := net.Dial("tcp", args[0])
		return "done", err
	case "stderr":
		fmt.Fprintln(os.Stderr, args[0])
		return "done", nil
	case "random":
		b := make([]byte, 16)
		_, err := rand.Read(b)
		return hex.EncodeToString(b), err
	case "clock":
		return strconv.FormatInt(time.Now().Unix(), 10), nil
	case "sleep":
		d, err := time.ParseDuration(args[0])
		began := time.Now()
		time.Sleep(d)
		return strconv.FormatBool(time.Since(began) >= d), err
	case "allocate":
		n, err := strconv.Atoi(args[0])
		return strconv.Itoa(len(bytes.Repeat([]byte{1}, n))), err
	case "exit":
		n, err := strconv.Atoi(args[0])
		if err != nil {
			return "", err
		}
		os.Exit(n)
	}
	return "", fmt.Errorf("%s: not known", what)
}
