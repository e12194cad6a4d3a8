package main

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"
)

// TestMemoryIsToldAsItGrows: a line at the start, and one for each step of the peak.
func TestMemoryIsToldAsItGrows(t *testing.T) {
	status := t.TempDir() + "/status"
	// Whole at every moment, as the kernel's is: it is read while it changes.
	set := func(resident, peak int) {
		t.Helper()
		next := status + ".next"
		if err := os.WriteFile(next, fmt.Appendf(nil, "Name:\tcocos-agent\nVmHWM:\t   %d kB\nVmRSS:\t   %d kB\n", peak, resident), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(next, status); err != nil {
			t.Fatal(err)
		}
	}
	set(10_000, 11_000)
	var out bytes.Buffer
	log := slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug}))
	ctx, cancel := context.WithCancel(t.Context())
	ticks, done := make(chan time.Time), make(chan struct{})
	go func() { defer close(done); tellMemory(ctx, log, status, ticks) }()
	tick := func() {
		t.Helper()
		select {
		case ticks <- time.Time{}:
		case <-done:
			t.Fatalf("it ended: %s", out.String())
		}
	}
	tick() // the first line is out: nothing has grown
	set(12_000, 11_000+memoryStep-1)
	tick()
	set(13_000, 11_000+memoryStep)
	tick()
	tick()
	cancel()
	<-done
	if got := out.String(); strings.Count(got, "\n") != 2 || !strings.Contains(got, "resident_kib=10000 peak_kib=11000") || !strings.Contains(got, "peak_kib=12024") {
		t.Errorf("%s", got)
	}
}

func TestMemoryOfThisProcess(t *testing.T) {
	resident, peak, err := memoryOf("/proc/self/status")
	if err != nil || resident < 1000 || peak < resident/2 {
		t.Errorf("%d, %d, %v", resident, peak, err)
	}
	for _, text := range []string{"", "VmRSS: 1 kB\n", "VmRSS: x kB\nVmHWM: 1 kB\n"} {
		if _, _, err := parseMemory(strings.NewReader(text)); err == nil {
			t.Errorf("%q is taken", text)
		}
	}
}
