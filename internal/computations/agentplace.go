package computations

import (
	"net"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
)

var (
	agentHost = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9.:-]{0,252}$`)
	agentKey  = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)
)

// IsAgentAddress tells whether s is a host and a port, and nothing that means more
// in a shell or on a page.
func IsAgentAddress(s string) bool {
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		return false
	}
	if _, err := netip.ParseAddr(host); (err != nil || strings.Contains(host, "%")) && !agentHost.MatchString(host) {
		return false
	}
	n, err := strconv.ParseUint(port, 10, 16)
	return err == nil && n > 0
}

// IsAgentKey tells whether s names a key as agents do: "sha256:", and the digest
// in hexadecimal.
func IsAgentKey(s string) bool { return agentKey.MatchString(s) }
