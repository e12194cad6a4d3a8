// Command demo runs one computation from end to end with nothing but what a
// user has: the binaries in build/, the guest image, the sample computations
// server and the iris example. It prints each command that it runs, and stops
// everything that it started.
//
// It is started by `make demo`, from the root of the source tree.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"
)

func main() {
	// A closed terminal and a reader of the output that went away (`| head`)
	// end the demo in good order too.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGPIPE)
	uninterrupted := context.AfterFunc(ctx, func() {
		fmt.Fprintln(os.Stderr, "\ndemo: interrupted: stopping what was started ...")
	})
	err := run(ctx)
	uninterrupted()
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

const (
	manager   = "build/cocos-manager"
	cli       = "build/cocos-cli"
	algorithm = "examples/iris/logistic_regression.py"
	irisFile  = "usr/lib/python3/dist-packages/sklearn/datasets/data/iris.csv"
)

func run(ctx context.Context) (err error) {
	began := time.Now()
	for _, f := range []string{manager, cli, algorithm} {
		if _, err := os.Stat(f); err != nil {
			return fmt.Errorf("%w; start the demo with: make demo", err)
		}
	}
	dir, err := os.MkdirTemp("", "cocos-demo-")
	if err != nil {
		return err
	}
	d := &demo{dir: dir, ctx: ctx}
	defer func() {
		stopped := errors.Join(d.stopAll(), d.endLeft(leftGrace))
		if interrupted := errors.Is(err, errInterrupted); stopped != nil || err != nil && !interrupted {
			err = errors.Join(err, stopped)
			fmt.Fprintf(os.Stderr, "\nThe logs of the demo are kept in %s\n", dir)
			return
		} else if interrupted {
			fmt.Fprintln(os.Stderr, "demo: all is stopped and removed")
		} else {
			fmt.Printf("\nThe demo took %s.\n", time.Since(began).Round(100*time.Millisecond))
		}
		err = errors.Join(err, os.RemoveAll(dir))
	}()

	for _, s := range []struct {
		title string
		run   func() error
	}{
		{"Take the iris data out of Debian's scikit-learn package", d.data},
		{"Make a key pair for the owner of algorithm and data", d.keys},
		{"Start the sample computations server", d.server},
		{"Start the Manager; it boots a VM whose first process is the Agent", d.boot},
		{"Upload the algorithm and the data; each is compared with the manifest", d.upload},
		{"Wait while the algorithm runs in the VM", d.wait},
		{"Download the result", d.result},
		{"Stop the VM, the Manager and the server", d.stopAll},
	} {
		if err := d.stage(s.title, s.run); err != nil {
			return err
		}
	}
	return d.report()
}

// report prints what the computation found out.
func (d *demo) report() error {
	b, err := os.ReadFile(d.path("result", "results", "metrics.json"))
	if err != nil {
		return fmt.Errorf("reading the result: %w", err)
	}
	var metrics struct {
		Accuracy float64 `json:"accuracy"`
		Train    int     `json:"train_rows"`
		Test     int     `json:"test_rows"`
	}
	if err := json.Unmarshal(b, &metrics); err != nil {
		return fmt.Errorf("reading %s: %w", d.path("result", "results", "metrics.json"), err)
	}
	model, err := os.Stat(d.path("result", "results", "model.joblib"))
	if err != nil {
		return fmt.Errorf("reading the result: %w", err)
	}
	fmt.Printf("\nThe VM sent back a model of %d bytes, fitted to %d flowers.\n", model.Size(), metrics.Train)
	fmt.Printf("Accuracy on the %d it had not seen: %.1f %%\n", metrics.Test, 100*metrics.Accuracy)
	return nil
}

func (d *demo) path(name ...string) string {
	return filepath.Join(append([]string{d.dir}, name...)...)
}
