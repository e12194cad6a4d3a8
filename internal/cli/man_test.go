package cli

import (
	"bytes"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// The page names every command and every flag that the help names.
func TestManualPageIsComplete(t *testing.T) {
	a := &app{out: &output{}}
	root := a.root()
	var b bytes.Buffer
	p := page{to: &b}
	p.write(root, "2026-11-24")
	if p.err != nil {
		t.Fatal(p.err)
	}
	text := b.String()
	if !strings.HasPrefix(text, `.TH COCOS\-CLI 1 "2026-11-24" `) {
		t.Errorf("the page begins with %.60q", text)
	}
	leaves := 0
	var visit func(*cobra.Command)
	visit = func(c *cobra.Command) {
		for _, sub := range c.Commands() {
			if !sub.IsAvailableCommand() || sub.Name() == "completion" {
				continue
			}
			visit(sub)
			if sub.HasAvailableSubCommands() {
				continue
			}
			leaves++
			_, path, _ := strings.Cut(sub.CommandPath(), " ")
			_, section, found := strings.Cut(text, "\n.SS "+roff(path))
			if !found {
				t.Errorf("the page has no section on %q", path)
				continue
			}
			section, _, _ = strings.Cut(section, "\n.SS ")
			for line := range strings.Lines(sub.LocalNonPersistentFlags().FlagUsages() + sub.InheritedFlags().FlagUsages()) {
				_, flag, ok := strings.Cut(line, "--")
				if flag = strings.FieldsFunc(flag+" ", func(r rune) bool { return r == ' ' || r == '[' })[0]; !ok || flag == "help" || root.PersistentFlags().Lookup(flag) != nil {
					continue
				}
				if !strings.Contains(section, roff("--"+flag)+`\fR`) {
					t.Errorf("the section on %q has no --%s", path, flag)
				}
			}
		}
	}
	visit(root)
	if leaves < 10 {
		t.Errorf("only %d commands were looked at", leaves)
	}
}

func TestDateOfThePage(t *testing.T) {
	for in, want := range map[string]string{"1700000000": "2023-11-14", "0": "1970-01-01"} {
		got, err := pageDate(func(string) string { return in })
		if err != nil || got != want {
			t.Errorf("SOURCE_DATE_EPOCH=%s: %q, %v; want %q", in, got, err, want)
		}
	}
	if _, err := pageDate(func(string) string { return "now" }); err == nil || !strings.Contains(err.Error(), `SOURCE_DATE_EPOCH="now"`) {
		t.Errorf("SOURCE_DATE_EPOCH=now: %v", err)
	}
}

func TestRoffMeansWhatItSays(t *testing.T) {
	for in, want := range map[string]string{
		`a\b`:          `a\eb`,
		".TH":          `\&.TH`,
		"a\n.b":        "a\n\\&.b",
		"'quote' --x":  `\(aqquote\(aq \-\-x`,
		"~/.cocos `x`": `\(ti/.cocos \(gax\(ga`,
	} {
		if got := roff(in); got != want {
			t.Errorf("roff(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestLiteralLinesOfAPage(t *testing.T) {
	var b bytes.Buffer
	p := page{to: &b}
	p.text("One\ntwo.\n\n  cmd a\n\n  cmd b\n\nThree.\n")
	want := "One\ntwo.\n.PP\n.in +4n\n.nf\ncmd a\n.sp\ncmd b\n.fi\n.in\n.PP\nThree.\n"
	if got := b.String(); got != want {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
}
