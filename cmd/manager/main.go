// Command cocos-manager runs confidential virtual machines on one host.
//
// Without arguments it is the Manager, which connects to the computations
// server that MANAGER_GRPC_URL names and does as it is asked. `shim DIR` is the
// process that owns one VM; the Manager starts it, and it lives on when the
// Manager ends. Configuration comes from the environment, from the one table in
// variables.go; docs/manager.md shows it.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/ultravioletrs/cocos/internal/manager"
	"github.com/ultravioletrs/cocos/internal/shim"
	"github.com/ultravioletrs/cocos/internal/vm"
)

const usage = `usage:
  cocos-manager            run the Manager; configured by MANAGER_* variables
  cocos-manager shim DIR   own the VM in DIR; the Manager starts this
  cocos-manager version    print the version
  cocos-manager help       print this text

docs/manager.md lists every variable.
`

// errUsage is an error that the usage text answers.
var errUsage = errors.New("usage")

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Environ(), os.Stdout, os.Stderr)
	stop()
	switch {
	case errors.Is(err, errUsage):
		fmt.Fprintf(os.Stderr, "cocos-manager: %v\n\n%s", err, usage)
		os.Exit(2)
	case err != nil:
		fmt.Fprintf(os.Stderr, "cocos-manager: %v\n", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args, environ []string, stdout, stderr io.Writer) error {
	if len(args) == 0 {
		return serve(ctx, environ, stderr)
	}
	switch command := args[0]; {
	case command == "shim" && len(args) == 2:
		return shim.Run(ctx, vm.Dir(args[1]))
	case command == "shim":
		return fmt.Errorf("%w: shim takes one folder, not %d", errUsage, len(args)-1)
	case len(args) > 1:
		return fmt.Errorf("%w: %s takes no arguments", errUsage, command)
	case command == "version":
		_, err := fmt.Fprintln(stdout, version())
		return err
	case command == "help", command == "-h", command == "--help":
		_, err := io.WriteString(stdout, usage)
		return err
	default:
		return fmt.Errorf("%w: there is no command %q", errUsage, command)
	}
}

func serve(ctx context.Context, environ []string, stderr io.Writer) error {
	s, err := parse(environ)
	if err != nil {
		return err
	}
	var level slog.Level
	if err := level.UnmarshalText([]byte(s.logLevel)); err != nil {
		return fmt.Errorf("MANAGER_LOG_LEVEL=%q: %w", s.logLevel, err)
	}
	log := slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: level}))
	cfg, err := configure(ctx, s, log)
	if err != nil {
		return err
	}
	log.Info("the Manager starts", "version", cfg.Version, "instance", cfg.InstanceID, "server", cfg.Server.Address, "state_dir", cfg.StateDir)
	return manager.Run(ctx, cfg)
}

// version is the module's, or the commit's that this was built from.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	v := info.Main.Version
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" && (v == "" || v == "(devel)") {
			v = s.Value
		}
	}
	if v == "" {
		v = "(devel)"
	}
	return v
}
