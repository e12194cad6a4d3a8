package manager

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	controlv1 "github.com/ultravioletrs/cocos/api/control/v1"
	eventv1 "github.com/ultravioletrs/cocos/api/event/v1"
	shimv1 "github.com/ultravioletrs/cocos/api/shim/v1"
	"github.com/ultravioletrs/cocos/internal/rpcerr"
	"github.com/ultravioletrs/cocos/internal/spool/events"
	"github.com/ultravioletrs/cocos/internal/telemetry"
	"github.com/ultravioletrs/cocos/internal/vm"
	"github.com/ultravioletrs/cocos/manifest"
)

// Status implements control.proto.
func (c *control) Status(context.Context, *controlv1.StatusRequest) (*controlv1.StatusResponse, error) {
	cfg := c.m.cfg
	now := c.m.watched.line.get()
	c.m.mu.Lock()
	used, draining := c.m.used(), c.m.draining
	c.m.mu.Unlock()
	s := &controlv1.StatusResponse{
		InstanceId: cfg.InstanceID, Version: cfg.Version, EosVersion: cfg.EOSVersion, OvmfVersion: cfg.OVMFVersion,
		ProtocolVersion: ControlVersion, Pid: uint32(os.Getpid()), Uptime: durationpb.New(time.Since(c.begun)),
		Draining: draining,
		Server:   &controlv1.Server{Address: cfg.Server.Address, Connected: now.connected, Since: timestamppb.New(now.since), LastError: telemetry.Clean(now.why, maxLine)},
		Qemu:     &controlv1.Qemu{Path: cfg.Host.Machine.QEMU, Version: cfg.QEMUVersion, Accelerator: cfg.Host.Machine.Accel},
		Images:   images(cfg.Host.Machine, cfg.Digests), StateDir: cfg.StateDir,
		Tee: string(cfg.Host.kind()), Tees: cfg.Host.TEEs(),
	}
	var disk unix.Statfs_t
	if err := unix.Statfs(cfg.StateDir, &disk); err != nil {
		return nil, refuse(codes.Internal, rpcerr.InternalFailure, "", "see to MANAGER_STATE_DIR", "asking for the free disk of %s: %v", cfg.StateDir, err)
	}
	s.DiskFree, s.DiskSize = disk.Bavail*uint64(disk.Bsize), disk.Blocks*uint64(disk.Bsize)
	l := cfg.Host.Limits
	s.Limits = []*controlv1.Limit{
		{Name: "vms", Used: uint64(used.vms), Limit: uint64(l.MaxVMs), Variable: "MANAGER_MAX_VMS"},
		{Name: "vcpus", Used: uint64(used.vcpus), Limit: uint64(l.MaxVCPUs), Variable: "MANAGER_MAX_VCPUS"},
		{Name: "memory", Unit: "bytes", Used: uint64(used.memoryMiB) << 20, Limit: uint64(l.MaxMemoryMiB) << 20, Variable: "MANAGER_MAX_VM_MEMORY"},
		{Name: "life", Unit: "seconds", Limit: uint64(l.MaxLife / time.Second), Variable: "MANAGER_MAX_TTL"},
		{Name: "free disk", Unit: "bytes", Used: s.DiskFree, Limit: uint64(l.MinFreeDisk), Variable: "MANAGER_MIN_FREE_DISK"},
	}
	if l.MaxScratch > 0 {
		scratch := &controlv1.Limit{Name: "scratch", Unit: "bytes", Used: uint64(used.scratch), Variable: "MANAGER_SCRATCH_MAX"}
		if l.MaxScratch != NoLimit {
			scratch.Limit = uint64(l.MaxScratch)
		}
		s.Limits = append(s.Limits, scratch)
	}
	return s, nil
}

