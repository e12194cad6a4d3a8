package main

import (
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/ultravioletrs/cocos/internal/qemu"
)

// What variables accept. Each function returns the setter of one field; its
// error says what is expected.

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
			if least == most {
				return fmt.Errorf("%d, nothing else", least)
			}
			return fmt.Errorf("a whole number from %d to %d", least, most)
		}
		*field(s) = n
		return nil
	}
}

// bool variables spell their values as the documentation does.
func boolean(field func(*settings) *bool) func(*settings, string) error {
	return choice(field, "true", "false")
}

func onOff(field func(*settings) *bool) func(*settings, string) error {
	return choice(field, "on", "off")
}

// onOnly is for what may not be switched off.
func onOnly(field func(*settings) *bool) func(*settings, string) error {
	return func(s *settings, v string) error {
		if v != "on" {
			return errors.New("on, nothing else")
		}
		*field(s) = true
		return nil
	}
}

func choice(field func(*settings) *bool, yes, no string) func(*settings, string) error {
	return func(s *settings, v string) error {
		if v != yes && v != no {
			return fmt.Errorf("%s or %s", yes, no)
		}
		*field(s) = v == yes
		return nil
	}
}

var (
	wordRE = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._+~-]{0,127}$`)
	// nameRE is how QEMU spells ids.
	nameRE = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9._-]{0,63}$`)
	cpuRE  = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._+,=-]*$`)
	// hostRE is what names and addresses of hosts are made of; a zone follows '%'.
	hostRE = regexp.MustCompile(`^[A-Za-z0-9._:-]+(%[A-Za-z0-9._-]+)?$`)
	// groupRE is what groupadd(8) takes, and what directories have besides.
	groupRE = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._-]{0,63}$`)
	pciRE   = regexp.MustCompile(`^(0x)?[0-9a-f]{1,2}(\.[0-7])?$`)
)

func matching(field func(*settings) *string, re *regexp.Regexp, wanted string) func(*settings, string) error {
	return func(s *settings, v string) error {
		if !re.MatchString(v) {
			return errors.New(wanted)
		}
		*field(s) = v
		return nil
	}
}

func word(field func(*settings) *string) func(*settings, string) error {
	return matching(field, wordRE, "letters, digits and '.', '_', '+', '~', '-', at most 128, beginning with a letter or digit")
}

func name(field func(*settings) *string) func(*settings, string) error {
	return matching(field, nameRE, "letters, digits, '.', '_' and '-', at most 64, beginning with a letter")
}

func group(s *settings, v string) error {
	return matching(func(s *settings) *string { return &s.controlGroup }, groupRE,
		"a group's name or number: letters, digits, '_', '.' and '-', at most 64")(s, v)
}

func cpu(s *settings, v string) error {
	return matching(func(s *settings) *string { return &s.machine.CPU }, cpuRE,
		"a CPU model of QEMU's, such as max or EPYC (see qemu-system-x86_64 -cpu help)")(s, v)
}

func pciAddr(s *settings, v string) error {
	return matching(func(s *settings) *string { return &s.machine.Net.Addr }, pciRE,
		"a PCI slot in hexadecimal with or without its function, such as 0x2 or 2.0")(s, v)
}

func hostPort(field func(*settings) *string, example string) func(*settings, string) error {
	return func(s *settings, v string) error {
		host, port, err := net.SplitHostPort(v)
		if n, perr := parsePort(port); err != nil || perr != nil || host == "" || n == 0 || !hostRE.MatchString(host) {
			return fmt.Errorf("HOST:PORT without a scheme, such as %s", example)
		}
		*field(s) = v
		return nil
	}
}

func httpAddr(s *settings, v string) error {
	if v == "none" {
		s.httpAddr = ""
		return nil
	}
	if _, err := netip.ParseAddrPort(v); err != nil {
		return errors.New("an address of this host with its port, such as 127.0.0.1:9101, or none")
	}
	s.httpAddr = v
	return nil
}

func traceURL(s *settings, v string) error {
	u, err := url.Parse(v)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return errors.New("an http or https URL without user, password, query and fragment, such as http://localhost:4318/v1/traces; what the collector wants to know goes into OTEL_EXPORTER_OTLP_HEADERS")
	}
	s.traceURL = v
	return nil
}

func ratio(field func(*settings) *float64) func(*settings, string) error {
	return func(s *settings, v string) error {
		f, err := strconv.ParseFloat(v, 64)
		if err != nil || !(f >= 0 && f <= 1) {
			return errors.New("a number from 0 to 1, such as 0.25")
		}
		*field(s) = f
		return nil
	}
}

