// Command cocos-computations is the Computation Management service: the console
// for people with a browser, the API for cocos-cli, and what Managers connect to.
//
// Without arguments it serves. With nothing configured it makes its data folder,
// an embedded database and a certificate authority, listens on loopback, and
// prints the link with which the first administrator signs in. Configuration
// comes from the environment, from the one table in variables.go;
// docs/computations.md shows it.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/ultravioletrs/cocos/internal/version"
)

const usage = `usage:
  cocos-computations                  serve; configured by COMPUTATIONS_* variables
  cocos-computations link [EMAIL]     print a link with which that operator of the
                                      service sets a new password; without EMAIL
                                      the first administrator's, as long as nobody
                                      has used it; with the embedded database the
                                      service is stopped for it
  cocos-computations ca               print the certificate authority, and its
                                      fingerprint on standard error
  cocos-computations new-authority    let the data folder's authority take the place
                                      of one that is lost: every host enrols again
  cocos-computations audit-verify     follow the audit log's chain of hashes
  cocos-computations backup FILE      copy the embedded database, also while the
                                      service runs
  cocos-computations restore FILE     put such a copy in the place of a database
                                      that is not there
  cocos-computations env              print a file with every variable's default
  cocos-computations version          print the version
  cocos-computations help             print this text

docs/computations.md lists every variable.
`

// errUsage is an error that the usage text answers.
var errUsage = errors.New("usage")

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	// A second signal ends the process at once.
	context.AfterFunc(ctx, stop)
	err := run(ctx, os.Args[1:], os.Environ(), os.Stdout, os.Stderr)
	stop()
	switch {
	case errors.Is(err, errUsage):
		fmt.Fprintf(os.Stderr, "cocos-computations: %v\n\n%s", err, usage)
		os.Exit(2)
	case err != nil:
		fmt.Fprintf(os.Stderr, "cocos-computations: %v\n", err)
		os.Exit(1)
	}
}

// command is one of the usage text; takes is how many arguments it may have.
type command struct {
	least, most int
	run         func(ctx context.Context, s settings, args []string, stdout, stderr io.Writer) error
}

var commands = map[string]command{
	"link":          {0, 1, link},
	"ca":            {0, 0, printAuthority},
	"new-authority": {0, 0, newAuthority},
	"audit-verify":  {0, 0, verifyAudit},
	"backup":        {1, 1, backup},
	"restore":       {1, 1, restore},
}

func run(ctx context.Context, args, environ []string, stdout, stderr io.Writer) error {
	if len(args) == 0 {
		s, err := parse(environ)
		if err != nil {
			return err
		}
		return serve(ctx, s, stdout, stderr)
	}
	name, rest := args[0], args[1:]
	if c, ok := commands[name]; ok {
		if len(rest) < c.least || len(rest) > c.most {
			return fmt.Errorf("%w: %s was given %d arguments", errUsage, name, len(rest))
		}
		s, err := parse(environ)
		if err != nil {
			return err
		}
		return c.run(ctx, s, rest, stdout, stderr)
	}
	if len(rest) > 0 {
		return fmt.Errorf("%w: %s takes no arguments", errUsage, name)
	}
	switch name {
	case "env":
		return table().WriteFile(stdout, envHead)
	case "version":
		_, err := fmt.Fprintln(stdout, version.String())
		return err
	case "help", "-h", "--help":
		_, err := io.WriteString(stdout, usage)
		return err
	}
	return fmt.Errorf("%w: there is no command %q", errUsage, name)
}

const envHead = `# Configuration of cocos-computations. One NAME=VALUE per line; a line that begins
# with '#' is a comment. Every variable stands here with its default: to change
# one, remove the '#' before its name, and restart the service.
`
