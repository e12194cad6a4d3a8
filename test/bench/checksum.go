package main

import (
	"context"
	"fmt"
	"strings"
)

// cli, agent and manager are what `make build` built.
const (
	cliBinary     = "build/cocos-cli"
	agentBinary   = "build/cocos-agent"
	managerBinary = "build/cocos-manager"
)

// checksum compares the CLI with coreutils; both print the same line.
func checksum(ctx context.Context, l *lab) ([]row, error) {
	name, digest, err := l.data()
	if err != nil {
		return nil, err
	}
	want := hexDigest(digest) + "  " + name
	r := row{
		name: "checksum_1gib", unit: "MiB/s", reference: "sha256sum of the same file",
		aim: aim{atLeast: true, bound: 0.9},
	}
	for range l.runs {
		for _, side := range []struct {
			args []string
			into *series
		}{
			{[]string{cliBinary, "checksum", name}, &r.values},
			{[]string{"sha256sum", name}, &r.referenceValues},
		} {
			out, took, err := timed(ctx, side.args...)
			if err != nil {
				return nil, err
			}
			if got := strings.TrimSpace(out); got != want {
				return nil, fmt.Errorf("%s printed %q; expected %q", strings.Join(side.args, " "), got, want)
			}
			*side.into = append(*side.into, l.rate(took))
		}
	}
	return []row{r}, nil
}
