// The program s3 is an S3-compatible server for tests: versitygw's gateway in front
// of a folder. Its own command brings backends and tests that take minutes to compile.
//
// Usage: s3 HOST:PORT CERT KEY REGION METADATA DATA, with ROOT_ACCESS_KEY and
// ROOT_SECRET_KEY in the environment.
package main

import (
	"context"
	"fmt"
	"os"

	"github.com/versity/versitygw/backend/meta"
	"github.com/versity/versitygw/backend/posix"
	"github.com/versity/versitygw/embedgw"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "s3:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) != 6 {
		return fmt.Errorf("%d arguments; expected HOST:PORT CERT KEY REGION METADATA DATA", len(args))
	}
	// Metadata in files: the folder may be where there are no extended attributes.
	sidecar, err := meta.NewSideCar(args[4])
	if err != nil {
		return err
	}
	files, err := posix.New(args[5], sidecar, posix.PosixOpts{SideCarDir: args[4]})
	if err != nil {
		return err
	}
	return embedgw.RunVersityGW(context.Background(), files, &embedgw.Config{
		RootUserAccess: os.Getenv("ROOT_ACCESS_KEY"), RootUserSecret: os.Getenv("ROOT_SECRET_KEY"),
		Region: args[3], Ports: []string{args[0]}, CertFile: args[1], KeyFile: args[2],
		MaxConnections: 100, MaxRequests: 100, MultipartMaxParts: 10000, Quiet: true,
	})
}
