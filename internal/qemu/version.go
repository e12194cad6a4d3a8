package qemu

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"regexp"
	"strconv"
	"time"

	"github.com/ultravioletrs/cocos/internal/vm"
)

// Variable names the environment variable that says which QEMU to use.
const Variable = "MANAGER_QEMU_BIN_PATH"

// Version is QEMU's.
type Version struct{ Major, Minor, Micro int }

func (v Version) String() string { return fmt.Sprintf("%d.%d.%d", v.Major, v.Minor, v.Micro) }

// AtLeast compares with major.minor.
func (v Version) AtLeast(major, minor int) bool {
	return v.Major > major || v.Major == major && v.Minor >= minor
}

// probeTimeout bounds `qemu --version` on a busy machine.
const probeTimeout = 30 * time.Second

var versionLine = regexp.MustCompile(`^QEMU emulator version (\d{1,4})\.(\d{1,4})(?:\.(\d{1,4}))?`)

// Probe asks bin, a path or a name on PATH, for its version. A binary that is
// missing, is not QEMU or is too old for any use is an error that says what to
// set.
func Probe(ctx context.Context, bin string) (Version, error) {
	path, err := exec.LookPath(bin)
	if err != nil {
		return Version{}, fmt.Errorf("%s=%q: QEMU is missing: %w; install qemu-system-x86 (%s) or set %s to its path", Variable, bin, err, accepted, Variable)
	}
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, path, "--version")
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.WaitDelay = time.Second
	if err := cmd.Run(); err != nil {
		return Version{}, fmt.Errorf("%s=%q: asking %s for its version: %w%s; expected %s", Variable, bin, path, err, quoted(stderr.Bytes()), accepted)
	}
	v, err := parseVersion(stdout.Bytes())
	if err != nil {
		return Version{}, fmt.Errorf("%s=%q: %s is not QEMU: %w; expected %s", Variable, bin, path, err, accepted)
	}
	if !v.AtLeast(7, 2) {
		return v, fmt.Errorf("%s=%q: %s is QEMU %s, which is too old; expected %s", Variable, bin, path, v, accepted)
	}
	return v, nil
}

const accepted = "QEMU 7.2 or later, 10 or later where there is no KVM"

// Warning says what is wrong with using this version with accel, or "". Below 10
// emulation crashes guests with Linux 6.12 now and then.
func (v Version) Warning(accel string) string {
	if accel != vm.AccelTCG || v.AtLeast(10, 0) {
		return ""
	}
	return fmt.Sprintf("QEMU %s crashes emulated guests now and then; set %s to QEMU 10 or later (make qemu fetches one)", v, Variable)
}

func parseVersion(out []byte) (Version, error) {
	m := versionLine.FindSubmatch(out)
	if m == nil {
		return Version{}, errors.New("it answers" + quoted(out))
	}
	var v Version
	for i, p := range []*int{&v.Major, &v.Minor, &v.Micro} {
		if len(m[i+1]) > 0 {
			n, err := strconv.Atoi(string(m[i+1]))
			if err != nil {
				return Version{}, err
			}
			*p = n
		}
	}
	return v, nil
}

// quoted shows the start of a program's output in an error.
func quoted(b []byte) string {
	b = bytes.TrimSpace(b)
	if len(b) == 0 {
		return " nothing"
	}
	return fmt.Sprintf(" %.200q", b)
}
