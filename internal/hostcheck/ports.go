package hostcheck

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/ultravioletrs/cocos/internal/vm"
)

const (
	portVar  = "MANAGER_QEMU_HOST_FWD_AGENT"
	rangeVar = "MANAGER_QEMU_HOST_FWD_RANGE"
	addrVar  = "MANAGER_QEMU_HOST_FWD_ADDR"
	httpVar  = "MANAGER_HTTP_ADDR"
)

// ports counts those that are free for agents.
func ports(ctx context.Context, h *host, c Config) []Finding {
	f := c.Forward
	own := ownPorts(c.StateDir)
	var free, ours, forbidden, taken int
	var preferred string
	try := func(p int) error {
		err := h.bind(net.JoinHostPort(f.Addr.String(), strconv.Itoa(p)))
		state := "free"
		switch {
		case err == nil:
			free++
		case errors.Is(err, unix.EADDRINUSE) && own[uint16(p)]:
			ours++
			state = "used by a VM of this Manager"
		case errors.Is(err, unix.EADDRINUSE):
			taken++
			state = "in use"
		case errors.Is(err, unix.EACCES):
			forbidden++
			state = "for root only"
		default:
			return err
		}
		if p == int(f.Preferred) {
			preferred = fmt.Sprintf("; %d is %s", p, state)
		}
		return nil
	}
	var err error
	if f.Preferred != 0 {
		err = try(int(f.Preferred))
	}
	for p := int(f.First); f.First != 0 && p <= int(f.Last) && err == nil && ctx.Err() == nil; p++ {
		if p != int(f.Preferred) {
			err = try(p)
		}
	}
	switch {
	case errors.Is(err, unix.EADDRNOTAVAIL):
		return fail(fmt.Sprintf("%s=%s is no address of this host", addrVar, f.Addr), "0.0.0.0, or one of `ip -br -4 addr`", "correct "+addrVar)
	case err != nil:
		return fail(fmt.Sprintf("binding a port of %s: %v", f.Addr, err), "ports for agents", "correct "+addrVar+" or "+rangeVar)
	case ctx.Err() != nil:
		return fail("trying the ports took too long", "an answer", "make "+rangeVar+" smaller")
	}
	all := free + ours + forbidden + taken
	found := fmt.Sprintf("%d of %d ports of %s for agents are free", free, all, f.Addr) + preferred
	if ours > 0 {
		found += fmt.Sprintf("; %d serve VMs of this Manager", ours)
	}
	mendUsed := fmt.Sprintf("set %s to a range that nobody uses; `ss -ltnp` shows who does", rangeVar)
	switch {
	case all == 0:
		return fail("there is none: "+portVar+" is 0 and "+rangeVar+" is none", "a port for each VM", "set "+rangeVar)
	case forbidden > 0 && free+ours == 0:
		return fail(found+fmt.Sprintf("; %d are for root only", forbidden), "ports from "+h.firstFreePort()+" on, for user "+h.user, "set "+rangeVar+" to higher ports")
	case free+ours == 0:
		return fail(found, "one at least", mendUsed)
	case forbidden > 0:
		return warn(found+fmt.Sprintf("; %d are for root only", forbidden), "ports from "+h.firstFreePort()+" on, for user "+h.user, "set "+rangeVar+" to higher ports")
	case c.Limits.MaxVMs > free+ours:
		return warn(found, fmt.Sprintf("%d, as MANAGER_MAX_VMS allows so many VMs", c.Limits.MaxVMs), mendUsed+"; or lower MANAGER_MAX_VMS")
	}
	if first, last, ok := h.ephemeral(); ok && f.First != 0 && int(f.First) <= last && int(f.Last) >= first {
		return warn(fmt.Sprintf("%s; %s=%d-%d meets the ports that this host gives to outgoing connections, %d-%d", found, rangeVar, f.First, f.Last, first, last),
			"a range beside them", fmt.Sprintf("sysctl -w net.ipv4.ip_local_reserved_ports=%d-%d; or set %s to lower ports", f.First, f.Last, rangeVar))
	}
	return ok(found)
}

// firstFreePort is the lowest that anybody may bind.
func (h *host) firstFreePort() string {
	if p := h.kernel("proc/sys/net/ipv4/ip_unprivileged_port_start"); p != "" {
		return p
	}
	return "1024"
}

// ephemeral is the range of ports for outgoing connections, unless it is
// reserved in some way.
func (h *host) ephemeral() (first, last int, ok bool) {
	if h.kernel("proc/sys/net/ipv4/ip_local_reserved_ports") != "" {
		return 0, 0, false // somebody has thought about it
	}
	n, err := fmt.Sscan(h.kernel("proc/sys/net/ipv4/ip_local_port_range"), &first, &last)
	return first, last, n == 2 && err == nil
}

// ownPorts are those of the VMs in the state directory.
func ownPorts(stateDir string) map[uint16]bool {
	own := map[uint16]bool{}
	entries, err := os.ReadDir(filepath.Join(stateDir, vm.VMsDir))
	if err != nil {
		return own // the row of the state directory tells
	}
	for _, e := range entries {
		if spec, err := vm.ReadSpec(vm.DirOf(stateDir, e.Name())); err == nil {
			own[spec.Machine.Net.Forward.Port()] = true
		}
	}
	return own
}

// httpPort looks at where health and metrics are served.
func httpPort(_ context.Context, h *host, c Config) []Finding {
	if c.HTTPAddr == "" {
		return info("health and metrics are not served (" + httpVar + "=none)")
	}
	addr, _, err := net.SplitHostPort(c.HTTPAddr)
	if err != nil {
		return fail(fmt.Sprintf("%s=%s: %v", httpVar, c.HTTPAddr, err), "ADDRESS:PORT", "correct "+httpVar)
	}
	name := httpVar + "=" + c.HTTPAddr
	if strings.Contains(addr, ":") {
		return info(name + ": an IPv6 address, not tried")
	}
	err = h.bind(c.HTTPAddr)
	pid, held := lockHolder(c.StateDir)
	switch {
	case errors.Is(err, unix.EADDRINUSE) && held:
		return ok(fmt.Sprintf("%s is in use, while a Manager runs (process %s)", name, pid))
	case errors.Is(err, unix.EADDRINUSE):
		return fail(name+" is in use", "a free port for health and metrics", "set "+httpVar+" to another, or to none; `ss -ltnp` shows who uses it")
	case err != nil:
		return fail(fmt.Sprintf("%s: %v", name, err), "an address of this host and a port that user "+h.user+" may bind", "correct "+httpVar)
	}
	if ip := net.ParseIP(addr); ip == nil || !ip.IsLoopback() {
		if addr != "localhost" {
			return warn(name+" is free, but others than this host may reach it, without TLS", "an address of loopback", "set "+httpVar+"=127.0.0.1:"+strconv.Itoa(vm.ManagerPort))
		}
	}
	return ok(name + " is free")
}
