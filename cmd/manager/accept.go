package main

import (
	"encoding/base64"
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/ultravioletrs/cocos/internal/config"
	"github.com/ultravioletrs/cocos/internal/egress"
	"github.com/ultravioletrs/cocos/internal/manager"
	"github.com/ultravioletrs/cocos/internal/qemu"
)

// What variables accept. Each function returns the setter of one field; its
// error says what is expected.

// bool variables spell their values as the documentation does.
func boolean(field func(*settings) *bool) func(*settings, string) error {
	return config.Choice(field, "true", "false")
}

func onOff(field func(*settings) *bool) func(*settings, string) error {
	return config.Choice(field, "on", "off")
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

var (
	wordRE = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._+~-]{0,127}$`)
	// nameRE is how QEMU spells ids.
	nameRE = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9._-]{0,63}$`)
	cpuRE  = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._+,=-]*$`)
	// groupRE is what groupadd(8) takes, and what directories have besides.
	groupRE = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._-]{0,63}$`)
	pciRE   = regexp.MustCompile(`^(0x)?[0-9a-f]{1,2}(\.[0-7])?$`)
)

func word(field func(*settings) *string) func(*settings, string) error {
	return config.Matching(field, wordRE, "letters, digits and '.', '_', '+', '~', '-', at most 128, beginning with a letter or digit")
}

func name(field func(*settings) *string) func(*settings, string) error {
	return config.Matching(field, nameRE, "letters, digits, '.', '_' and '-', at most 64, beginning with a letter")
}

func group(s *settings, v string) error {
	return config.Matching(func(s *settings) *string { return &s.controlGroup }, groupRE,
		"a group's name or number: letters, digits, '_', '.' and '-', at most 64")(s, v)
}

func cpu(s *settings, v string) error {
	return config.Matching(func(s *settings) *string { return &s.machine.CPU }, cpuRE,
		"a CPU model of QEMU's, such as max or EPYC (see qemu-system-x86_64 -cpu help)")(s, v)
}

func pciAddr(s *settings, v string) error {
	return config.Matching(func(s *settings) *string { return &s.machine.Net.Addr }, pciRE,
		"a PCI slot in hexadecimal with or without its function, such as 0x2 or 2.0")(s, v)
}

// httpAddr takes an address of this host, or none.
func httpAddr(s *settings, v string) error {
	field := func(s *settings) *string { return &s.httpAddr }
	return config.OrNone(func(s *settings) { s.httpAddr = "" }, config.ListenAddr(field, "127.0.0.1:9101"))(s, v)
}

func durationOrNone(field func(*settings) *time.Duration, least, most time.Duration) func(*settings, string) error {
	return config.OrNone(func(s *settings) { *field(s) = 0 }, config.Duration(field, least, most))
}

func numberOrNone(field func(*settings) *int, least, most int) func(*settings, string) error {
	return config.OrNone(func(s *settings) { *field(s) = 0 }, config.Number(field, least, most))
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

func scratchLimit(s *settings, v string) error {
	s.autoScratch, s.limits.MaxScratch = v == "auto", 0
	switch v {
	case "auto", "0":
		return nil
	case "none":
		s.limits.MaxScratch = manager.NoLimit
		return nil
	}
	n, err := sizeOf(v, 0, 64*mostMemory)
	if err != nil {
		return fmt.Errorf("%w, 0, auto or none", err)
	}
	s.limits.MaxScratch = int64(n) << 20
	return nil
}

func egressAllow(s *settings, v string) error {
	s.egressAllow = strings.Split(v, ",")
	for i, e := range s.egressAllow {
		s.egressAllow[i] = strings.TrimSpace(e)
	}
	if _, err := egress.ParseAllow(s.egressAllow); err != nil {
		return fmt.Errorf("networks and servers with commas, such as 10.1.0.0/16,minio.corp.example:9000 (%w)", err)
	}
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
	if err := config.Number(func(s *settings) *int { return &s.tee.cBitPos }, 1, 63)(s, v); err != nil {
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

func port(field func(*settings) *uint16, least uint16) func(*settings, string) error {
	return func(s *settings, v string) error {
		n, err := config.ParsePort(v)
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
	f, err1 := config.ParsePort(first)
	l, err2 := config.ParsePort(last)
	if !ok || err1 != nil || err2 != nil || f == 0 || l < f {
		return errors.New("FIRST-LAST, two TCP ports with the lower one first, such as 6100-6200, or none")
	}
	s.forward.First, s.forward.Last = f, l
	return nil
}
