package scratchguest

import (
	"slices"
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	want := []Turn{{4, 3, 2, 1}, {8, 7, 6, 5}}
	line, err := Line(want)
	if err != nil {
		t.Fatal(err)
	}
	got, err := Parse("kernel: up\r\n"+line+"\r\ncocos: the agent has ended\r\n", 2)
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("%v, %v", got, err)
	}
	for name, c := range map[string]struct {
		console, want string
	}{
		"nothing":     {"cocos: phase \"scratch disk\": no\r\n", "reports nothing"},
		"cut off":     {line, "has no end"},
		"not JSON":    {strings.Replace(line, "}]", "}", 1) + "\r\n", "parsing"},
		"three turns": {strings.Replace(line, "[", `[{"write":1,"read":1,"bare_write":1,"bare_read":1},`, 1) + "\r\n", "3 turns"},
		"no time":     {strings.Replace(line, `"read":7`, `"read":0`, 1) + "\r\n", "turn 1"},
		"no key":      {strings.Replace(line, `"bare_read":1`, `"else":1`, 1) + "\r\n", "turn 0"},
	} {
		if got, err := Parse(c.console, 2); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, %v; expected an error with %q", name, got, err, c.want)
		}
	}
}
