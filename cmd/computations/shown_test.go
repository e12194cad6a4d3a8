package main

import (
	"os"
	"strings"
	"testing"
)

// TestShownCommandsExist: what the console tells people to type is a command. A test
// there keeps the list.
func TestShownCommandsExist(t *testing.T) {
	b, err := os.ReadFile("../../internal/console/testdata/commands.txt")
	if err != nil {
		t.Fatal(err)
	}
	looked := 0
	for line := range strings.Lines(string(b)) {
		words := strings.Fields(line)
		if words[0] != "cocos-computations" {
			continue
		}
		looked++
		if _, ok := commands[words[1]]; !ok {
			t.Errorf("%s: there is no such command", strings.TrimSpace(line))
		}
	}
	if looked == 0 {
		t.Error("no command was looked at")
	}
}
