package main

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"time"
)

// entry is a line of what `computations watch --json` prints.
type entry struct {
	Type         string            `json:"type"`
	Kind         string            `json:"kind"`
	Message      string            `json:"message"`
	Attributes   map[string]string `json:"attributes"`
	State        string            `json:"state"`
	Reason       string            `json:"reason"`
	AgentAddress string            `json:"agent_address"`
}

// follow reads the watch from where it stopped, prints the events, and returns
// when done says so.
func (d *demo) follow(limit time.Duration, what string, done func(entry) (bool, error)) error {
	return d.until(d.watch, limit, what, func() (bool, error) {
		b, err := os.ReadFile(d.watch.out)
		if err != nil {
			return false, err
		}
		lines := strings.SplitAfter(string(b), "\n")
		for _, line := range lines[d.seen:] {
			if !strings.HasSuffix(line, "\n") {
				break // it is not written whole yet
			}
			d.seen++
			var e entry
			if err := json.Unmarshal([]byte(line), &e); err != nil {
				return false, fmt.Errorf("reading what the watch printed: %w: %q", err, line)
			}
			if e.Type == "event" {
				fmt.Printf("    %-16s %s\n", e.Kind, e.Message)
			}
			if ok, err := done(e); ok || err != nil {
				return ok, err
			}
			switch {
			case e.Type == "run" && (e.State == "failed" || e.State == "stopped"):
				return false, fmt.Errorf("the run %s while the demo waited for %s: %s", e.State, what, e.Reason)
			case e.Kind == "vm.exited" && e.Attributes["exit_status"] != "0", e.Kind == "vm.lost":
				return false, fmt.Errorf("the VM ended while the demo waited for %s; the last lines of its console:\n%s", what, e.Attributes["console"])
			}
		}
		return false, nil
	})
}
