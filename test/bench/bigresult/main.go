// Command bigresult is the algorithm of the download benchmark: it writes as
// many bytes to results/ as its argument says. They don't compress, nor does
// anything try to.
package main

import (
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"strconv"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "bigresult:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) != 1 {
		return fmt.Errorf("%d arguments; expected the number of bytes", len(args))
	}
	size, err := strconv.ParseInt(args[0], 10, 64)
	if err != nil {
		return err
	}
	f, err := os.Create("results/model.bin")
	if err != nil {
		return err
	}
	if _, err := io.CopyBuffer(struct{ io.Writer }{f}, io.LimitReader(rand.NewChaCha8([32]byte{}), size), make([]byte, 1<<20)); err != nil {
		return err
	}
	return f.Close()
}
