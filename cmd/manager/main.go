// Command cocos-manager runs confidential virtual machines on one host.
//
// Without arguments it is the Manager, which connects to the computations
// server that MANAGER_GRPC_URL names, or that the host joined by `enroll`, and
// does as it is asked. `shim DIR` is the
// process that owns one VM; the Manager starts it, and it lives on when the
// Manager ends. Configuration comes from the environment, from the one table in
// variables.go; docs/manager.md shows it.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/ultravioletrs/cocos/internal/manager"
	"github.com/ultravioletrs/cocos/internal/qemu"
	"github.com/ultravioletrs/cocos/internal/sdnotify"
	"github.com/ultravioletrs/cocos/internal/shim"
	"github.com/ultravioletrs/cocos/internal/telemetry"
	"github.com/ultravioletrs/cocos/internal/version"
	"github.com/ultravioletrs/cocos/internal/vm"
)

const usage = `usage:
  cocos-manager            run the Manager; configured by MANAGER_* variables
  cocos-manager shim DIR   own the VM in DIR; the Manager starts this
  cocos-manager enroll     join a service by a one-time token, and get what it takes
                           to connect: --service HOST:PORT --token TOKEN
                           [--ca FILE | --fingerprint sha256:DIGITS] [--again]
  cocos-manager check      tell what this host can do, and what mends the rest;
                           with --json for programs
  cocos-manager qemu-args  print the command that would start a VM, and start nothing
  cocos-manager env        print a cocos-manager.env with every variable's default
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
		return ownVM(ctx, vm.Dir(args[1]), environ, stderr)
	case command == "shim":
		return fmt.Errorf("%w: shim takes one folder, not %d", errUsage, len(args)-1)
	case command == "enroll":
		return enroll(ctx, args[1:], environ, os.Stdin, stdout)
	case command == "check" && (len(args) == 1 || len(args) == 2 && args[1] == "--json"):
		return check(ctx, environ, len(args) == 2, stdout)
	case command == "check":
		return fmt.Errorf("%w: check takes --json, or nothing", errUsage)
	case len(args) > 1:
		return fmt.Errorf("%w: %s takes no arguments", errUsage, command)
	case command == "version":
		_, err := fmt.Fprintln(stdout, version.String())
		return err
	case command == "qemu-args":
		return printCommand(ctx, environ, stdout, stderr)
	case command == "env":
		return writeEnvFile(stdout)
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
	log, err := telemetry.NewLogger(stderr, s.logFormat, s.logLevel)
	if err != nil {
		return err
	}
	ready, err := sdnotify.Take()
	if err != nil {
		return err
	}
	cfg, err := configure(ctx, s, log)
	if ctx.Err() != nil {
		return nil // stopped while it looked at the host
	}
	if err != nil {
		return err
	}
	cfg.Ready = ready
	stopTracing, err := telemetry.StartTracing(s.traceURL, s.traceRatio,
		telemetry.Process{Service: "cocos-manager", Version: cfg.Version, Instance: cfg.InstanceID}, log)
	if err != nil {
		return err
	}
	defer func() { _ = stopTracing(context.WithoutCancel(ctx)) }() // it logs what it could not send
	var looked func()
	cfg.Findings, looked = lookAround(ctx, s, log)
	defer looked()
	var measured func()
	cfg.Images, measured = measureAround(ctx, s, cfg.Host.Machine, log)
	defer measured()
	log.Info("the Manager starts", "version", cfg.Version, "instance", cfg.InstanceID, "server", cfg.Server.Address, "state_dir", cfg.StateDir)
	return manager.Run(ctx, cfg)
}

// ownVM is a shim's whole life. Its environment is the Manager's.
func ownVM(ctx context.Context, dir vm.Dir, environ []string, stderr io.Writer) error {
	s, err := parse(environ)
	if err != nil {
		return err
	}
	log, err := telemetry.NewLogger(stderr, s.logFormat, s.logLevel)
	if err != nil {
		return err
	}
	return shim.Run(ctx, shim.Config{Dir: dir, Log: log})
}

// printCommand prints the command line of the VM that a run would get.
func printCommand(ctx context.Context, environ []string, stdout, stderr io.Writer) error {
	s, err := parse(environ)
	if err != nil {
		return err
	}
	log, err := telemetry.NewLogger(stderr, s.logFormat, "warn")
	if err != nil {
		return err
	}
	s.printing = true
	cfg, err := configure(ctx, s, log)
	if err != nil {
		return err
	}
	argv, err := manager.SampleCommand(cfg.Host, cfg.StateDir)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(stdout, qemu.Shell(argv))
	return err
}