// images are the files that a machine is made of. What can't be looked at now is
// there without a size.
func images(m vm.Machine, digests map[string]string) []*controlv1.Image {
	var out []*controlv1.Image
	add := func(role, path string) {
		if path == "" {
			return
		}
		image := &controlv1.Image{Role: role, Path: path, Sha256: digests[path]}
		if info, err := os.Stat(path); err == nil {
			image.Size = uint64(info.Size())
		}
		out = append(out, image)
	}
	add("kernel", m.Boot.Kernel)
	add("initrd", m.Boot.Initrd)
	if d := m.Boot.Disk; d != nil {
		add("disk", d.Image)
	}
	add("runtime", m.Runtime)
	add("measured firmware", m.Boot.BIOS)
	if f := m.Boot.Firmware; f != nil {
		add("firmware", f.Code.File)
		add("firmware variables", f.Vars.File)
	}
	return out
}

// List implements control.proto.
func (c *control) List(ctx context.Context, _ *controlv1.ListRequest) (*controlv1.ListResponse, error) {
	runs := c.all()
	slices.SortFunc(runs, func(a, b *run) int { return strings.Compare(a.id, b.id) })
	out := make([]*controlv1.Run, len(runs))
	var group sync.WaitGroup
	for i, r := range runs {
		group.Go(func() { out[i], _ = c.look(ctx, r) })
	}
	group.Wait()
	if err := ctx.Err(); err != nil {
		return nil, status.FromContextError(err).Err()
	}
	return &controlv1.ListResponse{Runs: out}, nil
}

// look is a run's view. Each asks a shim: callers of every connection together
// wait for maxLooks of them. Where ctx ends first it is empty.
func (c *control) look(ctx context.Context, r *run) (*controlv1.Run, *vm.Spec) {
	select {
	case c.looks <- struct{}{}:
		defer func() { <-c.looks }()
		return r.view(ctx)
	case <-ctx.Done():
		return &controlv1.Run{}, nil
	}
}

// Show implements control.proto.
func (c *control) Show(ctx context.Context, q *controlv1.ShowRequest) (*controlv1.ShowResponse, error) {
	r, err := c.find("run", q.GetRun())
	if err != nil {
		return nil, err
	}
	line, spec := c.look(ctx, r)
	if err := ctx.Err(); err != nil {
		return nil, status.FromContextError(err).Err()
	}
	out := &controlv1.ShowResponse{Run: line, Folder: string(r.dir), FolderSize: uint64(onDisk(string(r.dir)))}
	if spec != nil {
		out.Machine = machineView(*spec)
	}
	out.Events = r.seenEvents(ctx, line.GetShimAnswers())
	return out, nil
}

// spec is the run's specification, for people.
func (r *run) spec() (vm.Spec, error) {
	spec, err := vm.ReadSpec(r.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return spec, refuse(codes.FailedPrecondition, rpcerr.WrongState, "run", "its VM has ended; what is left is to deliver its events", "run %s is being removed", r.id)
	}
	if err != nil {
		return spec, refuse(codes.Internal, rpcerr.InternalFailure, "run", "repair or remove the file", "%v", err)
	}
	return spec, nil
}

// view is a run as people see it, and its specification if that is still there.
func (r *run) view(ctx context.Context) (*controlv1.Run, *vm.Spec) {
	out := &controlv1.Run{RunId: r.id, ManifestDigest: r.digest.String()}
	spec, err := vm.ReadSpec(r.dir)
	known := err == nil
	if known {
		m := spec.Machine
		out.Vcpus, out.Memory = uint32(m.VCPUs), uint64(m.Memory.MiB)<<20
		out.AgentAddress = m.Net.Forward.String()
		if f, err := manifest.Parse(spec.Manifest); err == nil {
			out.ComputationId, out.ComputationName = telemetry.Clean(f.ID, maxLine), telemetry.Clean(f.Name, maxLine)
		}
		if info, err := os.Stat(r.dir.Spec()); err == nil {
			out.Accepted = timestamppb.New(info.ModTime())
		}
	} else {
		out.AgentAddress = netip.AddrPortFrom(r.m.cfg.Host.Forward.Addr, r.port).String()
	}
	st, err := r.ask(ctx)
	out.Over = r.over.Load()
	switch {
	case err == nil:
		out.ShimAnswers, out.QemuPid, out.Unacknowledged = true, st.GetQemuPid(), st.GetUnacknowledged()
		if life := time.Duration(spec.Machine.Limits.Life) * time.Second; known && life > 0 && !out.Over {
			out.LifeLeft = durationpb.New(max(0, life-time.Duration(st.GetAgeSeconds())*time.Second))
		}
	case !out.Over: // else it has done its part, and may be gone
		out.ShimProblem = telemetry.Clean(err.Error(), maxLine)
	}
	out.State = string(r.lastState())
	out.Unacknowledged += r.own.Unacknowledged()
	if !known {
		return out, nil
	}
	return out, &spec
}

