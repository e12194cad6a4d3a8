package config

import (
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
)

// What variables accept. Each function returns the setter of one field; its
// error says what is expected.

// OneOf takes one of these words.
func OneOf[S any](field func(*S) *string, values ...string) func(*S, string) error {
	return func(s *S, v string) error {
		if !slices.Contains(values, v) {
			return fmt.Errorf("one of %q", values)
		}
		*field(s) = v
		return nil
	}
}

// Path takes the path of a file or folder.
func Path[S any](field func(*S) *string) func(*S, string) error {
	return func(s *S, v string) error {
		if strings.ContainsAny(v, "\x00\n") {
			return errors.New("a path without line breaks")
		}
		*field(s) = v
		return nil
	}
}

// Duration takes Go's form of one, with its unit.
func Duration[S any](field func(*S) *time.Duration, least, most time.Duration) func(*S, string) error {
	return func(s *S, v string) error {
		d, err := time.ParseDuration(v)
		if err != nil || d < least || d > most {
			return fmt.Errorf("a duration with its unit from %v to %v, such as 90s", least, most)
		}
		*field(s) = d
		return nil
	}
}

// Number takes a whole number.
func Number[S any](field func(*S) *int, least, most int) func(*S, string) error {
	return func(s *S, v string) error {
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

// OrNone takes "none" as clear does, and else what set takes.
func OrNone[S any](clear func(*S), set func(*S, string) error) func(*S, string) error {
	return func(s *S, v string) error {
		if v == "none" {
			clear(s)
			return nil
		}
		if err := set(s, v); err != nil {
			return fmt.Errorf("%w, or none", err)
		}
		return nil
	}
}

// Choice takes one word for yes and one for no.
func Choice[S any](field func(*S) *bool, yes, no string) func(*S, string) error {
	return func(s *S, v string) error {
		if v != yes && v != no {
			return fmt.Errorf("%s or %s", yes, no)
		}
		*field(s) = v == yes
		return nil
	}
}

// Matching takes what a pattern matches.
func Matching[S any](field func(*S) *string, re *regexp.Regexp, wanted string) func(*S, string) error {
	return func(s *S, v string) error {
		if !re.MatchString(v) {
			return errors.New(wanted)
		}
		*field(s) = v
		return nil
	}
}

// hostRE is what names and addresses of hosts are made of; a zone follows '%'.
var hostRE = regexp.MustCompile(`^[A-Za-z0-9._:-]+(%[A-Za-z0-9._-]+)?$`)

// HostPort takes a server's name or address with its port.
func HostPort[S any](field func(*S) *string, example string) func(*S, string) error {
	return func(s *S, v string) error {
		host, port, err := net.SplitHostPort(v)
		if n, perr := ParsePort(port); err != nil || perr != nil || host == "" || n == 0 || !hostRE.MatchString(host) {
			return fmt.Errorf("HOST:PORT without a scheme, such as %s", example)
		}
		*field(s) = v
		return nil
	}
}

// ListenAddr takes an address of this host with its port.
func ListenAddr[S any](field func(*S) *string, example string) func(*S, string) error {
	return func(s *S, v string) error {
		if _, err := netip.ParseAddrPort(v); err != nil {
			return fmt.Errorf("an address of this host with its port, such as %s", example)
		}
		*field(s) = v
		return nil
	}
}

// TraceURL takes the address of an OTLP collector.
func TraceURL[S any](field func(*S) *string) func(*S, string) error {
	return func(s *S, v string) error {
		u, err := url.Parse(v)
		if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
			return errors.New("an http or https URL without user, password, query and fragment, such as http://localhost:4318/v1/traces; what the collector wants to know goes into OTEL_EXPORTER_OTLP_HEADERS")
		}
		*field(s) = v
		return nil
	}
}

// Ratio takes a number from 0 to 1.
func Ratio[S any](field func(*S) *float64) func(*S, string) error {
	return func(s *S, v string) error {
		f, err := strconv.ParseFloat(v, 64)
		if err != nil || !(f >= 0 && f <= 1) {
			return errors.New("a number from 0 to 1, such as 0.25")
		}
		*field(s) = f
		return nil
	}
}

// ParsePort reads a TCP port.
func ParsePort(v string) (uint16, error) {
	n, err := strconv.ParseUint(v, 10, 16)
	return uint16(n), err
}
