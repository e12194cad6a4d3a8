// Package cli is cocos-cli: what the people of a computation do from their own
// machines, and the rules of its output.
//
//   - Standard output carries what was asked for and nothing else. Standard
//     error carries hints, progress and errors, for people.
//   - With --json, standard output is one JSON object, or one per line where a
//     command prints a stream; there are no hints and no progress, and an error
//     is one JSON object on standard error.
//   - Exit status: 0 done, 1 failed, 2 the command line is wrong, 130
//     interrupted. Every error says what to do next where that is known.
//   - Progress is a bar on a terminal, and elsewhere a line now and then.
//   - Text that comes from a peer is stripped of control characters before a
//     terminal sees it.
//   - Nothing half-done stands under a final name, and no private key is
//     overwritten unless that is asked for by name.
//   - Before a byte of an input leaves, the agent's identity is known, in the way
//     that the manifest asks for: by evidence that this person's policy accepts,
//     or by a pinned key or a CA. The input is the one that the manifest names.
//   - What weakens a check comes from this person's own files or is said on the
//     command line by its name; nothing that a service or a host hands out does.
//   - The Computation Management service gets digests, sizes, public keys and
//     signatures over texts that are formed here; never a file of an input, and
//     never a private key.
//
// Each command is a file of its own with one constructor on app; app holds all
// that a command touches outside itself, so that tests can stand in for it.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/ultravioletrs/cocos/internal/version"
)

// Exit statuses.
const (
	ExitOK          = 0
	ExitFailure     = 1
	ExitUsage       = 2
	ExitInterrupted = 130
)

// Env is all that a run of the CLI gets from its process.
type Env struct {
	// Args are the arguments without the program's name.
	Args   []string
	Stdin  io.Reader
	Stdout io.Writer
	Stderr io.Writer
	Getenv func(string) string
	// Columns is the width of the terminal that Stderr is; 0: none.
	Columns func() int
	// Interactive tells whether a person can be asked; nil: none.
	Interactive func() bool
	// ReadPassword reads a line of the person that the terminal doesn't show.
	// Required where Interactive is true.
	ReadPassword func(context.Context) (string, error)
	// Version of the program; empty: what the build recorded.
	Version string
}

// OSEnv is the Env of the running process.
func OSEnv(version string) Env {
	return Env{
		Args:    os.Args[1:],
		Stdin:   os.Stdin,
		Stdout:  os.Stdout,
		Stderr:  os.Stderr,
		Getenv:  os.Getenv,
		Columns: func() int { return width(os.Stderr, os.Getenv("TERM")) },
		Interactive: func() bool {
			return term.IsTerminal(int(os.Stdin.Fd())) && term.IsTerminal(int(os.Stderr.Fd()))
		},
		ReadPassword: func(ctx context.Context) (string, error) { return hiddenLine(ctx, os.Stdin) },
		Version:      version,
	}
}

// width of the terminal that f is, in columns; 0: it is none that can redraw
// a line.
func width(f *os.File, kind string) int {
	fd := int(f.Fd())
	if !term.IsTerminal(fd) || kind == "dumb" {
		return 0
	}
	w, _, err := term.GetSize(fd)
	if err != nil || w <= 0 {
		return 80
	}
	return w
}

// timing is what a test replaces to be quick.
type timing struct {
	now   func() time.Time
	sleep func(context.Context, time.Duration) error
}

// app is what the commands of one run share.
type app struct {
	env  Env
	out  *output
	conn connectFlags
	// socket is the Manager's, as named by its flag.
	socket string
	sleep  func(context.Context, time.Duration) error
	// started: the command line was understood, and the command began.
	started bool
}

// Run runs one command and returns the process's exit status. Cancelling ctx
// interrupts it: it then leaves what a next run can resume from.
func Run(ctx context.Context, env Env) int { return run(ctx, env, timing{time.Now, sleep}) }

func run(ctx context.Context, env Env, clock timing) int {
	a := &app{env: env, sleep: clock.sleep}
	a.out = &output{
		stdout: env.Stdout, stderr: env.Stderr, columns: env.Columns, now: clock.now,
	}
	root := a.root()
	// Known before the flags are parsed, for errors in them.
	a.out.json = jsonAsked(env.Args)
	root.SetArgs(env.Args)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return ExitOK
	}
	var p *problem
	errors.As(err, &p)
	switch {
	case ctx.Err() != nil:
		a.out.problem(interrupted(err))
		return ExitInterrupted
	case !a.started && p == nil:
		a.out.problem(usage(err, "see cocos-cli --help"))
		return ExitUsage
	case p != nil && p.usage:
		a.out.problem(err)
		return ExitUsage
	}
	a.out.problem(err)
	return ExitFailure
}