// ask asks the run's shim how its VM is.
func (r *run) ask(ctx context.Context) (*shimv1.StatusResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	c, err := dialShim(ctx, r.dir)
	if err != nil {
		return nil, err
	}
	defer c.conn.Close()
	state, err := c.status(ctx, r.id) // which checks whom it talks to
	if err != nil {
		return nil, err
	}
	r.setState(state)
	return c.api.Status(ctx, &shimv1.StatusRequest{})
}

func (r *run) lastState() vm.State {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.known
}

// machineView shows a specification. What is secret in one is not copied.
func machineView(spec vm.Spec) *controlv1.Machine {
	m, a := spec.Machine, spec.Agent
	out := &controlv1.Machine{
		Type: m.Type, Cpu: m.CPU, Accelerator: m.Accel, Vcpus: uint32(m.VCPUs), MaxVcpus: uint32(m.MaxVCPUs),
		Memory: uint64(m.Memory.MiB) << 20, Scratch: uint64(m.ScratchBytes), MaxMemory: uint64(m.Memory.MaxMiB) << 20,
		Qemu: m.QEMU, Sudo: m.Sudo, Images: images(m, nil), CommandLine: m.Boot.CommandLine,
		Vsock: string(m.Vsock.Way), GuestCid: m.Vsock.GuestCID, Forward: m.Net.Forward.String(),
		AgentPort: uint32(a.Port), AgentLogLevel: a.LogLevel, MutualTls: len(a.ClientCACerts) > 0,
		Approvals: uint32(len(spec.Approvals)), Trace: spec.Trace,
		ReadyLimit: seconds(m.Limits.Ready), StopLimit: seconds(m.Limits.Stop), LifeLimit: seconds(m.Limits.Life),
	}
	if t := m.TEE; t != nil {
		out.Tee, out.LaunchField = string(t.Kind), hex.EncodeToString(t.LaunchField)
	}
	if a.Address.IsValid() && a.Gateway.IsValid() {
		out.GuestAddress, out.GuestGateway = a.Address.String(), a.Gateway.String()
	}
	if block, _ := pem.Decode(a.ServerCert); block != nil {
		sum := sha256.Sum256(block.Bytes)
		out.ServerCertSha256 = hex.EncodeToString(sum[:])
	}
	return out
}

func seconds(n int) *durationpb.Duration {
	if n <= 0 {
		return nil
	}
	return durationpb.New(time.Duration(n) * time.Second)
}

// maxShown bounds the events of one answer, in bytes.
const maxShown = 1 << 20

