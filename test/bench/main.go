// Command bench measures the product, prints a table and writes the figures as
// JSON:
//
//	go run ./test/bench [-out build/bench.json] [-only NAME,…] [-size BYTES] [-runs N] [-dir DIR]
//
// Every figure stands beside a reference that is measured in the same run, turn
// by turn with it (A B A B …), because a rate by itself says more about the
// machine than about the program. Figure and reference are medians; the ratio is
// figure over reference. docs/benchmarks.md says what each row measures.
//
// It measures what is shipped: the binaries in build/ and the image in
// cmd/manager/img, each in a process of its own, over loopback. Aims are printed
// and never asserted. A row that can't be measured doesn't stop the others; the
// program then names it and exits non-zero. What it starts it stops, by process
// id, and its work folder is removed.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"

	"github.com/ultravioletrs/cocos/internal/runtime"
)

// bench measures one or more rows together.
type bench struct {
	rows []string
	run  func(context.Context, *lab) ([]row, error)
}

func benches() []bench {
	return []bench{
		{[]string{"upload_1gib", "upload_1gib_agent_rss"}, upload},
		{[]string{"upload_parallel_4"}, uploadParallel},
		{[]string{"upload_8gib_scratch", "upload_8gib_agent_rss"}, uploadScratch},
		{[]string{"scratch_throughput", "scratch_write_throughput"}, scratchRates},
		{[]string{"result_1gib", "result_1gib_agent_rss"}, result},
		{[]string{"checksum_1gib"}, checksum},
		{[]string{"boot_agent_ready", "boot_agent_ready_simulated"}, boot},
		{[]string{"atls_handshakes"}, handshakes},
		{[]string{"verify_snp", "verify_tdx", "verify_sgx"}, verify},
		{[]string{"measure_snp"}, measured},
		{[]string{"vsock_throughput", "vsock_throughput_to_guest", "vsock_throughput_to_host", "vsock_roundtrip"}, vsockRates},
		{[]string{"events_per_second"}, events},
		{[]string{"stream_events_per_second"}, streams},
		{[]string{"run_to_boot"}, runToBoot},
		{[]string{"adopt_100_shims"}, adopt},
		{[]string{"manager_rss", "shim_rss", "shim_pss", "idle_cpu_manager", "idle_cpu_shim"}, footprint},
		{serviceRows(""), serviceBench("", freshSQLite)},
		{serviceRows("_postgres"), serviceBench("_postgres", freshPostgreSQL)},
		{[]string{"manager_stream_rss"}, streamMemory},
		{[]string{"page_p95"}, pageBench("", freshSQLite)},
		{[]string{"page_p95_postgres"}, pageBench("_postgres", freshPostgreSQL)},
		{runtimeRows(), runtimes},
		{sizeRows(), sizes},
	}
}

func main() {
	runtime.Child() // the benches of runtimes start this program as the agent starts itself
	if len(os.Args) > 1 {
		if helper, ok := helpers[os.Args[1]]; ok {
			exitOn(helper(os.Args[2:]))
			return
		}
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout)
	stop()
	exitOn(err)
}

func exitOn(err error) {
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

var errInterrupted = errors.New("interrupted; no figures were written")

func run(ctx context.Context, args []string, stdout io.Writer) (err error) {
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	out := flags.String("out", "", "`file` that the figures are written to as JSON")
	only := flags.String("only", "", "comma-separated `names` of rows; empty: all")
	size := flags.Int64("size", 1<<30, "`bytes` to upload, download and hash; the names of the rows stay")
	runs := flags.Int("runs", 5, "how often each figure and its reference are taken")
	dir := flags.String("dir", "", "`folder` to work in; empty: in memory where there is room, otherwise in the folder for temporary files")
	if err := flags.Parse(args); err != nil {
		return err
	}
	switch {
	case flags.NArg() > 0:
		return fmt.Errorf("%q: arguments are not expected; see -help", flags.Arg(0))
	case *size < 1 || *size > 1<<40:
		return fmt.Errorf("-size %d: expected 1 to %d", *size, int64(1)<<40)
	case *runs < 1 || *runs > 100:
		return fmt.Errorf("-runs %d: expected 1 to 100", *runs)
	}
	chosen, err := choose(benches(), *only)
	if err != nil {
		return err
	}
	l, err := newLab(*dir, *size, *runs)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.close()) }()

	return measure(ctx, l, chosen, stdout, *out)
}

// measure runs the benches one after the other, prints the table and, if out is
// not empty, writes the file. Its error names each row that there is not.
func measure(ctx context.Context, l *lab, chosen []bench, stdout io.Writer, out string) error {
	var rows []row
	var failed []string
	for _, b := range chosen {
		l.say("measuring %s", strings.Join(b.rows, ", "))
		got, err := b.run(ctx, l)
		if ctx.Err() != nil {
			return errInterrupted
		}
		got = slices.DeleteFunc(got, func(r row) bool { return len(r.values) == 0 })
		missing := slices.DeleteFunc(slices.Clone(b.rows), func(name string) bool {
			return slices.ContainsFunc(got, func(r row) bool { return r.name == name })
		})
		if err == nil && len(missing) > 0 {
			err = errors.New("there are no figures")
		}
		if err != nil {
			if len(missing) == 0 {
				missing = b.rows // measured, but what was started did not end well
			}
			failed = append(failed, strings.Join(missing, ", "))
			l.say("FAILED %s: %v", strings.Join(b.rows, ", "), err)
		}
		rows = append(rows, got...)
	}
	if err := writeTable(stdout, rows); err != nil {
		return err
	}
	if out != "" {
		if err := writeJSON(out, rows); err != nil {
			return err
		}
	}
	if len(failed) > 0 {
		return fmt.Errorf("failed: %s; see above", strings.Join(failed, "; "))
	}
	return nil
}

// choose picks the benches that have one of the named rows.
func choose(all []bench, only string) ([]bench, error) {
	if only == "" {
		return all, nil
	}
	names := strings.Split(only, ",")
	var known []string
	for _, b := range all {
		known = append(known, b.rows...)
	}
	for _, name := range names {
		if !slices.Contains(known, name) {
			return nil, fmt.Errorf("-only: there is no row %q; there are %s", name, strings.Join(known, ", "))
		}
	}
	return slices.DeleteFunc(all, func(b bench) bool {
		return !slices.ContainsFunc(b.rows, func(r string) bool { return slices.Contains(names, r) })
	}), nil
}
