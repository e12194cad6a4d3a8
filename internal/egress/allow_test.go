package egress

import (
	"net/netip"
	"strings"
	"testing"
)

// TestPublic has the addresses of IANA's registries, at their edges where another
// kind begins.
func TestPublic(t *testing.T) {
	for address, want := range map[string]bool{
		"8.8.8.8": true, "1.1.1.1": true, "93.184.216.34": true, "223.255.255.255": true,
		"9.255.255.255": true, "11.0.0.0": true, "172.15.255.255": true, "172.32.0.0": true, "192.167.255.255": true, "192.169.0.0": true,
		"100.63.255.255": true, "100.128.0.0": true, "169.253.255.255": true, "198.17.255.255": true, "198.20.0.0": true,
		"0.0.0.0": false, "0.1.2.3": false, "10.0.0.0": false, "10.255.255.255": false, "172.16.0.0": false, "172.31.255.255": false,
		"192.168.0.0": false, "192.168.255.255": false, "100.64.0.0": false, "100.127.255.255": false, "127.0.0.1": false, "127.255.255.255": false,
		"168.63.129.15": true, "168.63.129.16": false, "168.63.129.17": true, "169.254.0.0": false, "169.254.169.254": false, "192.0.0.8": false, "192.0.2.1": false, "198.18.0.0": false, "198.19.255.255": false,
		"198.51.100.1": false, "203.0.113.1": false, "224.0.0.1": false, "239.255.255.255": false, "240.0.0.1": false, "255.255.255.255": false,
		"2606:4700::1111": true, "2a00:1450::1": true, "2001:200::1": true,
		"::": false, "::1": false, "::ffff:10.0.0.1": false, "::ffff:127.0.0.1": false, "::ffff:8.8.8.8": true, "::7f00:1": false,
		"fe80::1": false, "fe80::1%eth0": false, "2606:4700::1111%eth0": false, "fec0::1": false, "fc00::1": false, "fd00::1": false, "ff02::1": false,
		"2001:db8::1": false, "2001::1": false, "2001:10::1": false, "2002:7f00:1::": false, "3fff::1": false, "100::1": false, "4000::1": false,
		"64:ff9b::8.8.8.8": true, "64:ff9b::10.0.0.1": false, "64:ff9b::127.0.0.1": false, "64:ff9b::168.63.129.16": false, "64:ff9b:1::1": false,
	} {
		if got := (Allow{}).Address("h:1", netip.MustParseAddr(address)); got != want {
			t.Errorf("%s: %v, want %v", address, got, want)
		}
	}
	if (Allow{}).Address("h:1", netip.Addr{}) {
		t.Error("no address is allowed")
	}
}

func TestAllow(t *testing.T) {
	a := allow(t, "10.1.0.0/16", "fd00:1::/32", "MinIO.corp.example:9000", "[fd00:2::1]:443")
	for _, c := range []struct {
		server, address string
		want            bool
	}{
		{"h:1", "10.1.2.3", true},
		{"h:1", "::ffff:10.1.2.3", true},
		{"h:1", "10.2.0.0", false},
		{"h:1", "fd00:1::9", true},
		{"h:1", "fd00:2::1", false},
		{"minio.corp.example:9000", "192.168.7.7", true},
		{"minio.corp.example:9001", "192.168.7.7", false},
		{"[fd00:2::1]:443", "fd00:2::1", true},
	} {
		if got := a.Address(c.server, netip.MustParseAddr(c.address)); got != c.want {
			t.Errorf("%s at %s: %v, want %v", c.server, c.address, got, c.want)
		}
	}
	for _, e := range []string{"", "10.1.0.1/16", "10.1.0.0", "10.0.0.0/33", "h", "h:0", "h:65536", ":1", "http://h:1", "u@h:1", "[fe80::1%eth0]:1"} {
		if _, err := ParseAllow([]string{e}); err == nil || !strings.Contains(err.Error(), "HOST:PORT") {
			t.Errorf("%q: %v", e, err)
		}
	}
}

func TestOwnNetworks(t *testing.T) {
	own, err := ownNetworks()
	if err != nil || !near(netip.MustParseAddr("127.0.0.1"), own) {
		t.Errorf("loopback is not among %v, %v", own, err)
	}
}
