package main

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
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
	effect   string
	set      func(s *settings, value string) error
}

const prefix = "MANAGER_"

// settings are the values of all variables, before the host is looked at.
type settings struct {
	logLevel, instanceID             string
	serverAddress                    string
	serverTimeout                    time.Duration
	clientCert, clientKey, serverCAs string
	stateDir, imageDir               string
	bootTimeout                      time.Duration
	qemu, kvm, cpu                   string
	vcpus, memoryMiB                 int
	kernel, rootfs                   string
	forward                          manager.Forward
	guestPort                        uint16
	vsock                            string
	guestCID                         uint32
}

const yesNo = "auto, true or false"

// variables is the table.
func variables() []variable {
	return []variable{
		{"MANAGER_LOG_LEVEL", "debug, info, warn or error", "", "info", "Least level of the lines that are logged.",
			oneOf(func(s *settings) *string { return &s.logLevel }, manager.LogLevels()...)},
		{"MANAGER_INSTANCE_ID", "text", "", "", "Name of this Manager for the server and in logs; unset: the host's name.",
			func(s *settings, v string) error {
				if !regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$`).MatchString(v) {
					return errors.New("letters, digits, '.', '_' and '-', at most 128, beginning with a letter or digit")
				}
				s.instanceID = v
				return nil
			}},
		{"MANAGER_GRPC_URL", "HOST:PORT", "", "localhost:7001", "The computations server. The connection is always TLS 1.3.",
			func(s *settings, v string) error {
				host, port, err := net.SplitHostPort(v)
				if n, perr := parsePort(port); err != nil || perr != nil || host == "" || n == 0 || strings.Contains(host, "/") {
					return errors.New("HOST:PORT without a scheme, such as server.example.org:7001")
				}
				s.serverAddress = v
				return nil
			}},
		{"MANAGER_GRPC_TIMEOUT", "duration", "Go duration, 100ms to 10m", "60s", "How long connecting and greeting may take.",
			duration(func(s *settings) *time.Duration { return &s.serverTimeout }, 100*time.Millisecond, 10*time.Minute)},
		{"MANAGER_GRPC_CLIENT_CERT", "file", "", "", "PEM certificate that this Manager shows to the server; unset: none.",
			path(func(s *settings) *string { return &s.clientCert })},
		{"MANAGER_GRPC_CLIENT_KEY", "file", "", "", "PEM private key of that certificate.",
			path(func(s *settings) *string { return &s.clientKey })},
		{"MANAGER_GRPC_SERVER_CA_CERTS", "file", "", "", "PEM certificates of the authorities that the server's certificate must come from; unset: those that this system trusts.",
			path(func(s *settings) *string { return &s.serverCAs })},
		{"MANAGER_STATE_DIR", "folder", "", "", "Where running VMs are kept; unset: `cmd/manager/tmp` in the source tree, else `/var/lib/cocos`. It must be short, as unix sockets lie in it: a path that is too long is refused.",
			path(func(s *settings) *string { return &s.stateDir })},
		{"MANAGER_IMAGE_DIR", "folder", "", "", "The guest image with its `image.json`; unset: `cmd/manager/img` in the source tree, else `/var/lib/cocos/img`.",
			path(func(s *settings) *string { return &s.imageDir })},
		{"MANAGER_BOOT_TIMEOUT", "duration", "Go duration, 1s to 1h", "5m", "How long a VM may take until its agent reports; then it is ended.",
			duration(func(s *settings) *time.Duration { return &s.bootTimeout }, time.Second, time.Hour)},
		{"MANAGER_QEMU_BIN_PATH", "program", "", "qemu-system-x86_64", "QEMU: a path, or a name to look for in PATH. 7.2 or later; 10 or later without KVM.",
			path(func(s *settings) *string { return &s.qemu })},
		{"MANAGER_QEMU_ENABLE_KVM", yesNo, "", "auto", "`auto`: KVM where a test guest runs under it, else emulation with a warning. `true`: refuse to start without.",
			oneOf(func(s *settings) *string { return &s.kvm }, "auto", "true", "false")},
		{"MANAGER_QEMU_CPU", "text", "", "max", "CPU model of the VMs, as QEMU names it.",
			func(s *settings, v string) error {
				if !regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._+,=-]*$`).MatchString(v) {
					return errors.New("a CPU model of QEMU's, such as max or EPYC (see qemu-system-x86_64 -cpu help)")
				}
				s.cpu = v
				return nil
			}},
		{"MANAGER_QEMU_SMP_COUNT", "number", "virtual CPUs, 1 to 512", "1", "Virtual CPUs of each VM. Emulated VMs boot fastest with one.",
			number(func(s *settings) *int { return &s.vcpus }, 1, 512)},
		{"MANAGER_QEMU_MEMORY_SIZE", "size", "number with M or G, 256M to 16384G", "2048M", "Memory of each VM; inputs and results lie in it, too.",
			memory},
		{"MANAGER_QEMU_DISK_IMG_KERNEL_FILE", "file", "", "", "Kernel instead of the image's `bzImage`.",
			path(func(s *settings) *string { return &s.kernel })},
		{"MANAGER_QEMU_DISK_IMG_ROOTFS_FILE", "file", "", "", "Initial RAM disk instead of the image's `rootfs.cpio.gz`.",
			path(func(s *settings) *string { return &s.rootfs })},
		{"MANAGER_QEMU_HOST_FWD_AGENT", "number", "TCP port, 0 to 65535", "7020", "Host port of an agent, while it is free; 0: only the range.",
			port(func(s *settings) *uint16 { return &s.forward.Preferred }, 0)},
		{"MANAGER_QEMU_HOST_FWD_RANGE", "range", "TCP ports, FIRST-LAST", "6100-6200", "Host ports of the agents of further VMs, one each; `none`: no further VMs.",
			portRange},
		{"MANAGER_QEMU_HOST_FWD_ADDR", "address", "IPv4", "0.0.0.0", "Address of this host on which agents are reached; 0.0.0.0: every one.",
			func(s *settings, v string) error {
				a, err := netip.ParseAddr(v)
				if err != nil || !a.Is4() {
					return errors.New("an IPv4 address of this host, such as 127.0.0.1")
				}
				s.forward.Addr = a
				return nil
			}},
		{"MANAGER_QEMU_GUEST_FWD_AGENT", "number", "TCP port, 1 to 65535", "7002", "Port of the agent in the VM, unless a run request names another.",
			port(func(s *settings) *uint16 { return &s.guestPort }, 1)},
		{"MANAGER_QEMU_VSOCK", "auto, kernel or user", "", "auto", "Host's side of the VMs' vsock: the kernel's `/dev/vhost-vsock`, or the device built into the shim. `auto`: the kernel's where it can be used.",
			oneOf(func(s *settings) *string { return &s.vsock }, "auto", string(vm.VsockKernel), string(vm.VsockUser))},
		{"MANAGER_QEMU_VSOCK_GUEST_CID", "number", "context id, 3 to 65534", "3", "First guest CID to use; with the kernel's vsock the first one from there that is free.",
			func(s *settings, v string) error {
				n, err := strconv.ParseUint(v, 10, 32)
				if err != nil || n < 3 || n > 65534 {
					return errors.New("a whole number from 3 to 65534")
				}
				s.guestCID = uint32(n)
				return nil
			}},
	}
}

