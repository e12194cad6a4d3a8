package guest

import (
	"context"
	"fmt"
	"os"
	"strings"

	"github.com/ultravioletrs/cocos/hal"
	"github.com/ultravioletrs/cocos/hal/verity"
)

// ours is the prefix of the kernel parameters that are Cocos's own.
const ours = "cocos."

// CommandLine is what the kernel command line says to the guest.
type CommandLine struct {
	// Runtime is nil when no runtime disk is named.
	Runtime *verity.Params
}

// ParseCommandLine takes a kernel command line. Parameters whose name does not
// begin with "cocos." are the kernel's; of those that do, an unknown or
// repeated one and a malformed value are errors.
func ParseCommandLine(s string) (c CommandLine, err error) {
	for _, word := range strings.Fields(s) {
		name, value, _ := strings.Cut(word, "=")
		if !strings.HasPrefix(strings.Trim(name, `"`), ours) {
			continue
		}
		switch name {
		case hal.RuntimeParameter:
			if c.Runtime != nil {
				return CommandLine{}, fmt.Errorf("kernel command line: %s is given twice", name)
			}
			p, err := verity.Parse(value)
			if err != nil {
				return CommandLine{}, fmt.Errorf("kernel command line: %s: %w", name, err)
			}
			c.Runtime = &p
		default:
			return CommandLine{}, fmt.Errorf("kernel command line: %s is not a parameter of this image (it knows %s)", name, hal.RuntimeParameter)
		}
	}
	return c, nil
}

func (m *Machine) commandLine(context.Context) error {
	b, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return fmt.Errorf("reading the kernel command line: %w", err)
	}
	m.CommandLine, err = ParseCommandLine(string(b))
	return err
}
