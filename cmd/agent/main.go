// Command cocos-agent runs one computation.
//
// In a VM it is the kernel's /init: the first process, which starts the agent,
// reaps and powers off, and the agent itself, which makes the machine ready,
// asks the shim over vsock what to compute, and serves participants. Outside a
// VM it is an ordinary process for development and benchmarks, with the session
// over a unix socket; everything that it does then is unattested.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"

	"golang.org/x/sys/unix"

	"github.com/ultravioletrs/cocos/internal/guest"
	"github.com/ultravioletrs/cocos/internal/runtime"
	"github.com/ultravioletrs/cocos/internal/version"
)

// initPath is what the kernel starts.
const initPath = "/init"

func main() {
	runtime.Child()
	if os.Getpid() == 1 && os.Args[0] == initPath {
		guest.Supervise(initPath, os.Stderr)
	}
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args, os.Stdout, os.Stderr); err != nil {
		guest.Say(os.Stderr, "%v", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	if args[0] == guest.AgentName {
		return runGuest(ctx, stderr)
	}
	if len(args) == 2 && args[1] == "version" {
		_, err := fmt.Fprintln(stdout, "cocos-agent", version.String())
		return err
	}
	cfg, err := parseFlags(args[1:], stdout)
	if errors.Is(err, flag.ErrHelp) {
		return nil
	}
	if err != nil {
		return err
	}
	return runProcess(ctx, cfg, stderr)
}
