package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	managerv1 "github.com/ultravioletrs/cocos/api/manager/v1"
	shimv1 "github.com/ultravioletrs/cocos/api/shim/v1"
	"github.com/ultravioletrs/cocos/internal/qemu"
	"github.com/ultravioletrs/cocos/internal/vm"
	"github.com/ultravioletrs/cocos/manifest"
)

const (
	adoptedShims = 100
	streamVMs    = 20
	streamEvents = 500 // of each VM
	// bootsPerTurn is how many boots one figure is the median of.
	bootsPerTurn = 5
	fleetLimit   = 10 * time.Minute

	idleTime    = 20 * time.Second
	settleTime  = 5 * time.Second
	maxIdleRuns = 3
)

// adopt times a Manager that is started where an earlier one left 100 VMs: from
// before its process exists until the server has heard from it that all of them
// run, each as its shim says. Beside it: the same question asked of the same
// shims by a program that is running, all at once.
func adopt(ctx context.Context, l *lab) ([]row, error) {
	r := row{name: "adopt_100_shims", unit: "s", reference: "a bare client asks the same shims for their state"}
	err := l.withFleet(ctx, fleetLimit, newStopwatch(-1), func(ctx context.Context, f *fleet) error {
		if _, err := f.add(ctx, adoptedShims, "0"); err != nil {
			return err
		}
		for range l.runs {
			if err := f.manager.stop(); err != nil {
				return err
			}
			began := time.Now()
			if err := f.start(); err != nil {
				return err
			}
			hello, err := f.server.Hello(ctx, f.starts)
			if err != nil {
				return err
			}
			r.values = append(r.values, time.Since(began).Seconds())
			running := 0
			for _, run := range hello.GetRuns() {
				if run.GetState() == string(vm.Running) {
					running++
				}
			}
			if running != adoptedShims {
				return fmt.Errorf("the Manager found %d running VMs of %d", running, adoptedShims)
			}
			took, err := askShims(ctx, f)
			if err != nil {
				return err
			}
			r.referenceValues = append(r.referenceValues, took.Seconds())
		}
		return nil
	})
	return []row{r}, err
}

// askShims asks every shim of the fleet for its state.
func askShims(ctx context.Context, f *fleet) (time.Duration, error) {
	began := time.Now()
	errs := make([]error, len(f.runs))
	var all sync.WaitGroup
	for i, id := range f.runs {
		all.Go(func() { errs[i] = askShim(ctx, vm.DirOf(f.state(), id)) })
	}
	all.Wait()
	return time.Since(began), errors.Join(errs...)
}

