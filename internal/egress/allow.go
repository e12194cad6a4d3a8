package egress

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// Allow is what a host's operator allows beside the public Internet. The zero value
// allows nothing more.
type Allow struct {
	networks []netip.Prefix
	servers  []string
}

// ParseAllow reads entries that are networks ("10.1.0.0/16"), whose addresses may be
// connected to, or servers ("minio.corp.example:9000"), which may be at any address.
func ParseAllow(entries []string) (Allow, error) {
	var a Allow
	for _, e := range entries {
		if n, err := netip.ParsePrefix(e); err == nil && n == n.Masked() {
			a.networks = append(a.networks, n)
			continue
		}
		host, port, err := net.SplitHostPort(e)
		n, portErr := strconv.ParseUint(port, 10, 16)
		if err != nil || portErr != nil || n == 0 || host == "" || strings.ContainsAny(host, "/@%") {
			return Allow{}, fmt.Errorf("%q is neither a network such as 10.1.0.0/16, all bits beyond its prefix 0, nor a server as HOST:PORT", e)
		}
		a.servers = append(a.servers, strings.ToLower(e))
	}
	return a, nil
}

// Address tells whether address, which is not one of this host's networks, may be
// connected to as server, HOST:PORT in lower case.
func (a Allow) Address(server string, address netip.Addr) bool {
	address = address.Unmap()
	return a.named(server, address) || public(address)
}

func (a Allow) named(server string, address netip.Addr) bool {
	return slices.Contains(a.servers, server) ||
		slices.ContainsFunc(a.networks, func(n netip.Prefix) bool { return n.Contains(address) })
}

// near tells whether an address is this host's own or of a network that the host is
// connected to, of which own are the host's addresses: they may be trusted there
// more than one from afar.
func near(address netip.Addr, own []netip.Prefix) bool {
	to := reached(address)
	return slices.ContainsFunc(own, func(n netip.Prefix) bool { return n.Contains(address) || n.Contains(to) })
}

// special are the networks of IANA's registries of special-purpose addresses that
// are not global, those within 2000::/3 that lead elsewhere (Teredo and 6to4
// carry an IPv4 address), and the one global address that every VM of Azure's reaches
// its own host at (WireServer).
var special = prefixes(
	"0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "168.63.129.16/32", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24", "192.0.2.0/24",
	"192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4",
	"2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20",
)

var (
	globalIPv6 = netip.MustParsePrefix("2000::/3")
	// nat64 is RFC 6052's: the last four bytes are an IPv4 address.
	nat64 = netip.MustParsePrefix("64:ff9b::/96")
)

// reached is where a connection to an address ends: behind NAT64, at an IPv4 address.
func reached(a netip.Addr) netip.Addr {
	if !nat64.Contains(a) {
		return a
	}
	b := a.As16()
	return netip.AddrFrom4([4]byte(b[12:]))
}

// public tells whether an address is one of the public Internet.
func public(a netip.Addr) bool {
	if !a.IsValid() || a.Zone() != "" {
		return false
	}
	a = reached(a)
	if a.Is6() && !globalIPv6.Contains(a) {
		return false
	}
	return !slices.ContainsFunc(special, func(n netip.Prefix) bool { return n.Contains(a) })
}

func prefixes(texts ...string) []netip.Prefix {
	out := make([]netip.Prefix, len(texts))
	for i, t := range texts {
		out[i] = netip.MustParsePrefix(t)
	}
	return out
}
