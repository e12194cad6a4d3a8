package qemu

import (
	"fmt"
	"strings"

	"github.com/ultravioletrs/cocos/internal/vm"
)

// Pasteable is CommandLine for a person to run by hand: without the descriptor
// that QEMU inherits from its owner with the kernel's vsock. QEMU then opens
// /dev/vhost-vsock itself.
func Pasteable(spec vm.Spec, dir vm.Dir) []string {
	argv := CommandLine(spec, dir)
	for i, a := range argv {
		if i > 0 && argv[i-1] == "-device" && strings.HasPrefix(a, "vhost-vsock-pci,") {
			argv[i] = strings.TrimSuffix(a, fmt.Sprintf(",vhostfd=%d", VhostFD))
		}
	}
	return argv
}

// Shell writes a command for sh. Words are quoted where they must be, with
// single quotes alone: what is logged in double quotes can be pasted as it is.
// Only a single quote in a word takes double quotes.
func Shell(argv []string) string {
	words := make([]string, len(argv))
	for i, a := range argv {
		words[i] = shellWord(a, i == 0)
	}
	return strings.Join(words, " ")
}

// plain are the bytes besides letters and digits that mean nothing to sh.
const plain = "-_./,:=+@%"

func shellWord(w string, first bool) string {
	bare := w != "" && !(first && strings.Contains(w, "=")) // an assignment
	for i := range len(w) {
		c := w[i]
		letter := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
		bare = bare && (letter || strings.IndexByte(plain, c) >= 0)
	}
	if bare {
		return w
	}
	return "'" + strings.ReplaceAll(w, "'", `'"'"'`) + "'"
}
