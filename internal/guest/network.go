package guest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/ultravioletrs/cocos/internal/vm"
)

// ipv6Off stops the kernel from believing the host's router advertisements.
const ipv6Off = "/proc/sys/net/ipv6/conf/all/disable_ipv6"

func loopback(context.Context) error {
	if err := os.WriteFile(ipv6Off, []byte("1\n"), 0); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("turning IPv6 off: %w", err)
	}
	s, err := openNetwork()
	if err != nil {
		return err
	}
	defer s.close()
	return s.up("lo")
}

// CheckNetwork refuses an address and a gateway that can't be those of a guest:
// IPv4 only, a network of 4 addresses or more, both of them hosts in it.
func CheckNetwork(address netip.Prefix, gateway netip.Addr) error {
	switch {
	case !address.IsValid():
		return errors.New("network.address is missing; expected one such as 10.0.2.15/24")
	case !address.Addr().Is4():
		return fmt.Errorf("network.address %s is not IPv4", address)
	case address.Bits() < 8 || address.Bits() > 30:
		return fmt.Errorf("network.address %s: want a prefix length of 8 to 30", address)
	case !isHost(address, address.Addr()):
		return fmt.Errorf("network.address %s is not the address of a host", address)
	case !gateway.IsValid():
		return nil
	case !isHost(address, gateway) || gateway == address.Addr():
		return fmt.Errorf("network.gateway %s is not another host in %s", gateway, address.Masked())
	}
	return nil
}

func isHost(network netip.Prefix, a netip.Addr) bool {
	return network.Contains(a) && a != network.Masked().Addr() && a != broadcast(network) &&
		!a.IsLoopback() && !a.IsMulticast() && !a.IsUnspecified() && !a.IsLinkLocalUnicast() && a.As4()[0] < 240
}

func broadcast(network netip.Prefix) netip.Addr {
	b := network.Masked().Addr().As4()
	for bit := network.Bits(); bit < 32; bit++ {
		b[bit/8] |= 0x80 >> (bit % 8)
	}
	return netip.AddrFrom4(b)
}

// ConfigureNetwork gives the guest's one interface its address, and a default
// route if there is a gateway.
func ConfigureNetwork(c vm.AgentConfig) error {
	if err := CheckNetwork(c.Address, c.Gateway); err != nil {
		return err
	}
	ifs, err := net.Interfaces()
	if err != nil {
		return fmt.Errorf("looking for the network interface: %w", err)
	}
	name, err := onlyInterface(ifs)
	if err != nil {
		return err
	}
	s, err := openNetwork()
	if err != nil {
		return err
	}
	defer s.close()
	mask := netip.AddrFrom4([4]byte(net.CIDRMask(c.Address.Bits(), 32)))
	if err := s.setAddr(name, "address", unix.SIOCSIFADDR, c.Address.Addr()); err != nil {
		return err
	}
	if err := s.setAddr(name, "netmask", unix.SIOCSIFNETMASK, mask); err != nil {
		return err
	}
	if err := s.up(name); err != nil {
		return err
	}
	if !c.Gateway.IsValid() {
		return nil
	}
	return s.defaultRoute(c.Gateway)
}

func onlyInterface(ifs []net.Interface) (string, error) {
	var names []string
	for _, i := range ifs {
		if i.Flags&net.FlagLoopback == 0 {
			names = append(names, i.Name)
		}
	}
	if len(names) != 1 {
		return "", fmt.Errorf("the VM has %d network interfaces %q; expected one", len(names), names)
	}
	return names[0], nil
}

// network is the socket that the calls of netdevice(7) want.
type network struct{ fd int }

func openNetwork() (network, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return network{}, fmt.Errorf("opening a socket to set up the network: %w", err)
	}
	return network{fd}, nil
}

func (s network) close() { _ = unix.Close(s.fd) }

func (s network) up(name string) error {
	ifr, err := unix.NewIfreq(name)
	if err == nil {
		err = unix.IoctlIfreq(s.fd, unix.SIOCGIFFLAGS, ifr)
	}
	if err == nil {
		ifr.SetUint16(ifr.Uint16() | unix.IFF_UP)
		err = unix.IoctlIfreq(s.fd, unix.SIOCSIFFLAGS, ifr)
	}
	if err != nil {
		return fmt.Errorf("bringing network interface %s up: %w", name, err)
	}
	return nil
}

func (s network) setAddr(name, what string, call uint, a netip.Addr) error {
	ifr, err := unix.NewIfreq(name)
	if err == nil {
		err = ifr.SetInet4Addr(a.AsSlice())
	}
	if err == nil {
		err = unix.IoctlIfreq(s.fd, call, ifr)
	}
	if err != nil {
		return fmt.Errorf("setting the %s of network interface %s to %s: %w", what, name, a, err)
	}
	return nil
}

// rtentry is struct rtentry of linux/route.h on 64-bit machines.
type rtentry struct {
	_                     uint64
	dst, gateway, genmask unix.RawSockaddrInet4
	flags                 uint16
	_                     int16
	_                     [4]byte
	_                     uint64
	_                     [8]byte // tos, class, padding
	metric                int16
	_                     [6]byte
	dev                   *byte
	mtu, window           uint64
	irtt                  uint16
	_                     [6]byte
}

// Flags of a route (linux/route.h).
const (
	rtfUp      = 0x1
	rtfGateway = 0x2
)

func (s network) defaultRoute(gateway netip.Addr) error {
	inet := unix.RawSockaddrInet4{Family: unix.AF_INET}
	r := rtentry{dst: inet, gateway: inet, genmask: inet, flags: rtfUp | rtfGateway}
	r.gateway.Addr = gateway.As4()
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(s.fd), unix.SIOCADDRT, uintptr(unsafe.Pointer(&r))); errno != 0 {
		return fmt.Errorf("setting the default route to %s: %w", gateway, errno)
	}
	return nil
}
