package cli_test

import (
	"bytes"
	"context"
	"errors"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/ultravioletrs/cocos/internal/cli"
)

// answer ANSWER QUESTION ARG... runs cocos-cli for somebody at a terminal who is asked
// QUESTION, or nothing where that is empty, and answers; all but a yes is to fail, with
// nothing done.
func cmdAnswer(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 3 {
		ts.Fatalf("usage: answer ANSWER QUESTION ARG...")
	}
	var stdout, stderr bytes.Buffer
	status := cli.Run(context.Background(), cli.Env{
		Args: args[2:], Stdin: strings.NewReader(args[0] + "\n"), Stdout: &stdout, Stderr: &stderr, Getenv: ts.Getenv,
		Columns: func() int { return 0 }, Interactive: func() bool { return true },
		ReadPassword: func(context.Context) (string, error) { return "", errors.New("no password is asked for") },
	})
	ts.Logf("[stdout]\n%s[stderr]\n%s", stdout.String(), stderr.String())
	switch yes := args[0] == "y" || args[1] == ""; {
	case args[1] == "" && strings.Contains(stderr.String(), "[y/N]"):
		ts.Fatalf("a question is asked")
	case args[1] != "" && !strings.Contains(stderr.String(), args[1]+" [y/N] "):
		ts.Fatalf("the question isn't asked")
	case yes && status != cli.ExitOK, !yes && (status != cli.ExitFailure || !strings.Contains(stderr.String(), "nothing was done")):
		ts.Fatalf("exit status %d", status)
	}
}
