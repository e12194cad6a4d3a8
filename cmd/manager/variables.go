package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/ultravioletrs/cocos/internal/manager"
	"github.com/ultravioletrs/cocos/internal/vm"
)

// variable is one row of the table of configuration: docs/manager.md shows the
// same rows, and a test compares.
type variable struct {
	name string
	// kind says what is accepted; unit is that of a number.
	kind, unit string
	// fallback is what holds when the variable is unset; "" is nothing.
	fallback string
	// emulated takes its place where VMs are emulated; "": it does not.
	emulated string
	// emptyToo: an empty value is one.
	emptyToo bool
	// secret: a value may hold a password, and is never shown.
	secret bool
	effect string
	set    func(s *settings, value string) error
}

// prefix begins the names that belong to the Manager; a name of another
// beginning that is in the table is known by itself.
const prefix = "MANAGER_"

// settings are the values of all variables, before the host is looked at.
type settings struct {
	logLevel, logFormat              string
	instanceID, eosVersion           string
	serverAddress                    string
	serverTimeout                    time.Duration
	clientCert, clientKey, serverCAs string
	stateDir, imageDir               string
	controlSocket, controlGroup      string
	httpAddr                         string
	bootTimeout, stopGrace           time.Duration
	limits                           manager.Limits
	autoMemory                       bool // limits.MaxMemoryMiB is what the host has
	traceURL                         string
	traceRatio                       float64

	qemu, kvm string
	// machine is the VMs' hardware, as far as it is set by variables alone.
	machine        vm.Machine
	code, vars     vm.Flash
	disk           vm.Disk
	kernel, rootfs string
	forward        manager.Forward
	guestPort      uint16
	vsock          string
	ovmfVersion    string
	tee            teeSettings

	// emulate sets what is different where VMs are emulated.
	emulate []func(*settings)
	// given has the names of the variables that are set.
	given map[string]bool
	// printing: a command line is wanted and not a VM, so that what only a VM
	// needs of the host is worth a warning.
	printing bool
}

// parse reads environ, entries of the form NAME=value. It finds every fault:
// each names the variable, its value and what is accepted.
func parse(environ []string) (settings, error) {
	var (
		s     = settings{given: map[string]bool{}}
		errs  []error
		table = variables()
		given = map[string]string{}
	)
	for _, entry := range environ {
		name, value, _ := strings.Cut(entry, "=")
		known := slices.ContainsFunc(table, func(v variable) bool { return v.name == name })
		if known || strings.HasPrefix(name, prefix) {
			given[name] = value
		}
		if !known && strings.HasPrefix(name, prefix) {
			errs = append(errs, fmt.Errorf("%s=%q is not a variable of this version%s", name, withoutPassword(value), didYouMean(name, table)))
		}
	}
	for _, v := range table {
		value, isGiven := given[v.name]
		if isGiven {
			s.given[v.name] = true
		}
		switch {
		case isGiven && value == "" && !v.emptyToo:
			errs = append(errs, fmt.Errorf("%s is empty; unset it%s, or use %s", v.name, fallbackText(v), v.accepts()))
		case isGiven:
			err := v.set(&s, value)
			switch {
			case err != nil && v.secret:
				errs = append(errs, fmt.Errorf("%s is not valid (its value is not shown, as it may hold a password); expected %w", v.name, err))
			case err != nil:
				errs = append(errs, fmt.Errorf("%s=%q is not valid; expected %w", v.name, withoutPassword(value), err))
			}
		case v.fallback != "":
			if v.emulated != "" {
				s.emulate = append(s.emulate, func(s *settings) { _ = v.set(s, v.emulated) }) // a test sets each
			}
			if err := v.set(&s, v.fallback); err != nil {
				errs = append(errs, fmt.Errorf("%s: default %q: %w", v.name, v.fallback, err))
			}
		}
	}
	if (s.clientCert == "") != (s.clientKey == "") {
		errs = append(errs, errors.New("MANAGER_GRPC_CLIENT_CERT and MANAGER_GRPC_CLIENT_KEY go together; set both, or neither"))
	}
	if len(errs) == 0 {
		errs = s.consistent()
	}
	return s, errors.Join(errs...)
}

// consistent finds what can't go together.
func (s *settings) consistent() (errs []error) {
	fault := func(wrong bool, text string) {
		if wrong {
			errs = append(errs, errors.New(text))
		}
	}
	fault(s.forward.Preferred == 0 && s.forward.First == 0,
		`MANAGER_QEMU_HOST_FWD_AGENT="0" and MANAGER_QEMU_HOST_FWD_RANGE="none" leave no port for agents; set one of them`)
	fault(s.disk.Image != "" && (s.kernel != "" || s.rootfs != ""),
		"MANAGER_QEMU_DISK_IMG_FILE takes the place of MANAGER_QEMU_DISK_IMG_KERNEL_FILE and MANAGER_QEMU_DISK_IMG_ROOTFS_FILE; unset the one or the others")
	return append(errs, s.teeFaults()...)
}

// sized finds, once all defaults are settled, what is larger than its room.
func (s *settings) sized() (errs []error) {
	if m := s.machine; m.VCPUs > m.MaxVCPUs {
		errs = append(errs, fmt.Errorf(`MANAGER_QEMU_SMP_COUNT="%d" is more than MANAGER_QEMU_SMP_MAXCPUS="%d"; lower the one or raise the other`, m.VCPUs, m.MaxVCPUs))
	}
	if m := s.machine.Memory; m.Slots > 0 && m.MiB >= m.MaxMiB {
		errs = append(errs, fmt.Errorf(`MANAGER_QEMU_MEMORY_SIZE="%s" is not less than MANAGER_QEMU_MAX_MEMORY="%s"; lower the one or raise the other, or set MANAGER_QEMU_MEMORY_SLOTS=0`,
			sizeText(m.MiB), sizeText(m.MaxMiB)))
	}
	return errs
}

// withoutPassword is a value for a log: where it looks like a URL with user and
// password in it, these are left out.
func withoutPassword(value string) string {
	at := strings.LastIndexByte(value, '@')
	if at < 0 {
		return value
	}
	scheme := ""
	if i := strings.Index(value[:at], "://"); i >= 0 {
		scheme = value[:i+len("://")]
	}
	return scheme + "..." + value[at:]
}

func (v variable) accepts() string {
	if v.unit == "" {
		return v.kind
	}
	return v.kind + " (" + v.unit + ")"
}

func fallbackText(v variable) string {
	if v.fallback == "" {
		return ""
	}
	if v.emulated != "" {
		return " for the default, " + v.fallback + " (" + v.emulated + " where VMs are emulated)"
	}
	return " for the default, " + v.fallback
}

// didYouMean finds the name that is most like an unknown one.
func didYouMean(name string, table []variable) string {
	best, least := "", len(name)/3+1
	for _, v := range table {
		if d := distance(name, v.name); d < least {
			best, least = v.name, d
		}
	}
	if best == "" {
		return "; docs/manager.md lists them all"
	}
	return "; did you mean " + best + "?"
}

// distance counts the insertions, deletions and substitutions from a to b.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		diagonal := row[0]
		row[0] = i
		for j := 1; j <= len(b); j++ {
			substitute := diagonal
			if a[i-1] != b[j-1] {
				substitute++
			}
			diagonal = row[j]
			row[j] = min(substitute, row[j]+1, row[j-1]+1)
		}
	}
	return row[len(b)]
}
