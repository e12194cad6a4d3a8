package guest

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// entropyDeadline bounds how long the kernel may take to fill its pool; with a
// CPU that has a source it is filled before the first process runs.
const entropyDeadline = 30 * time.Second

// entropy: no RDRAND, no boot. Every other source of a VM is the host's. The
// kernel's word counts, not CPUID's: the kernel tests the instruction and takes
// the flag away from a CPU whose RDRAND is broken.
func entropy(ctx context.Context) error {
	f, err := os.Open("/proc/cpuinfo")
	if err != nil {
		return fmt.Errorf("looking for RDRAND: %w", err)
	}
	defer f.Close()
	if err := checkRDRAND(f); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, entropyDeadline, errors.New("the kernel has no entropy"))
	defer cancel()
	ready := make(chan error, 1)
	// If the kernel never answers, this goroutine ends with the machine.
	go func() {
		_, err := unix.Getrandom(make([]byte, 32), 0)
		ready <- err
	}()
	select {
	case err := <-ready:
		if err != nil {
			return fmt.Errorf("getrandom: %w", err)
		}
		return nil
	case <-ctx.Done():
		return fmt.Errorf("waiting for entropy: %w", context.Cause(ctx))
	}
}

// checkRDRAND wants the flag on every CPU that cpuinfo lists.
func checkRDRAND(cpuinfo io.Reader) error {
	cpus := 0
	for s := bufio.NewScanner(cpuinfo); s.Scan(); {
		name, value, ok := strings.Cut(s.Text(), ":")
		if !ok || strings.TrimSpace(name) != "flags" {
			continue
		}
		if !slices.Contains(strings.Fields(value), "rdrand") {
			return fmt.Errorf("CPU %d has no RDRAND, and a VM has no other source of entropy that the host does not control; choose a CPU model with rdrand", cpus)
		}
		cpus++
	}
	if cpus == 0 {
		return errors.New("the kernel lists no CPU flags, so RDRAND is not known to be there")
	}
	return nil
}
