package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"

	managerv1 "github.com/ultravioletrs/cocos/api/manager/v1"
	"github.com/ultravioletrs/cocos/internal/vm"
	"github.com/ultravioletrs/cocos/manifest"
)

// fleet is a Manager with simulated VMs: its shims are the product's, in place
// of QEMU runs fakeqemu.
type fleet struct {
	l       *lab
	dir     string // on a disk
	qemu    string
	server  *sampleServer
	manager *process
	starts  int
	party   party
	runs    []string
}

// atOnce is how many requests are under way at a time.
const atOnce = 8

// withFleet gives do a Manager without a VM, and ends all that is there when do
// returns.
func (l *lab) withFleet(ctx context.Context, limit time.Duration, seen *stopwatch, do func(context.Context, *fleet) error) (err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("not done within %v", limit))
	defer cancel()
	f := &fleet{l: l, qemu: l.path("fakeqemu")}
	if err := buildProgram(ctx, f.qemu, "./test/bench/fakeqemu"); err != nil {
		return err
	}
	if f.party, err = l.newParty(); err != nil {
		return err
	}
	if f.dir, err = os.MkdirTemp(diskParent, "cocos-bench-"); err != nil {
		return fmt.Errorf("making a folder on disk: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(f.dir)) }()
	if f.server, err = startServer(f.dir, seen.watch); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.server.stop()) }()
	if err := f.start(); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.manager.stop()) }()
	defer func() { err = errors.Join(err, f.endAll(context.WithoutCancel(ctx))) }()
	if err := do(ctx, f); err != nil {
		return fmt.Errorf("%w; the Manager said: %s", err, f.manager.lastWords())
	}
	return nil
}

// start starts a Manager on the fleet's state directory.
func (f *fleet) start() (err error) {
	f.starts++
	f.manager, err = f.l.startManager(fmt.Sprintf("manager%d", f.starts), f.dir, f.server, f.qemu,
		"MANAGER_QEMU_ENABLE_KVM=false", "MANAGER_QEMU_MEMORY_SIZE=256M",
		"MANAGER_MAX_VMS=200", "MANAGER_MAX_VM_MEMORY=none", "MANAGER_MIN_FREE_DISK=1M",
		"MANAGER_QEMU_HOST_FWD_AGENT=0", "MANAGER_QEMU_HOST_FWD_RANGE=20000-21999")
	return err
}

// add asks for n VMs whose guests do what orders says (see fakeqemu), and waits
// until their agents are ready.
func (f *fleet) add(ctx context.Context, n int, orders string) ([]string, error) {
	m, err := f.party.describe(orders, manifest.Algorithm{Type: manifest.Binary, SHA256: sha256.Sum256([]byte("bench")), Size: 1})
	if err != nil {
		return nil, err
	}
	added := make([]string, n)
	for i := range added {
		added[i] = uuid.NewString()
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(atOnce)
	for _, id := range added {
		group.Go(func() error {
			f.server.Submit(&managerv1.RunRequest{RunId: id, Manifest: m.Raw})
			reply, _, err := f.server.Reply(ctx, id)
			if err != nil {
				return err
			}
			if faults := reply.GetRefusal().GetFaults(); len(faults) > 0 {
				return fmt.Errorf("the Manager refused a run: %v", faults)
			}
			_, err = f.server.EventOfKind(ctx, id, vm.EventReady)
			return err
		})
	}
	err = group.Wait()
	for _, id := range added {
		if f.server.Offered(id) {
			f.runs = append(f.runs, id)
		}
	}
	return added, err
}

// endAll ends every VM and waits until nothing is left of them.
func (f *fleet) endAll(ctx context.Context) error {
	var group errgroup.Group
	group.SetLimit(atOnce)
	for _, id := range f.runs {
		group.Go(func() error { return f.server.end(ctx, id) })
	}
	f.runs = nil
	return group.Wait()
}

// state is the Manager's state directory.
func (f *fleet) state() string { return filepath.Join(f.dir, "s") }

// gate holds up the guests of a fleet until all are there.
type gate struct {
	listener net.Listener
	waiting  []net.Conn
}

func (l *lab) newGate() (*gate, error) {
	path := l.path("gate")
	listener, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("making a gate: %w", err)
	}
	return &gate{listener: listener}, nil
}

// open waits for n guests and lets them go.
func (g *gate) open(ctx context.Context, n int) error {
	defer context.AfterFunc(ctx, func() { _ = g.listener.Close() })()
	for range n {
		c, err := g.listener.Accept()
		if err != nil {
			return errors.Join(fmt.Errorf("%d of %d guests came to the gate", len(g.waiting), n), context.Cause(ctx), err)
		}
		g.waiting = append(g.waiting, c)
	}
	return g.close()
}

func (g *gate) close() error {
	for _, c := range g.waiting {
		_ = c.Close()
	}
	g.waiting = nil
	if err := g.listener.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}