func durationOrNone(field func(*settings) *time.Duration, least, most time.Duration) func(*settings, string) error {
	return func(s *settings, v string) error {
		if v == "none" {
			*field(s) = 0
			return nil
		}
		if err := duration(field, least, most)(s, v); err != nil {
			return fmt.Errorf("%w, or none", err)
		}
		return nil
	}
}

func numberOrNone(field func(*settings) *int, least, most int) func(*settings, string) error {
	return func(s *settings, v string) error {
		if v == "none" {
			*field(s) = 0
			return nil
		}
		if err := number(field, least, most)(s, v); err != nil {
			return fmt.Errorf("%w, or none", err)
		}
		return nil
	}
}

// mostMemory and leastMemory bound a VM's memory, in MiB.
const leastMemory, mostMemory = 256, 16384 << 10

// sizeOf reads a number with M or G, in MiB.
func sizeOf(v string, least, most int) (int, error) {
	wrong := fmt.Errorf("a whole number with its unit M or G from %s to %s, such as 2048M", sizeText(least), sizeText(most))
	if v == "" {
		return 0, wrong
	}
	n, err := strconv.Atoi(v[:len(v)-1])
	if err != nil || n < 0 || n > most { // before it is multiplied
		return 0, wrong
	}
	switch v[len(v)-1] {
	case 'M':
	case 'G':
		n <<= 10
	default:
		return 0, wrong
	}
	if n < least || n > most {
		return 0, wrong
	}
	return n, nil
}

func sizeText(mib int) string {
	if mib >= 1<<10 && mib%(1<<10) == 0 {
		return fmt.Sprintf("%dG", mib>>10)
	}
	return fmt.Sprintf("%dM", mib)
}

func memory(field func(*settings) *int) func(*settings, string) error {
	return func(s *settings, v string) error {
		n, err := sizeOf(v, leastMemory, mostMemory)
		if err != nil {
			return err
		}
		*field(s) = n
		return nil
	}
}

func memoryLimit(s *settings, v string) error {
	s.autoMemory, s.limits.MaxMemoryMiB = v == "auto", 0
	if v == "auto" || v == "none" {
		return nil
	}
	n, err := sizeOf(v, leastMemory, 64*mostMemory)
	if err != nil {
		return fmt.Errorf("%w, auto or none", err)
	}
	s.limits.MaxMemoryMiB = n
	return nil
}

func freeDisk(s *settings, v string) error {
	n, err := sizeOf(v, 0, mostMemory)
	if err != nil {
		return err
	}
	s.limits.MinFreeDisk = int64(n) << 20
	return nil
}

func cid(s *settings, v string) error {
	n, err := strconv.ParseUint(v, 10, 32)
	if err != nil || n < 3 || n > 65534 {
		return errors.New("a whole number from 3 to 65534")
	}
	s.machine.Vsock.GuestCID = uint32(n)
	return nil
}

func forwardAddr(s *settings, v string) error {
	a, err := netip.ParseAddr(v)
	if err != nil || !a.Is4() {
		return errors.New("an IPv4 address of this host, such as 127.0.0.1")
	}
	s.forward.Addr = a
	return nil
}

// hostData checks the form; teeFaults says where it may be set.
func hostData(s *settings, v string) error {
	b, err := base64.StdEncoding.DecodeString(v)
	if err != nil || len(b) != 32 {
		return errors.New("32 bytes in Base64")
	}
	s.tee.hostData = b
	return nil
}

func cBitPos(s *settings, v string) error {
	s.tee.cBitPos = 0
	if v == "auto" {
		return nil
	}
	if err := number(func(s *settings) *int { return &s.tee.cBitPos }, 1, 63)(s, v); err != nil {
		return fmt.Errorf("%w, or auto", err)
	}
	return nil
}

// policyBits reads one of AMD's guest policies.
func policyBits(field func(*settings) *uint64) func(*settings, string) error {
	return func(s *settings, v string) error {
		n, err := strconv.ParseUint(v, 0, 64)
		if err != nil {
			return errors.New("the bits of a guest policy as a number, such as 0x30000")
		}
		*field(s) = n
		return nil
	}
}

func quoteService(s *settings, v string) error {
	if s.tee.quoteService = ""; v == "none" {
		return nil
	}
	if _, err := qemu.ParseQuoteService(v); err != nil {
		return errors.New("unix:/PATH, vsock:CID:PORT or none, such as unix:/var/run/tdx-qgs/qgs.socket or vsock:2:4050")
	}
	s.tee.quoteService = v
	return nil
}

func epcSize(s *settings, v string) (err error) {
	s.tee.epcMiB, err = sizeOf(v, 1, mostMemory)
	return err
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