func jsonAsked(args []string) bool {
	if i := slices.Index(args, "--"); i >= 0 {
		args = args[:i]
	}
	return slices.Contains(args, "--json") || slices.Contains(args, "--json=true")
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "cocos-cli",
		Short: "Take part in a confidential computation",
		Long: `Take part in a confidential computation: make keys, compute digests, describe a
computation with others, approve its manifest, bring an algorithm or a dataset, and
fetch the result. Who runs a host or a service looks after it.

Results go to standard output; hints, progress and errors to standard error.
Exit status: 0 done, 1 failed, 2 wrong command line, 130 interrupted.`,
		SilenceUsage:     true,
		SilenceErrors:    true,
		PersistentPreRun: func(*cobra.Command, []string) { a.started = true },
	}
	root.PersistentFlags().BoolVar(&a.out.json, "json", false, "print JSON, for scripts")
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usage(err, seeHelp(cmd))
	})
	root.SetHelpCommand(helpCommand(root))
	group(root)
	for _, g := range []struct {
		title    string
		commands []*cobra.Command
	}{
		{"On your own machine:", []*cobra.Command{
			a.keysCmd(), a.checksumCmd(), a.encryptCmd(), a.containerCmd(), a.contactsCmd(), a.manifestCmd(), a.measureCmd(), a.policyCmd(), a.receiptCmd(), a.instancesCmd(), a.brokerCmd(),
		}},
		{"With the Computation Management service:", []*cobra.Command{
			a.loginCmd(), a.logoutCmd(), a.whoamiCmd(), a.accountCmd(), a.tokensCmd(), a.workspacesCmd(), a.membersCmd(), a.invitationsCmd(),
			a.assetsCmd(), a.computationsCmd(), a.auditCmd(),
		}},
		{"With the VM of a run:", []*cobra.Command{
			a.attestationCmd(), a.algoCmd(), a.dataCmd(), a.stateCmd(), a.eventsCmd(), a.logsCmd(), a.resultCmd(),
		}},
		{"For those who run a host or a service:", []*cobra.Command{a.managerCmd(), a.hostsCmd(), a.usersCmd(), a.settingsCmd()}},
	} {
		root.AddGroup(&cobra.Group{ID: g.title, Title: g.title})
		for _, c := range g.commands {
			c.GroupID = g.title
		}
		root.AddCommand(g.commands...)
	}
	root.AddCommand(a.versionCmd(), a.manCmd(root))
	root.SetIn(a.env.Stdin)
	root.SetOut(a.env.Stdout) // which the completion commands remember now
	root.SetErr(a.env.Stderr)
	root.InitDefaultCompletionCmd("completion")
	for _, c := range root.Commands() {
		if c.Name() == "completion" {
			group(c)
		}
	}
	return root
}

// group makes cmd a mere parent of subs: alone it shows its help, and anything
// else it is given is a wrong command line.
func group(cmd *cobra.Command, subs ...*cobra.Command) {
	cmd.AddCommand(subs...)
	cmd.Args = cobra.ArbitraryArgs
	cmd.SuggestionsMinimumDistance = 2
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return cmd.Help()
		}
		hint := seeHelp(cmd)
		if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
			hint = fmt.Sprintf("did you mean %q?", near[0])
		}
		return usagef(hint, "%s has no command %q", cmd.Name(), args[0])
	}
}

// helpCommand stands in for cobra's, which exits 0 for a topic that is not there.
func helpCommand(root *cobra.Command) *cobra.Command {
	return &cobra.Command{
		Use:   "help [COMMAND]",
		Short: "Show the help of a command",
		RunE: func(_ *cobra.Command, args []string) error {
			cmd, rest, err := root.Find(args)
			if err != nil || len(rest) > 0 {
				return usagef(seeHelp(root), "no help on %q", strings.Join(args, " "))
			}
			return cmd.Help()
		},
	}
}

// exactly wants one argument for each name.
func exactly(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) < len(names):
			return usagef(seeHelp(cmd), "%s is missing", names[len(args)])
		case len(args) > len(names):
			return usagef(seeHelp(cmd), "unexpected argument %q", args[len(names)])
		}
		return nil
	}
}

// atLeastOne accepts one argument of that name, or more.
func atLeastOne(name string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return exactly(name)(cmd, args)
		}
		return nil
	}
}

func (a *app) versionCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  exactly(),
		RunE: func(*cobra.Command, []string) error {
			v := struct {
				Version  string `json:"version"`
				Go       string `json:"go"`
				Platform string `json:"platform"`
			}{a.env.Version, runtime.Version(), runtime.GOOS + "/" + runtime.GOARCH}
			if v.Version == "" {
				v.Version = version.String()
			}
			return a.out.result(v, "cocos-cli %s (%s, %s)\n", v.Version, v.Go, v.Platform)
		},
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
