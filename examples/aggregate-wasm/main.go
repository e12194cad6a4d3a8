// Command aggregate-wasm is an algorithm that tells of tables no more than what
// holds for many rows at once: count, sum, mean, least and greatest of each
// column of numbers, for all rows and for each group of them.
//
// It reads the CSV files in datasets/, which have one heading in common, and
// writes results/aggregate.json. A group of fewer rows than the threshold is
// withheld, and so is what could be had by taking the groups that are shown from
// the total. What it prints names no value of a table either: consumers get that,
// too.
//
// It is built for WebAssembly (docs/examples/aggregate-wasm.md):
//
//	GOOS=wasip1 GOARCH=wasm go build -trimpath -buildvcs=false -o aggregate.wasm ./examples/aggregate-wasm
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

func main() {
	if err := run(os.Args[1:], ".", os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "aggregate:", err)
		os.Exit(1)
	}
}

// run works in dir, which holds datasets/ and results/.
func run(args []string, dir string, stdout io.Writer) error {
	flags := flag.NewFlagSet("aggregate", flag.ContinueOnError)
	by := flags.String("group-by", "", "`column` whose values make the groups; empty: all rows are one")
	threshold := flags.Int("min-group", 10, "the least `rows` that anything is told of")
	extremes := flags.Bool("extremes", true, "tell least and greatest values, each of which is that of a row")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	if *threshold < 1 {
		return fmt.Errorf("-min-group %d: expected 1 or more", *threshold)
	}
	files, err := filepath.Glob(filepath.Join(dir, "datasets", "*.csv"))
	if err != nil {
		return err
	}
	if len(files) == 0 {
		return errors.New("datasets/ has no file called *.csv")
	}
	t := newTable(*by)
	for _, name := range files {
		if err := t.readFile(name); err != nil {
			return err
		}
	}
	told, err := t.tell(*threshold, *extremes)
	if err != nil {
		return err
	}
	b, err := json.MarshalIndent(told, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "results", "aggregate.json"), append(b, '\n'), 0o644); err != nil {
		return err
	}
	_, err = fmt.Fprintf(stdout, "%d rows of %d files, %d groups told of, %d withheld\n",
		told.All.Rows, len(files), len(told.Groups), told.WithheldGroups)
	return err
}
