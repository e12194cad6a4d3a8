package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/ultravioletrs/cocos/internal/guest"
	"github.com/ultravioletrs/cocos/internal/runtime"
)

const usage = `cocos-agent runs one computation. In a VM of Cocos it is started by the kernel.
Started by hand it is an ordinary process, for development and benchmarks:
nothing protects or attests it from the machine's owner.

usage:
  cocos-agent --session unix:PATH --dir DIR [--listen ADDRESS] [--runtime ROOT]
              [--simulated-report unix:PATH]
  cocos-agent version

flags:
`

// config is that of a process outside a VM.
type config struct {
	session string // path of the shim's socket
	dir     string
	listen  string // empty: loopback, on the port that the launch names
	runtime string
	// reports is the path of a simulated TEE's socket; empty: none.
	reports string
}

func parseFlags(args []string, stdout io.Writer) (config, error) {
	var c config
	var session, reports string
	f := flag.NewFlagSet("cocos-agent", flag.ContinueOnError)
	f.SetOutput(io.Discard)
	f.StringVar(&session, "session", "", "where the shim listens: unix:`PATH` of a socket")
	f.StringVar(&c.dir, "dir", "", "a `folder` of the agent's own, empty or to be made")
	f.StringVar(&c.listen, "listen", "", "`address` for participants (default 127.0.0.1, on the port that the shim names)")
	f.StringVar(&c.runtime, "runtime", "", "the `root` of a mounted runtime disk, for Python and dynamically linked algorithms")
	f.StringVar(&reports, "simulated-report", "", "a simulated TEE that signs reports, SIMULATED and worth nothing: unix:`PATH` of its socket, for manifests with /tee \"sim\"")
	err := f.Parse(args)
	if errors.Is(err, flag.ErrHelp) {
		f.SetOutput(stdout)
		_, _ = io.WriteString(stdout, usage)
		f.PrintDefaults()
		return c, err
	}
	const see = "see cocos-agent --help"
	if err != nil {
		return c, fmt.Errorf("%w; %s", err, see)
	}
	path, ok := strings.CutPrefix(session, "unix:")
	switch {
	case f.NArg() > 0:
		return c, fmt.Errorf("unexpected argument %q; %s", f.Arg(0), see)
	case session == "":
		return c, fmt.Errorf("--session is missing; %s", see)
	case !ok || path == "":
		return c, fmt.Errorf("--session %q: want unix:PATH; %s", session, see)
	case c.dir == "":
		return c, fmt.Errorf("--dir is missing; %s", see)
	}
	if reports != "" {
		if c.reports, ok = strings.CutPrefix(reports, "unix:"); !ok || c.reports == "" {
			return c, fmt.Errorf("--simulated-report %q: want unix:PATH; %s", reports, see)
		}
	}
	if c.listen != "" {
		if _, _, err := net.SplitHostPort(c.listen); err != nil {
			return c, fmt.Errorf("--listen %q: want an address with its port, such as 127.0.0.1:7002: %w", c.listen, err)
		}
	}
	if c.runtime != "" {
		if c.runtime, err = filepath.Abs(c.runtime); err != nil {
			return c, fmt.Errorf("--runtime: %w", err)
		}
		if info, err := os.Stat(c.runtime); err != nil || !info.IsDir() {
			return c, fmt.Errorf("--runtime %s is not a folder", c.runtime)
		}
	}
	c.session = path
	return c, nil
}

// runProcess is the agent outside a VM: the same phases without a machine.
func runProcess(ctx context.Context, cfg config, stderr io.Writer) error {
	if err := os.MkdirAll(cfg.dir, 0o700); err != nil {
		return fmt.Errorf("--dir: %w", err)
	}
	unix := func(path string) func(context.Context) (net.Conn, error) {
		return func(ctx context.Context) (net.Conn, error) { return new(net.Dialer).DialContext(ctx, "unix", path) }
	}
	c := newComputation(unix(cfg.session), stderr)
	if cfg.reports != "" {
		c.reports = unix(cfg.reports)
	}
	phases := append(c.phases(), guest.Phase{Name: "agent", Run: func(ctx context.Context) error {
		address := cfg.listen
		if address == "" {
			address = net.JoinHostPort("127.0.0.1", strconv.Itoa(int(c.launch.Config.Port)))
		}
		runner := &runtime.Runner{Root: cfg.runtime}
		return c.serve(ctx, runner, cfg.dir, address, func(a net.Addr) { c.tell("serving on %v", a) })
	}})
	err := guest.Run(ctx, phases)
	c.end(err)
	return err
}
