package cli

import (
	"os"
	"strings"
	"testing"
)

// TestShownCommandsExist: what the service and its console tell people to type is a
// command, with flags that it has. A test there keeps the list.
func TestShownCommandsExist(t *testing.T) {
	b, err := os.ReadFile("../console/testdata/commands.txt")
	if err != nil {
		t.Fatal(err)
	}
	a := &app{out: &output{}}
	looked := 0
	for line := range strings.Lines(string(b)) {
		words := strings.Fields(line)
		if words[0] != "cocos-cli" {
			continue
		}
		looked++
		cmd, rest := a.root(), words[1:]
	down:
		for len(rest) > 0 {
			for _, sub := range cmd.Commands() {
				if sub.Name() == rest[0] {
					cmd, rest = sub, rest[1:]
					continue down
				}
			}
			break
		}
		// What follows a command without subcommands is its argument, or prose.
		if cmd.HasSubCommands() && len(rest) > 0 && !strings.HasPrefix(rest[0], "--") {
			t.Errorf("%s: %s has no command %q", strings.TrimSpace(line), cmd.CommandPath(), rest[0])
		}
		if flag, is := strings.CutPrefix(words[len(words)-1], "--"); is && cmd.Flag(flag) == nil {
			t.Errorf("%s: %s has no such flag", strings.TrimSpace(line), cmd.CommandPath())
		}
	}
	if looked < 20 {
		t.Errorf("only %d commands were looked at", looked)
	}
}
