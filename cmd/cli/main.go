// Command cocos-cli is what the people of a computation use: package cli has
// its commands and the rules of its output.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/ultravioletrs/cocos/internal/cli"
)

// version is set by the build; empty: what the build recorded.
var version string

func main() { os.Exit(run()) }

func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	// The first signal ends the command in order, a second one at once.
	context.AfterFunc(ctx, stop)
	return cli.Run(ctx, cli.OSEnv(version))
}