func askShim(ctx context.Context, dir vm.Dir) error {
	conn, err := grpc.NewClient("unix:"+dir.ShimSocket(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	_, err = shimv1.NewShimServiceClient(conn).Status(ctx, &shimv1.StatusRequest{})
	return errors.Join(err, conn.Close())
}

// runToBoot times the host's own share of a boot: from before the server sends
// the run request until the shim's event that QEMU's monitor has answered, by
// the event's own time. Beside it: the same program started bare until its
// monitor has answered.
func runToBoot(ctx context.Context, l *lab) ([]row, error) {
	r := row{name: "run_to_boot", unit: "ms", reference: "the same stand-in for QEMU, started bare until its monitor answers"}
	err := l.withFleet(ctx, fleetLimit, newStopwatch(-1), func(ctx context.Context, f *fleet) error {
		if _, err := f.server.Hello(ctx, f.starts); err != nil {
			return err
		}
		for range l.runs {
			var boots, bare series
			for range bootsPerTurn {
				took, err := f.bootOnce(ctx)
				if err != nil {
					return err
				}
				boots = append(boots, took.Seconds()*1000)
				if took, err = bareBoot(ctx, l, f.qemu); err != nil {
					return err
				}
				bare = append(bare, took.Seconds()*1000)
			}
			r.values = append(r.values, boots.median())
			r.referenceValues = append(r.referenceValues, bare.median())
		}
		return nil
	})
	return []row{r}, err
}

// bootOnce runs one VM up to its boot, and ends it.
func (f *fleet) bootOnce(ctx context.Context) (time.Duration, error) {
	began := time.Now()
	added, err := f.add(ctx, 1, "0")
	if err != nil {
		return 0, err
	}
	booting, err := f.server.EventOfKind(ctx, added[0], vm.EventBooting)
	if err != nil {
		return 0, err
	}
	took := booting.GetTime().AsTime().Sub(began)
	return took, f.endAll(ctx)
}

// bareBoot starts the program with a console and a monitor, and kills it.
func bareBoot(ctx context.Context, l *lab, program string) (took time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	dir, err := os.MkdirTemp(l.dir, "bare-")
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	began := time.Now()
	var args []string
	var listeners []net.Listener
	for _, id := range []string{"console", "qmp"} {
		path := filepath.Join(dir, id)
		ln, err := net.Listen("unix", path)
		if err != nil {
			return 0, err
		}
		defer ln.Close()
		listeners = append(listeners, ln)
		if id == "qmp" {
			args = append(args, "-qmp", "unix:"+path)
		} else {
			args = append(args, "-chardev", "socket,id="+id+",path="+path)
		}
	}
	p, err := qemu.Start(qemu.Command{Path: program, Args: args, Dir: dir})
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, p.Kill()); <-p.Done() }()
	// A program that does not come this far must not be waited for.
	defer context.AfterFunc(ctx, func() { _ = listeners[1].Close() })()
	conn, err := listeners[1].Accept()
	if err != nil {
		return 0, fmt.Errorf("the monitor did not connect: %w", err)
	}
	monitor, err := qemu.NewQMP(ctx, conn, func(qemu.Event) {})
	if err != nil {
		return 0, err
	}
	return time.Since(began), monitor.Close()
}

