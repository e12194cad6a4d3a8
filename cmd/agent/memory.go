package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"time"
)

const (
	memoryEvery = time.Second
	// memoryStep is how much the peak must have grown for another line, in KiB.
	memoryStep = 1 << 10
)

// tellMemory logs the agent's resident set and its peak at the level debug: once,
// and whenever ticks find the peak grown, until ctx ends. It is for machines whose
// memory the host reads anyway: how much an agent has is no secret there.
func tellMemory(ctx context.Context, log *slog.Logger, status string, ticks <-chan time.Time) {
	told := int64(0)
	for {
		resident, peak, err := memoryOf(status)
		if err != nil {
			log.Debug("the agent's memory can't be told", "error", err)
			return
		}
		if told == 0 || peak >= told+memoryStep {
			log.Debug("memory of the agent", "resident_kib", resident, "peak_kib", peak)
			told = peak
		}
		select {
		case <-ticks:
		case <-ctx.Done():
			return
		}
	}
}

// memoryOf reads a process's resident set and its peak, in KiB, from its status file
// (proc(5)).
func memoryOf(status string) (resident, peak int64, err error) {
	f, err := os.Open(status)
	if err != nil {
		return 0, 0, err
	}
	defer f.Close()
	return parseMemory(f)
}

func parseMemory(r io.Reader) (resident, peak int64, err error) {
	found := map[string]int64{}
	for lines := bufio.NewScanner(r); lines.Scan(); {
		name, value, _ := strings.Cut(lines.Text(), ":")
		if name != "VmRSS" && name != "VmHWM" {
			continue
		}
		n, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64)
		if err != nil {
			return 0, 0, fmt.Errorf("%s: %w", name, err)
		}
		found[name] = n
	}
	if len(found) != 2 {
		return 0, 0, fmt.Errorf("VmRSS and VmHWM are not both there")
	}
	return found["VmRSS"], found["VmHWM"], nil
}
