package cli

import (
	"fmt"
	"io"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// manCmd prints the manual page, so that it can't differ from the commands.
func (a *app) manCmd(root *cobra.Command) *cobra.Command {
	return &cobra.Command{
		Use:    "man",
		Short:  "Print the manual page of section 1, in roff",
		Hidden: true,
		Args:   exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			p := page{to: cmd.OutOrStdout()}
			date, err := pageDate(a.env.Getenv)
			if err != nil {
				return err
			}
			p.write(root, date)
			return p.err
		},
	}
}

// pageDate is the page's, as 2026-11-24: what SOURCE_DATE_EPOCH says, which is
// how packagers tell it, or else that of the commit that the program was built
// from. Empty if neither is known.
func pageDate(getenv func(string) string) (string, error) {
	if v := getenv("SOURCE_DATE_EPOCH"); v != "" {
		seconds, err := strconv.ParseInt(v, 10, 64)
		if err != nil {
			return "", fmt.Errorf("SOURCE_DATE_EPOCH=%q: expected seconds since 1970", v)
		}
		return time.Unix(seconds, 0).UTC().Format(time.DateOnly), nil
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "", nil
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.time" {
			day, _, _ := strings.Cut(s.Value, "T")
			return day, nil
		}
	}
	return "", nil
}

// page writes man(7) macros. The first error stays.
type page struct {
	to  io.Writer
	err error
}

func (p *page) printf(format string, args ...any) {
	if p.err == nil {
		_, p.err = fmt.Fprintf(p.to, format, args...)
	}
}

// roff makes text mean itself: no escapes, no requests, plain hyphens.
func roff(text string) string {
	text = strings.NewReplacer(`\`, `\e`, "-", `\-`, "'", `\(aq`, "`", `\(ga`, "^", `\(ha`, "~", `\(ti`).Replace(text)
	lines := strings.Split(text, "\n")
	for i, l := range lines {
		if strings.HasPrefix(l, ".") {
			lines[i] = `\&` + l
		}
	}
	return strings.Join(lines, "\n")
}

// text writes paragraphs. Lines that begin with a blank stand as they are.
func (p *page) text(s string) {
	literal := false
	gap := false
	for line := range strings.SplitSeq(strings.Trim(s, "\n"), "\n") {
		indented := strings.HasPrefix(line, " ") || strings.HasPrefix(line, "\t")
		switch {
		case strings.TrimSpace(line) == "":
			gap = true
			continue
		case indented && !literal:
			p.printf(".PP\n.in +4n\n.nf\n")
		case !indented && literal:
			p.printf(".fi\n.in\n.PP\n")
		case gap && literal:
			p.printf(".sp\n")
		case gap:
			p.printf(".PP\n")
		}
		literal, gap = indented, false
		if literal {
			line = strings.TrimPrefix(strings.TrimPrefix(line, "  "), "\t")
		} else {
			line = strings.TrimSpace(line)
		}
		p.printf("%s\n", roff(line))
	}
	if literal {
		p.printf(".fi\n.in\n")
	}
}

func (p *page) write(root *cobra.Command, date string) {
	p.printf(".TH COCOS\\-CLI 1 %q Cocos \"User Commands\"\n", date)
	p.printf(".SH NAME\n%s \\- %s\n", roff(root.Name()), roff(sentence(root.Short)))
	p.printf(".SH SYNOPSIS\n.B %s\n.I COMMAND\n[\\fIOPTION\\fR]... [\\fIARGUMENT\\fR]...\n", roff(root.Name()))
	p.printf(".SH DESCRIPTION\n")
	p.text(root.Long)
	p.printf(".SH OPTIONS\nThese go with every command.\n")
	p.flags(root.PersistentFlags(), nil)
	p.printf(".SH COMMANDS\n")
	p.commands(root)
	p.printf(".SH SEE ALSO\n.BR cocos\\-manager (8)\n")
}

// sentence begins with a small letter, as man-pages(7) wants it after a name.
func sentence(s string) string {
	if s == "" {
		return s
	}
	return strings.ToLower(s[:1]) + s[1:]
}

func (p *page) commands(parent *cobra.Command) {
	for _, c := range parent.Commands() {
		if !c.IsAvailableCommand() {
			continue
		}
		if c.HasAvailableSubCommands() && c.Name() != "completion" {
			p.commands(c)
			continue
		}
		_, use, _ := strings.Cut(c.UseLine(), " ")
		use = strings.ReplaceAll(use, "[flags]", "[OPTION]...")
		p.printf(".SS %s\n", roff(strings.ReplaceAll(use, `"`, "")))
		long := c.Long
		if long == "" || c.Name() == "completion" {
			long = c.Short + "."
		}
		p.text(long)
		p.flags(c.LocalNonPersistentFlags(), nil)
		p.flags(c.InheritedFlags(), c.Root().PersistentFlags())
		if c.HasExample() {
			p.printf(".PP\nExamples:\n")
			p.text("  " + strings.TrimSpace(c.Example)) // the others are indented
		}
	}
}

// flags describes those in set that are not in told, which may be nil.
func (p *page) flags(set, told *pflag.FlagSet) {
	set.VisitAll(func(f *pflag.Flag) {
		if f.Hidden || f.Name == "help" || told != nil && told.Lookup(f.Name) != nil {
			return
		}
		value, usage := pflag.UnquoteUsage(f)
		p.printf(".TP\n")
		names := `\fB` + roff("--"+f.Name) + `\fR`
		if f.Shorthand != "" {
			names = `\fB` + roff("-"+f.Shorthand) + `\fR, ` + names
		}
		if value != "" {
			names += ` \fI` + roff(value) + `\fR`
		}
		p.printf("%s\n", names)
		if d := f.DefValue; d != "" && d != "false" && d != "[]" && d != "0" && d != "0s" {
			usage += " (default " + d + ")"
		}
		p.text(usage)
	})
}
