package vsock

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"unsafe"

	"github.com/mdlayher/vsock"
	"golang.org/x/sys/unix"
)

const (
	kernelDevice = "/dev/vhost-vsock"
	setGuestCID  = 0x4008af60 // ioctl VHOST_VSOCK_SET_GUEST_CID, of a 64-bit CID

	firstCID = 3         // 0 to 2 have meanings of their own
	lastCID  = 1<<16 - 2 // with 1<<16 - 1 a port could become "any port"
	cidTries = 1000
)

// KernelHost is the host's end over the kernel's /dev/vhost-vsock.
type KernelHost struct {
	cid uint32

	mu        sync.Mutex
	device    *os.File // holds the CID; nil once released
	closed    bool
	listeners map[*kernelListener]struct{}
}

var _ Host = (*KernelHost)(nil)

// KernelAvailable says why the kernel's way can't be used, or nil. It opens
// the device and asks for AF_VSOCK.
func KernelAvailable() error {
	f, err := openKernelDevice(kernelDevice)
	if err != nil {
		return err
	}
	f.Close()
	fd, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("the kernel's vsock sockets can't be used: %w: load the module: modprobe vsock", err)
	}
	unix.Close(fd)
	return nil
}

func openKernelDevice(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, kernelDeviceError(err)
	}
	return f, nil
}

// kernelDeviceError says what to do about an error of opening the device.
func kernelDeviceError(err error) error {
	hint := "look at the kernel's log (dmesg)"
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENXIO):
		hint = "load the module: modprobe vhost_vsock"
	case errors.Is(err, fs.ErrPermission):
		hint = "let this user open it: as a rule, make it a member of the group kvm"
	}
	return fmt.Errorf("the kernel's vsock can't be used: %w: %s, or choose the built-in device with MANAGER_QEMU_VSOCK=user", err, hint)
}

// NewKernelHost reserves a guest CID on this host: the one given, or with 0 a
// free one. The CID stays reserved until Close or ReleaseCID.
func NewKernelHost(guestCID uint32) (*KernelHost, error) {
	if guestCID != 0 && (guestCID < firstCID || guestCID > lastCID) {
		return nil, fmt.Errorf("guest CID %d: must be from %d to %d, or 0 for a free one", guestCID, firstCID, lastCID)
	}
	f, err := openKernelDevice(kernelDevice)
	if err != nil {
		return nil, err
	}
	cid, err := reserve(guestCID, func(cid uint32) error { return setCID(f, cid) })
	if err != nil {
		f.Close()
		return nil, err
	}
	return &KernelHost{cid: cid, device: f, listeners: map[*kernelListener]struct{}{}}, nil
}

// reserve finds a CID that try accepts.
func reserve(want uint32, try func(uint32) error) (uint32, error) {
	if want != 0 {
		if err := try(want); err != nil {
			if errors.Is(err, unix.EADDRINUSE) {
				return 0, fmt.Errorf("guest CID %d is used by another VM of this host: %w", want, err)
			}
			return 0, fmt.Errorf("reserving guest CID %d: %w", want, err)
		}
		return want, nil
	}
	// From a random place: two managers that start at once hardly meet.
	at := rand.Uint32N(lastCID - firstCID + 1)
	for i := range uint32(cidTries) {
		cid := firstCID + (at+i)%(lastCID-firstCID+1)
		err := try(cid)
		if err == nil {
			return cid, nil
		}
		if !errors.Is(err, unix.EADDRINUSE) {
			return 0, fmt.Errorf("reserving guest CID %d: %w", cid, err)
		}
	}
	return 0, fmt.Errorf("no free guest CID among %d tried: is this host running that many VMs?", cidTries)
}

func setCID(f *os.File, cid uint32) error {
	v := uint64(cid)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), setGuestCID, uintptr(unsafe.Pointer(&v))); errno != 0 {
		return errno
	}
	return nil
}

// GuestCID is the reserved CID, for QEMU's guest-cid.
func (h *KernelHost) GuestCID() uint32 { return h.cid }

// Device is the open device that holds the CID, for QEMU's vhostfd; nil after
// ReleaseCID or Close. It stays the host's: do not close it.
func (h *KernelHost) Device() *os.File {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.device
}

// ReleaseCID lets go of the CID so that a QEMU which can't inherit Device (one
// started through sudo) can take it by number. Another VM may take it first:
// QEMU then fails, and says so.
func (h *KernelHost) ReleaseCID() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.device == nil {
		return nil
	}
	f := h.device
	h.device = nil
	return f.Close()
}

// Listen implements Host.
func (h *KernelHost) Listen(port uint32) (net.Listener, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return nil, fmt.Errorf("listening on vsock port %d: %w", port, net.ErrClosed)
	}
	wire := PortFor(h.cid, port)
	l, err := vsock.ListenContextID(anyCID, wire, nil)
	if err != nil {
		return nil, fmt.Errorf("listening on vsock port %d (%d for guest CID %d): %w", wire, port, h.cid, err)
	}
	kl := &kernelListener{peerListener: peerListener{deadlineListener: l, cid: h.cid}, h: h}
	h.listeners[kl] = struct{}{}
	return kl, nil
}

// Dial implements Host. While the guest's driver is not up the kernel refuses
// or times out after two seconds.
func (h *KernelHost) Dial(ctx context.Context, port uint32) (net.Conn, error) {
	c, err := vsock.DialContext(ctx, h.cid, port, nil)
	if err != nil {
		return nil, fmt.Errorf("dialing port %d of the guest with CID %d over vsock: %w", port, h.cid, err)
	}
	return c, nil
}

// Close ends the listeners and releases the CID. Connections end with the VM.
func (h *KernelHost) Close() error {
	h.mu.Lock()
	h.closed = true
	ls := h.listeners
	h.listeners = nil
	h.mu.Unlock()
	var errs []error
	for l := range ls {
		errs = append(errs, l.deadlineListener.Close())
	}
	return errors.Join(append(errs, h.ReleaseCID())...)
}

// kernelListener is forgotten by its host when it is closed.
type kernelListener struct {
	peerListener
	h *KernelHost
}

// Close stops listening.
func (l *kernelListener) Close() error {
	l.h.mu.Lock()
	delete(l.h.listeners, l)
	l.h.mu.Unlock()
	return l.deadlineListener.Close()
}