// parse reads environ, entries of the form NAME=value. It finds every fault:
// each names the variable, its value and what is accepted.
func parse(environ []string) (settings, error) {
	var (
		s     settings
		errs  []error
		table = variables()
		given = map[string]string{}
	)
	for _, entry := range environ {
		name, value, _ := strings.Cut(entry, "=")
		if !strings.HasPrefix(name, prefix) {
			continue
		}
		given[name] = value
		if !slices.ContainsFunc(table, func(v variable) bool { return v.name == name }) {
			errs = append(errs, fmt.Errorf("%s=%q is not a variable of this version%s", name, value, didYouMean(name, table)))
		}
	}
	for _, v := range table {
		value, isGiven := given[v.name]
		switch {
		case isGiven && value == "":
			errs = append(errs, fmt.Errorf("%s is empty; unset it%s, or use %s", v.name, fallbackText(v), v.accepts()))
		case isGiven:
			if err := v.set(&s, value); err != nil {
				errs = append(errs, fmt.Errorf("%s=%q is not valid; expected %w", v.name, value, err))
			}
		case v.fallback != "":
			if err := v.set(&s, v.fallback); err != nil {
				errs = append(errs, fmt.Errorf("%s: default %q: %w", v.name, v.fallback, err))
			}
		}
	}
	if s.forward.Preferred == 0 && s.forward.First == 0 && len(errs) == 0 {
		errs = append(errs, errors.New(`MANAGER_QEMU_HOST_FWD_AGENT="0" and MANAGER_QEMU_HOST_FWD_RANGE="none" leave no port for agents; set one of them`))
	}
	if (s.clientCert == "") != (s.clientKey == "") {
		errs = append(errs, errors.New("MANAGER_GRPC_CLIENT_CERT and MANAGER_GRPC_CLIENT_KEY go together; set both, or neither"))
	}
	return s, errors.Join(errs...)
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

func oneOf(field func(*settings) *string, values ...string) func(*settings, string) error {
	return func(s *settings, v string) error {
		if !slices.Contains(values, v) {
			return fmt.Errorf("one of %q", values)
		}
		*field(s) = v
		return nil
	}
}

func path(field func(*settings) *string) func(*settings, string) error {
	return func(s *settings, v string) error {
		if strings.ContainsAny(v, "\x00\n") {
			return errors.New("a path without line breaks")
		}
		*field(s) = v
		return nil
	}
}

func duration(field func(*settings) *time.Duration, least, most time.Duration) func(*settings, string) error {
	return func(s *settings, v string) error {
		d, err := time.ParseDuration(v)
		if err != nil || d < least || d > most {
			return fmt.Errorf("a duration with its unit from %v to %v, such as 90s", least, most)
		}
		*field(s) = d
		return nil
	}
}

func number(field func(*settings) *int, least, most int) func(*settings, string) error {
	return func(s *settings, v string) error {
		n, err := strconv.Atoi(v)
		if err != nil || n < least || n > most {
			return fmt.Errorf("a whole number from %d to %d", least, most)
		}
		*field(s) = n
		return nil
	}
}

func memory(s *settings, v string) error {
	const least, most = 256, 16384 << 10
	wrong := errors.New("a whole number with its unit M or G from 256M to 16384G, such as 2048M")
	if v == "" {
		return wrong
	}
	n, err := strconv.Atoi(v[:len(v)-1])
	if err != nil || n > most {
		return wrong
	}
	switch v[len(v)-1] {
	case 'M':
	case 'G':
		n <<= 10
	default:
		return wrong
	}
	if n < least || n > most {
		return wrong
	}
	s.memoryMiB = n
	return nil
}

func parsePort(v string) (uint16, error) {
	n, err := strconv.ParseUint(v, 10, 16)
	return uint16(n), err
}

func port(field func(*settings) *uint16, least uint16) func(*settings, string) error {
	return func(s *settings, v string) error {
		n, err := parsePort(v)
		if err != nil || n < least {
			return fmt.Errorf("a TCP port from %d to 65535", least)
		}
		*field(s) = n
		return nil
	}
}

func portRange(s *settings, v string) error {
	if v == "none" {
		s.forward.First, s.forward.Last = 0, 0
		return nil
	}
	first, last, ok := strings.Cut(v, "-")
	f, err1 := parsePort(first)
	l, err2 := parsePort(last)
	if !ok || err1 != nil || err2 != nil || f == 0 || l < f {
		return errors.New("FIRST-LAST, two TCP ports with the lower one first, such as 6100-6200, or none")
	}
	s.forward.First, s.forward.Last = f, l
	return nil
}