// streams counts the events per second of 20 VMs at once, as the row
// events_per_second does for one.
func streams(ctx context.Context, l *lab) ([]row, error) {
	r := row{name: "stream_events_per_second", unit: "1/s", reference: "lines appended to a file, one fsync each"}
	for range min(l.runs, eventRuns) {
		seen := newStopwatch(streamVMs * streamEvents)
		err := l.withFleet(ctx, eventDeadline, seen, func(ctx context.Context, f *fleet) error {
			g, err := l.newGate()
			if err != nil {
				return err
			}
			defer g.close()
			if _, err := f.add(ctx, streamVMs, fmt.Sprintf("%d %s", streamEvents, l.path("gate"))); err != nil {
				return err
			}
			if err := g.open(ctx, streamVMs); err != nil {
				return err
			}
			select {
			case <-seen.done:
				r.values = append(r.values, seen.rate())
			case <-f.manager.done:
				return fmt.Errorf("the Manager ended: %w", f.manager.err)
			case <-ctx.Done():
				return fmt.Errorf("%w; %d of %d events came", context.Cause(ctx), seen.count(), seen.total)
			}
			rate, err := appendLines(filepath.Join(f.dir, "lines"))
			r.referenceValues = append(r.referenceValues, rate)
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return []row{r}, nil
}

// footprint measures what a Manager and a shim take on a host with one VM, whose
// agent waits for its inputs: memory, and CPU time while nothing happens.
func footprint(ctx context.Context, l *lab) (rows []row, err error) {
	bin, err := l.qemu(ctx)
	if err != nil {
		return nil, err
	}
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	owner, err := l.newParty()
	if err != nil {
		return nil, err
	}
	m, err := owner.manifest(manifest.Algorithm{Type: manifest.Binary, SHA256: sha256.Sum256([]byte("bench")), Size: 1})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, fleetLimit, fmt.Errorf("not done within %v", fleetLimit))
	defer cancel()
	dir, err := os.MkdirTemp(diskParent, "cocos-bench-")
	if err != nil {
		return nil, fmt.Errorf("making a folder on disk: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	s, err := startServer(dir, nil)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.stop()) }()
	manager, err := l.startManager("manager", dir, s, bin, "MANAGER_QEMU_HOST_FWD_AGENT="+strconv.Itoa(port))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, manager.stop()) }()
	runID := uuid.NewString()
	s.Submit(&managerv1.RunRequest{RunId: runID, Manifest: m.Raw})
	reply, _, err := s.Reply(ctx, runID)
	if err != nil {
		return nil, fmt.Errorf("%w; the Manager said: %s", err, manager.lastWords())
	}
	if faults := reply.GetRefusal().GetFaults(); len(faults) > 0 {
		return nil, fmt.Errorf("the Manager refused the run: %v", faults)
	}
	defer func() { err = errors.Join(err, s.end(context.WithoutCancel(ctx), runID)) }()
	if _, err := s.EventOfKind(ctx, runID, vm.EventReady); err != nil {
		return nil, fmt.Errorf("%w; the Manager said: %s", err, manager.lastWords())
	}
	booting, err := s.EventOfKind(ctx, runID, vm.EventBooting)
	if err != nil {
		return nil, err
	}
	shim, err := parentOf(booting.GetAttributes()["qemu_pid"])
	if err != nil {
		return nil, err
	}
	return idle(ctx, l, manager.pid(), shim)
}

// idle watches both while nothing happens.
func idle(ctx context.Context, l *lab, manager, shim int) ([]row, error) {
	rows := []row{
		{name: "manager_rss", unit: "MiB"}, {name: "shim_rss", unit: "MiB"}, {name: "shim_pss", unit: "MiB"},
		{name: "idle_cpu_manager", unit: "ms/s"}, {name: "idle_cpu_shim", unit: "ms/s"},
	}
	if err := pause(ctx, settleTime); err != nil {
		return nil, err
	}
	for range min(l.runs, maxIdleRuns) {
		var before, after [2]time.Duration
		for i, pid := range []int{manager, shim} {
			var err error
			if before[i], err = cpuTime(pid); err != nil {
				return nil, err
			}
		}
		began := time.Now()
		if err := pause(ctx, idleTime); err != nil {
			return nil, err
		}
		for i, pid := range []int{manager, shim} {
			var err error
			if after[i], err = cpuTime(pid); err != nil {
				return nil, err
			}
		}
		took := time.Since(began).Seconds()
		for i, what := range []struct {
			pid  int
			name string
		}{{manager, "Rss"}, {shim, "Rss"}, {shim, "Pss"}} {
			kib, err := statusKiB(fmt.Sprintf("/proc/%d/smaps_rollup", what.pid), what.name)
			if err != nil {
				return nil, err
			}
			rows[i].values = append(rows[i].values, float64(kib)/1024)
		}
		for i := range before {
			rows[3+i].values = append(rows[3+i].values, (after[i]-before[i]).Seconds()*1000/took)
		}
	}
	return rows, nil
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// cpuTime is what a process has used of all CPUs, by its own clock (the numbers
// of such clocks: clock_getcpuclockid(3)).
func cpuTime(pid int) (time.Duration, error) {
	const processClock = 2
	var t unix.Timespec
	if err := unix.ClockGettime(int32(^pid<<3|processClock), &t); err != nil {
		return 0, fmt.Errorf("reading the CPU time of process %d: %w", pid, err)
	}
	return time.Duration(t.Nano()), nil
}

// parentOf is the process that started this one.
func parentOf(pid string) (int, error) {
	b, err := os.ReadFile("/proc/" + pid + "/stat")
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(b), ") ") // state, parent, …
	fields := strings.Fields(rest)
	if len(fields) < 2 {
		return 0, fmt.Errorf("/proc/%s/stat: %q", pid, b)
	}
	return strconv.Atoi(fields[1])
}
