// Command demo runs one computation of two or three people from end to end with nothing
// but what users have: the binaries in build/, the guest image and one of the
// examples. It starts the Computation Management service on its embedded database,
// prints each command that it runs, and stops and removes everything that it
// started; with -keep service and Manager run on until Ctrl-C.
//
// The VM has the simulated TEE, which every host has. What the people do is
// what they would do with a real one.
//
// It is started by `make demo`, from the root of the source tree.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"
)

func main() {
	keep := flag.Bool("keep", false, "let the service and the Manager run on until Ctrl-C")
	name := flag.String("example", "", "what to compute: a `name` in examples/")
	flag.Parse()
	// A closed terminal and a reader of the output that went away (`| head`)
	// end the demo in good order too.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGPIPE)
	uninterrupted := context.AfterFunc(ctx, func() {
		fmt.Fprintln(os.Stderr, "\ndemo: interrupted: stopping what was started ...")
	})
	err := run(ctx, *name, *keep)
	uninterrupted()
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

const (
	service = "build/cocos-computations"
	manager = "build/cocos-manager"
	cli     = "build/cocos-cli"
)

// simulated is what the demo's end says.
const simulated = `SIMULATED: the TEE of this demo protects nothing from the machine that it ran on.
With SEV-SNP or TDX the same steps protect: docs/manager.md says what a host needs,
docs/threat-model.md what that is worth.
`

func run(ctx context.Context, name string, keep bool) (err error) {
	began := time.Now()
	dir, err := os.MkdirTemp("", "cocos-demo-")
	if err != nil {
		return err
	}
	d := &demo{dir: dir, ctx: ctx}
	if err := errors.Join(d.choose(name), d.complete()); err != nil {
		return errors.Join(err, os.Remove(dir))
	}
	defer func() {
		stopped := errors.Join(d.stopAll(), d.endLeft(leftGrace))
		interrupted := errors.Is(err, errInterrupted)
		if stopped != nil || err != nil && !interrupted {
			err = errors.Join(err, stopped)
			fmt.Fprintf(os.Stderr, "\nThe logs of the demo are kept in %s\n", dir)
			return
		}
		if interrupted || keep {
			fmt.Fprintln(os.Stderr, "demo: all is stopped and removed")
		}
		err = errors.Join(err, os.RemoveAll(dir))
	}()

	for _, s := range []struct {
		title string
		run   func() error
	}{
		{d.example.inputs, func() error { return d.example.prepare(d) }},
		{"Start the service; with its first link Alice becomes its administrator", d.serve},
		{"Alice lets this machine in as a host, by a one-time token", d.host},
		{"Alice describes a computation: she brings the algorithm, " + d.others() + " the data", d.describe},
		{"Alice invites " + d.others() + ", and each describes the data", d.invite},
		{"Alice freezes the manifest; everybody looks at it, and approves it", d.approve},
		{"Alice runs it: the Manager boots a VM whose first process is the Agent", d.boot},
		{"Everybody computes what the image measures as: only that will they accept", d.policy},
		{"Upload over attested TLS; the VM proves itself first", d.upload},
		{"Wait while the algorithm runs in the VM", d.wait},
		{"Alice downloads the result, with its receipt, and verifies it", d.result},
		{"Alice ends the run, and its VM", d.endRun},
	} {
		if err := d.stage(s.title, s.run); err != nil {
			return err
		}
	}
	if !keep {
		if err := d.stage("Stop the Manager and the service", d.stopAll); err != nil {
			return err
		}
	}
	if err := d.example.report(d); err != nil {
		return err
	}
	fmt.Print("\n", simulated)
	fmt.Printf("\nThe demo took %s.\n", time.Since(began).Round(100*time.Millisecond))
	if keep {
		return d.keep()
	}
	fmt.Printf("\nThe console was at %s; to look around in it: make demo KEEP=1\n", d.url)
	return nil
}

// complete tells whether all is there that make builds.
func (d *demo) complete() error {
	for _, f := range []string{service, manager, cli, d.example.source} {
		if _, err := os.Stat(f); err != nil {
			return fmt.Errorf("%w; start the demo with: make demo", err)
		}
	}
	return nil
}

func (d *demo) path(name ...string) string {
	return filepath.Join(append([]string{d.dir}, name...)...)
}
