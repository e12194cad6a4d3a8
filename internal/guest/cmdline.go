package guest

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/ultravioletrs/cocos/hal"
	"github.com/ultravioletrs/cocos/hal/verity"
)

// ours is the prefix of the kernel parameters that are Cocos's own.
const ours = "cocos."

// CommandLine is what the kernel command line says to the guest.
type CommandLine struct {
	// Attested: it is that of an attested guest, word for word.
	Attested bool
	// Runtime is nil when no runtime disk is named.
	Runtime *verity.Params
}

// noConsole marks an attested guest: nobody reads what it says.
const noConsole = "console=null"

// firmwareWord is what OVMF adds to the command line of a kernel that it starts
// directly with an initial RAM disk: some builds put it first, others last.
const firmwareWord = "initrd=initrd"

// ParseCommandLine takes a kernel command line. Parameters whose name does not
// begin with "cocos." are the kernel's; of those that do, an unknown or
// repeated one and a malformed value are errors.
//
// One that asks for no console is an attested guest's, and must be what
// hal.CommandLine says and nothing else: a console, a debugger, a driver's
// parameter or another init would open it to the host. That it is measured,
// too, protects only participants whose policy lists no such measurement.
func ParseCommandLine(s string) (c CommandLine, err error) {
	words := strings.Fields(s)
	for _, word := range words {
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
	if !slices.Contains(words, noConsole) {
		return c, nil
	}
	if err := checkAttested(words, c.Runtime); err != nil {
		return CommandLine{}, fmt.Errorf("kernel command line: %w", err)
	}
	c.Attested = true
	return c, nil
}

// checkAttested names the first word that an attested guest's command line has
// not, or has elsewhere.
func checkAttested(words []string, runtime *verity.Params) error {
	if runtime == nil {
		return fmt.Errorf("%s is missing, which an attested guest (%s) has", hal.RuntimeParameter, noConsole)
	}
	want := strings.Fields(hal.CommandLine(hal.Image{Python: hal.Disk{Verity: hal.NewVerity(*runtime)}}, true))
	if n := len(words) - 1; n == len(want) {
		switch firmwareWord {
		case words[0]:
			words = words[1:]
		case words[n]:
			words = words[:n]
		}
	}
	for i, word := range words {
		if i >= len(want) || word != want[i] {
			return fmt.Errorf("%q has no place in that of an attested guest (%s)", word, noConsole)
		}
	}
	if len(words) < len(want) {
		return fmt.Errorf("%q is missing, which an attested guest (%s) has", want[len(words)], noConsole)
	}
	return nil
}

func (m *Machine) commandLine(context.Context) error {
	b, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return fmt.Errorf("reading the kernel command line: %w", err)
	}
	m.CommandLine, err = ParseCommandLine(string(b))
	return err
}
