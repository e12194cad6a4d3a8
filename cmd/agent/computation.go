package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/ultravioletrs/cocos/attest"
	"github.com/ultravioletrs/cocos/attest/tsm"
	"github.com/ultravioletrs/cocos/internal/agent"
	"github.com/ultravioletrs/cocos/internal/agent/journal"
	"github.com/ultravioletrs/cocos/internal/agent/session"
	"github.com/ultravioletrs/cocos/internal/guest"
	"github.com/ultravioletrs/cocos/internal/runtime"
	"github.com/ultravioletrs/cocos/internal/scratch"
	"github.com/ultravioletrs/cocos/internal/source"
	"github.com/ultravioletrs/cocos/internal/version"
	"github.com/ultravioletrs/cocos/internal/vm"
	"github.com/ultravioletrs/cocos/keys"
	"github.com/ultravioletrs/cocos/manifest"
)

const (
	// dialDeadline bounds how long a VM waits for its shim and its launch.
	dialDeadline = 2 * time.Minute
	// flushDeadline bounds how long the last events may take to the shim's disk.
	flushDeadline = 10 * time.Second
)

// computation is one run from the session's opening to its end, in a VM or in
// a process.
type computation struct {
	dial session.Dialer
	// reports is where the host of a VM with the simulated TEE makes them; nil:
	// there is none.
	reports session.Dialer
	// servers connects to datasets' sources; nil: a net.Dialer does.
	servers source.Dial
	// detect finds the machine's TEE, or tsm.ErrNone.
	detect func() (attest.Attester, error)
	// checkGuest says whether this machine may run the manifest; nil in a process.
	checkGuest func(*manifest.Frozen) error
	// findScratch finds the disk that the manifest asks for; nil in a process, which
	// keeps everything in its folder.
	findScratch func(context.Context, *manifest.Manifest) (*scratch.Disk, error)
	// tell writes a line for whoever looks at the console.
	tell    func(format string, args ...any)
	log     *slog.Logger
	level   *slog.LevelVar
	journal *journal.Journal

	session *session.Session
	launch  session.Launch
	// attester is nil where nothing vouches for the machine.
	attester attest.Attester
	closeTEE func() error
	// scratch is nil where inputs stay in the agent's folder.
	scratch agent.Scratch
}

func newComputation(dial session.Dialer, console io.Writer) *computation {
	tell := func(format string, args ...any) { guest.Say(console, format, args...) }
	c := &computation{
		dial: dial, detect: tsm.Detect, tell: tell, level: new(slog.LevelVar), journal: journal.New(time.Now),
		closeTEE: func() error { return nil },
	}
	c.log = slog.New(c.journal.Handler(c.level))
	return c
}

// phases are those that a VM and a process have in common, up to the network.
func (c *computation) phases() []guest.Phase {
	return []guest.Phase{
		{Name: "session", Run: c.open},
		{Name: "attested guest", Run: func(context.Context) error {
			if c.checkGuest == nil {
				return nil
			}
			return c.checkGuest(&c.launch.Manifest)
		}},
		{Name: "TEE", Run: c.findTEE},
		{Name: "verify launch", Run: func(ctx context.Context) error {
			return guest.VerifyLaunch(ctx, &c.launch.Manifest, c.attester)
		}},
		{Name: "approvals", Run: func(context.Context) error { return guest.CheckApprovals(&c.launch.Manifest, c.launch.Approvals) }},
		{Name: "scratch disk", Run: c.openScratch},
	}
}

// scratchDisk gives the agent regions of a disk.
type scratchDisk struct{ *scratch.Disk }

func (d scratchDisk) Create(bytes int64) (agent.Region, error) { return d.Disk.Create(bytes) }

func (c *computation) openScratch(ctx context.Context) error {
	if c.findScratch == nil {
		return nil
	}
	d, err := c.findScratch(ctx, &c.launch.Manifest.Manifest)
	if d != nil {
		c.scratch = scratchDisk{d}
	}
	return err
}

func (c *computation) open(ctx context.Context) (err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, dialDeadline, fmt.Errorf("the host did not answer within %v", dialDeadline))
	defer cancel()
	c.session, c.launch, err = session.Open(ctx, session.Options{
		Dial: c.dial, Journal: c.journal, AgentVersion: version.String(), Log: c.log,
	})
	if err != nil {
		return err
	}
	level, err := session.ParseLevel(c.launch.Config.LogLevel)
	c.level.Set(level)
	return err
}

// serve runs the computation until the host asks it to stop, the session is
// over, or ctx ends.
func (c *computation) serve(ctx context.Context, runner *runtime.Runner, dir, address string, tell func(net.Addr)) error {
	cfg := c.launch.Config
	// The VM's instance key lives as long as the VM and never leaves it.
	instance, err := keys.Generate(keys.Ed25519)
	if err != nil {
		return err
	}
	a, err := agent.New(agent.Config{
		RunID:     c.launch.RunID,
		Manifest:  c.launch.Manifest,
		Approvals: c.launch.Approvals,
		TLS:       agent.TLSConfig{ServerCert: cfg.ServerCert, ServerKey: cfg.ServerKey, ClientCAs: cfg.ClientCACerts},
		Attester:  c.attester,
		Instance:  instance,
		Storage:   agent.FolderStorage(dir),
		Dial:      c.servers,
		Scratch:   c.scratch,
		Runner:    runner,
		Journal:   c.journal,
		Log:       c.log,
	})
	if err != nil {
		return err
	}
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
	if err != nil {
		return fmt.Errorf("listening for participants: %w", err)
	}
	tell(l.Addr())
	ctx, cancel := context.WithCancel(ctx)
	var watching sync.WaitGroup
	if !c.launch.Private() && c.log.Enabled(ctx, slog.LevelDebug) {
		ticker := time.NewTicker(memoryEvery)
		defer ticker.Stop()
		watching.Go(func() { tellMemory(ctx, c.log, "/proc/self/status", ticker.C) })
	}
	watching.Go(func() {
		defer cancel()
		select {
		case <-c.session.Stop():
		case <-c.session.Ended():
		case <-ctx.Done():
		}
	})
	err = a.Serve(ctx, l)
	cancel()
	watching.Wait()
	select {
	case <-c.session.Ended():
		return errors.Join(err, c.session.Err())
	default:
		return err
	}
}

// end tells the host why the run is over, if that is not at the host's wish, and
// closes the session once every event is on the shim's disk.
func (c *computation) end(err error) {
	if c.session == nil {
		return
	}
	defer c.session.Close()
	defer c.closeTEE()
	if err != nil {
		message, reason := c.refusal(err)
		c.journal.Emit(vm.EventRefused, message, map[string]string{"reason": reason})
	}
	ctx, cancel := context.WithTimeoutCause(context.Background(), flushDeadline, fmt.Errorf("the host did not take them within %v", flushDeadline))
	defer cancel()
	if err := c.session.Flush(ctx); err != nil {
		c.tell("ending: %v", err)
	}
}

// refusal is what the host learns of an error: all of it where it reads the
// machine's memory anyway, and a word of a fixed list where participants
// appraise the machine.
func (c *computation) refusal(err error) (message, reason string) {
	if !c.launch.Private() {
		return err.Error(), err.Error()
	}
	why := vm.RefusedInternal
	var refused *vm.Refused
	switch {
	case errors.As(err, &refused):
		why = refused.Why
	case errors.Is(err, session.ErrProtocol):
		why = vm.RefusedSession
	}
	return why.Text(), string(why)
}
