package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/ultravioletrs/cocos/internal/oci"
	"github.com/ultravioletrs/cocos/internal/oci/build"
	"github.com/ultravioletrs/cocos/internal/runtime"
	"github.com/ultravioletrs/cocos/internal/runtime/wasm"
	"github.com/ultravioletrs/cocos/manifest"
)

// startKind is a kind of algorithm whose start is measured: one that prints a
// line and ends.
type startKind struct {
	kind manifest.AlgorithmType
	// root is the runner's; empty: the kind needs none.
	root string
	// make makes the algorithm's file.
	make func(ctx context.Context, file string) error
	// bare starts it without the sandbox, in a working folder of its own.
	bare func(file string) *exec.Cmd
	// reference says what bare is.
	reference string
}

const (
	hello      = "./test/bench/hello"
	hostPython = "/usr/bin/python3"
)

var startKinds = []startKind{{
	kind: manifest.Binary,
	make: func(ctx context.Context, file string) error { return buildProgram(ctx, file, hello) },
	bare: func(file string) *exec.Cmd { return exec.Command(file) }, reference: "the same program, bare",
}, {
	kind: manifest.Python, root: "/",
	make: func(_ context.Context, file string) error {
		if _, err := os.Stat(hostPython); err != nil {
			return fmt.Errorf("%w; install python3", err)
		}
		return os.WriteFile(file, []byte("print('started', flush=True)\n"), 0o644)
	},
	bare: func(file string) *exec.Cmd { return exec.Command(hostPython, file) }, reference: "the same interpreter and script, bare",
}, {
	kind: manifest.Wasm,
	make: func(ctx context.Context, file string) error {
		return buildProgram(ctx, file, hello, "GOOS=wasip1", "GOARCH=wasm")
	},
	bare: func(file string) *exec.Cmd {
		return &exec.Cmd{Path: agentBinary, Args: wasm.Command(file, 0, nil)}
	},
	reference: "the same engine and module, bare",
}, {
	kind: manifest.Container, make: makeImage,
	bare: func(file string) *exec.Cmd { return exec.Command(file + "-program") }, reference: "the program of the image, bare",
}}

// makeImage makes the archive of an image with one program, and leaves that beside it.
func makeImage(ctx context.Context, file string) error {
	if err := buildProgram(ctx, file+"-program", hello); err != nil {
		return err
	}
	program, err := os.ReadFile(file + "-program")
	if err != nil {
		return err
	}
	entries, err := build.OCI(build.Image{
		Config: oci.Config{Entrypoint: []string{"/hello"}},
		Layers: []build.Layer{{Entries: []build.Entry{build.File("hello", 0o755, program)}, Compression: "gzip"}},
	})
	if err != nil {
		return err
	}
	archive, err := build.Tar(entries)
	if err != nil {
		return err
	}
	return os.WriteFile(file, archive, 0o644)
}

func startRow(kind manifest.AlgorithmType) string { return "runtime_start_" + string(kind) }

func runtimeRows() []string {
	var names []string
	for _, k := range startKinds {
		names = append(names, startRow(k.kind))
	}
	return append(names, "isolation_overhead")
}

// startsPerRun: a start takes milliseconds, so there are many.
const startsPerRun = 5

// runtimes times each kind from the call that runs it to its first output, and a
// static binary to its end.
func runtimes(ctx context.Context, l *lab) ([]row, error) {
	var rows []row
	for _, k := range startKinds {
		r := row{name: startRow(k.kind), unit: "ms", reference: k.reference}
		whole := row{name: "isolation_overhead", unit: "ms", reference: "the same program, bare, to its end"}
		file := l.path("start-" + string(k.kind))
		if err := k.make(ctx, file); err != nil {
			return rows, fmt.Errorf("%s: %w", r.name, err)
		}
		for range l.runs * startsPerRun {
			first, end, err := k.sandboxed(ctx, l, file)
			if err != nil {
				return rows, fmt.Errorf("%s: %w", r.name, err)
			}
			bareFirst, bareEnd, err := k.alone(l, file)
			if err != nil {
				return rows, fmt.Errorf("%s: %w", r.name, err)
			}
			r.values, r.referenceValues = append(r.values, ms(first)), append(r.referenceValues, ms(bareFirst))
			whole.values, whole.referenceValues = append(whole.values, ms(end)), append(whole.referenceValues, ms(bareEnd))
		}
		rows = append(rows, r)
		if k.kind == manifest.Binary {
			rows = append(rows, whole)
		}
	}
	return rows, nil
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// sandboxed runs the algorithm as the agent does, in a working folder of its own.
func (k startKind) sandboxed(ctx context.Context, l *lab, file string) (first, end time.Duration, err error) {
	dir, err := os.MkdirTemp(l.dir, "run-")
	if err != nil {
		return 0, 0, err
	}
	defer os.RemoveAll(dir)
	for _, d := range []string{"datasets", "results"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			return 0, 0, err
		}
	}
	var image manifest.Image
	if k.kind == manifest.Container {
		d, err := oci.Describe(ctx, file, "")
		if err != nil {
			return 0, 0, err
		}
		image = d.Pin
	}
	runner := &runtime.Runner{Root: k.root, Engine: agentBinary}
	var errs bytes.Buffer
	out := clocked()
	o, err := runner.Run(ctx, runtime.Job{Type: k.kind, Program: file, Image: image, Dir: dir, Stdout: out, Stderr: &errs})
	if err == nil && !o.Succeeded() {
		err = fmt.Errorf("ended with %d %s %s: %s", o.ExitCode, o.Signal, o.LimitExceeded, errs.String())
	}
	return out.result(err)
}

// alone runs it as a child of this process.
func (k startKind) alone(l *lab, file string) (first, end time.Duration, err error) {
	cmd := k.bare(file)
	if cmd.Path, err = filepath.Abs(cmd.Path); err != nil {
		return 0, 0, err
	}
	cmd.Dir, cmd.Env = l.dir, []string{}
	var errs bytes.Buffer
	out := clocked()
	cmd.Stdout, cmd.Stderr = out, &errs
	if err = cmd.Run(); err != nil {
		err = fmt.Errorf("bare: %w: %s", err, errs.String())
	}
	return out.result(err)
}

// clock takes output and notes when the first of it came.
type clock struct {
	began time.Time

	mu    sync.Mutex
	first time.Duration
	text  strings.Builder
}

func clocked() *clock { return &clock{began: time.Now()} }

func (c *clock) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.first == 0 {
		c.first = time.Since(c.began)
	}
	return c.text.Write(p)
}

// result is what there is to say when the algorithm has ended.
func (c *clock) result(err error) (first, end time.Duration, _ error) {
	end = time.Since(c.began)
	c.mu.Lock()
	defer c.mu.Unlock()
	if err == nil && c.text.String() != "started\n" {
		err = fmt.Errorf("it printed %q", c.text.String())
	}
	return c.first, end, err
}