// seenEvents are the last events of the run and all that wait, as far as they
// can be seen. Those that the guest told are shown as they came: whoever prints
// them quotes them.
func (r *run) seenEvents(ctx context.Context, shimAnswers bool) []*controlv1.SeenEvent {
	type key struct {
		source   eventv1.Source
		sequence uint64
	}
	found := map[key]*controlv1.SeenEvent{}
	note := func(e *eventv1.Event, waiting bool) {
		found[key{e.GetSource(), e.GetSequence()}] = &controlv1.SeenEvent{Event: e, Waiting: waiting}
	}
	for _, e := range r.m.watched.events(r.id) {
		// What waits with the shim or in the Manager's spool is looked up below.
		note(e, e.GetSource() != eventv1.Source_SOURCE_MANAGER && !shimAnswers && e.GetSequence() > r.theirs.acked(e.GetSource()))
	}
	if shimAnswers {
		for _, e := range r.waiting(ctx) {
			note(e, true)
		}
	}
	for reader := r.own.NewReader(); ; {
		record, ok, err := reader.TryNext()
		if err != nil || !ok {
			break
		}
		if e, err := events.Decode(record); err == nil {
			note(toProto(r.id, e), true)
		}
	}
	out := inOrder(slices.Collect(maps.Values(found)))
	size := 0
	for i := len(out) - 1; i >= 0; i-- {
		if size += proto.Size(out[i]); size > maxShown || len(out)-i > maxSeenEvents {
			return out[i+1:]
		}
	}
	return out
}

// inOrder puts the events of each source into their order, and those of several
// by their times as far as that allows: a source's clock may jump.
func inOrder(in []*controlv1.SeenEvent) []*controlv1.SeenEvent {
	queues := map[eventv1.Source][]*controlv1.SeenEvent{}
	for _, e := range in {
		s := e.GetEvent().GetSource()
		queues[s] = append(queues[s], e)
	}
	for _, q := range queues {
		slices.SortFunc(q, func(a, b *controlv1.SeenEvent) int {
			return cmp.Compare(a.GetEvent().GetSequence(), b.GetEvent().GetSequence())
		})
	}
	out := make([]*controlv1.SeenEvent, 0, len(in))
	for len(out) < len(in) {
		var first eventv1.Source
		for source, q := range queues {
			if len(q) == 0 {
				continue
			}
			f := queues[first]
			if len(f) == 0 {
				first = source
				continue
			}
			if c := q[0].GetEvent().GetTime().AsTime().Compare(f[0].GetEvent().GetTime().AsTime()); c < 0 || c == 0 && source > first {
				first = source
			}
		}
		out = append(out, queues[first][0])
		queues[first] = queues[first][1:]
	}
	return out
}

// waiting asks the shim for the events that are not acknowledged.
func (r *run) waiting(ctx context.Context) []*eventv1.Event {
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	var out []*eventv1.Event
	_ = r.watch(ctx, &shimv1.WatchRequest{Events: true}, func(w *shimv1.WatchResponse) error {
		if e := w.GetEvent(); e != nil && e.GetRunId() == r.id {
			out = append(out, e)
		}
		if len(out) > maxSeenEvents {
			return io.EOF
		}
		return nil
	})
	return out
}

// watch looks on at the run's shim until each, the shim or ctx ends it.
func (r *run) watch(ctx context.Context, q *shimv1.WatchRequest, each func(*shimv1.WatchResponse) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	dialCtx, dialled := context.WithTimeout(ctx, statusTimeout)
	defer dialled()
	c, err := dialShim(dialCtx, r.dir)
	if err != nil {
		return err
	}
	defer c.conn.Close()
	if _, err := c.status(dialCtx, r.id); err != nil {
		return err
	}
	stream, err := c.api.Watch(ctx, q)
	if err != nil {
		return fmt.Errorf("looking on at the shim: %w", err)
	}
	for {
		w, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("looking on at the shim: %w", err)
		}
		if err := each(w); err != nil {
			return err
		}
	}
}

// acked is the last event of source that the server has committed, with all
// before it, as far as it is known.
func (t *tracker) acked(source eventv1.Source) uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	if p := t.sources[source]; p != nil {
		return p.acked
	}
	return math.MaxUint64
}

// sorted are runs in the order of their ids.
func sorted(runs map[string]*run) []*run {
	return slices.SortedFunc(maps.Values(runs), func(a, b *run) int { return strings.Compare(a.id, b.id) })
}
