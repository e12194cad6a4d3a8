package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	eventv1 "github.com/ultravioletrs/cocos/api/event/v1"
	shimv1 "github.com/ultravioletrs/cocos/api/shim/v1"
	"github.com/ultravioletrs/cocos/hal"
	"github.com/ultravioletrs/cocos/internal/qemu"
	"github.com/ultravioletrs/cocos/internal/vm"
	"github.com/ultravioletrs/cocos/manifest"
)

// machine is the VM that a Manager starts by default on this host.
func machine(ctx context.Context, l *lab) (vm.Machine, error) {
	bin, err := l.qemu(ctx)
	if err != nil {
		return vm.Machine{}, err
	}
	img, err := hal.Load(imageDir)
	if err != nil {
		return vm.Machine{}, err
	}
	dir, err := filepath.Abs(imageDir)
	if err != nil {
		return vm.Machine{}, err
	}
	m := vm.Emulated()
	m.QEMU, m.Runtime = bin, filepath.Join(dir, img.Python.Name)
	m.Boot = vm.Boot{
		Kernel:      filepath.Join(dir, img.Kernel.Name),
		Initrd:      filepath.Join(dir, img.Initrd.Name),
		CommandLine: hal.CommandLine(img, false),
	}
	if usable, _ := qemu.KVMUsable(ctx, bin); usable {
		m.Accel = vm.AccelKVM
	}
	return m, nil
}

// shimVM is a VM in a shim of its own, with this program in the Manager's place.
type shimVM struct {
	process *process
	dir     vm.Dir
	forward netip.AddrPort // where the agent is reached
	conn    *grpc.ClientConn
	client  shimv1.ShimServiceClient
	events  chan *eventv1.Event // as they come; closed when the stream ends
	cancel  context.CancelFunc
	follow  sync.WaitGroup
}

// startVM starts the shim of a VM that computes m.
func (l *lab) startVM(ctx context.Context, hardware vm.Machine, m manifest.Frozen) (v *shimVM, err error) {
	return l.startVMIn(ctx, l.dir, hardware, m, "info")
}

// startVMIn is startVM with a folder below parent, and an agent that logs from a
// level on.
func (l *lab) startVMIn(ctx context.Context, parent string, hardware vm.Machine, m manifest.Frozen, level string) (v *shimVM, err error) {
	v = &shimVM{events: make(chan *eventv1.Event, 64)}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("starting a VM: %w", err), v.end(ctx))
			v = nil
		}
	}()
	folder, err := os.MkdirTemp(parent, "vm-")
	if err != nil {
		return v, err
	}
	v.dir = vm.Dir(folder)
	port, err := freePort()
	if err != nil {
		return v, err
	}
	v.forward = netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), uint16(port))
	hardware.Net.Forward = v.forward
	err = vm.WriteSpec(v.dir, vm.Spec{
		RunID: uuid.NewString(), Manifest: m.Raw, Machine: hardware,
		Agent: vm.AgentConfig{Port: vm.AgentPort, LogLevel: level, Address: qemu.DefaultAddress, Gateway: qemu.DefaultGateway},
	})
	if err != nil {
		return v, err
	}
	if v.process, err = l.start("shim", nil, managerBinary, "shim", folder); err != nil {
		return v, err
	}
	return v, v.connect(ctx)
}

// connect follows the shim's events and acknowledges each.
func (v *shimVM) connect(ctx context.Context) error {
	var err error
	v.conn, err = grpc.NewClient("unix:"+v.dir.ShimSocket(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	v.client = shimv1.NewShimServiceClient(v.conn)
	if err := v.awaitSocket(ctx); err != nil {
		return err
	}
	ctx, v.cancel = context.WithCancel(ctx)
	stream, err := v.client.Follow(ctx)
	if err != nil {
		return err
	}
	if err := stream.Send(&shimv1.FollowRequest{}); err != nil {
		return err
	}
	v.follow.Go(func() {
		defer close(v.events)
		for {
			m, err := stream.Recv()
			if err != nil || m.GetDrained() != nil {
				return
			}
			e := m.GetEvent()
			if e == nil {
				continue
			}
			if err := stream.Send(&shimv1.FollowRequest{Source: e.GetSource(), Sequence: e.GetSequence()}); err != nil && !errors.Is(err, io.EOF) {
				return
			}
			select {
			case v.events <- e:
			case <-ctx.Done():
				return
			}
		}
	})
	return nil
}

// awaitSocket waits until the shim listens.
func (v *shimVM) awaitSocket(ctx context.Context) error {
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		if _, err := os.Stat(v.dir.ShimSocket()); err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-v.process.done:
			return fmt.Errorf("the shim ended: %v: %s", v.process.err, v.process.lastWords())
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// await returns the next event of a kind.
func (v *shimVM) await(ctx context.Context, kind string) (*eventv1.Event, error) {
	for {
		select {
		case e, ok := <-v.events:
			switch {
			case !ok:
				return nil, fmt.Errorf("the shim ended before %s came: %s", kind, v.process.lastWords())
			case e.GetKind() == kind:
				return e, nil
			case e.GetKind() == vm.EventExited, e.GetKind() == vm.EventSilent:
				return nil, fmt.Errorf("%s came instead of %s: %s %v", e.GetKind(), kind, e.GetMessage(), e.GetAttributes())
			}
		case <-ctx.Done():
			return nil, fmt.Errorf("waiting for %s: %w", kind, context.Cause(ctx))
		}
	}
}

// end ends the VM, then its shim, and removes their folder.
func (v *shimVM) end(ctx context.Context) error {
	var errs []error
	if v.process != nil {
		// Asked to end, a shim ends its VM first.
		errs = append(errs, v.process.stop())
	}
	if v.cancel != nil {
		v.cancel()
	}
	v.follow.Wait()
	if v.conn != nil {
		errs = append(errs, v.conn.Close())
	}
	if v.dir != "" {
		errs = append(errs, os.RemoveAll(string(v.dir)))
	}
	return errors.Join(errs...)
}
