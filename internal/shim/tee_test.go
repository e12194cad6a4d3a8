package shim

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"

	eventv1 "github.com/ultravioletrs/cocos/api/event/v1"
	"github.com/ultravioletrs/cocos/internal/vm"
)

func TestTee(t *testing.T) {
	var out bytes.Buffer
	var told []string
	next := slog.New(slog.NewTextHandler(&out, nil)).With("run", "r").Handler()
	log := slog.New(newTee(next, func(l slog.Level, text string) { told = append(told, fmt.Sprint(levelOf(l), " ", text)) }))
	log.Info("plain")
	log.Debug("below the level of the log")
	log.With("a", 1).Warn("with", "b", "x y")
	log.WithGroup("g").Error("grouped", "error", errors.New("two\nlines"))
	want := []string{"LEVEL_INFO plain", `LEVEL_WARN with a=1 b="x y"`, `LEVEL_ERROR grouped g.error="two\nlines"`}
	if !slices.Equal(told, want) {
		t.Errorf("told %q\nwant %q", told, want)
	}
	if n := strings.Count(out.String(), "\n"); n != 3 || strings.Count(out.String(), "run=r") != 3 {
		t.Errorf("the log itself has\n%s", out.String())
	}
}

// TestManagerHearsTheShim: what the shim logs the Manager hears once, and what
// it hears as an event, or as QEMU's, not a second time as a line.
func TestManagerHearsTheShim(t *testing.T) {
	dir, _ := newVM(t, "")
	follow := startShim(t, dir, nil).follow()
	var lines []string
	for !slices.ContainsFunc(lines, func(l string) bool { return strings.HasPrefix(l, "the agent dialled ") }) {
		m := follow.next()
		if m.GetEvent().GetKind() == vm.EventBooting {
			dialGuest(t, dir) // what comes before is told before
		}
		if l := m.GetLog(); l != nil {
			if l.GetSource() != eventv1.Source_SOURCE_SHIM || strings.Contains(l.GetMessage(), "run=") || strings.Contains(l.GetMessage(), "source=") {
				t.Errorf("a line of the shim: %v", l)
			}
			lines = append(lines, l.GetMessage())
		}
	}
	for _, l := range lines {
		if strings.HasPrefix(l, vm.EventStarting) || strings.HasPrefix(l, vm.EventBooting) {
			t.Errorf("an event comes as a line, too: %s", l)
		}
	}
	if n := len(slices.DeleteFunc(slices.Clone(lines), func(l string) bool { return !strings.HasPrefix(l, "starting QEMU") })); n != 1 {
		t.Errorf("QEMU's command comes %d times: %q", n, lines)
	}
}
