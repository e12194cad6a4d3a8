package shim

import (
	"fmt"
	"log/slog"
	"os"

	"github.com/ultravioletrs/cocos/internal/vm"
	"github.com/ultravioletrs/cocos/internal/vsock"
)

// NewHost makes the host's end of the vsock in the way that spec asks for.
func NewHost(spec vm.Spec, dir vm.Dir, log *slog.Logger) (Host, []*os.File, error) {
	switch v := spec.Machine.Vsock; v.Way {
	case vm.VsockUser:
		h, err := vsock.NewUserHost(vsock.UserConfig{
			GuestCID: v.GuestCID, QEMUSocket: dir.VhostSocket(), BaseSocket: dir.VsockSocket(), Log: log,
		})
		if err != nil {
			return nil, nil, err
		}
		return h, nil, nil
	case vm.VsockKernel:
		h, err := vsock.NewKernelHost(v.GuestCID)
		if err != nil {
			return nil, nil, err
		}
		return h, []*os.File{h.Device()}, nil
	default:
		return nil, nil, fmt.Errorf("machine.vsock.way: is %q; expected %q or %q", v.Way, vm.VsockUser, vm.VsockKernel)
	}
}
