package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"time"

	"github.com/ultravioletrs/cocos/attest"
	"github.com/ultravioletrs/cocos/internal/agent/journal"
	"github.com/ultravioletrs/cocos/internal/agent/session"
	"github.com/ultravioletrs/cocos/internal/guest"
	"github.com/ultravioletrs/cocos/internal/vm"
	"github.com/ultravioletrs/cocos/internal/vsock"
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
	// attester is nil in a plain VM and in a process.
	attester attest.Attester
	log      *slog.Logger
	level    *slog.LevelVar
	journal  *journal.Journal

	session *session.Session
	launch  session.Launch
}

func newComputation(dial session.Dialer) *computation {
	c := &computation{dial: dial, level: new(slog.LevelVar), journal: journal.New(time.Now)}
	c.log = slog.New(c.journal.Handler(c.level))
	return c
}

// phases are those that a VM and a process have in common, up to the network.
func (c *computation) phases() []guest.Phase {
	return []guest.Phase{
		{Name: "session", Run: c.open},
		{Name: "verify launch", Run: func(context.Context) error { return guest.VerifyLaunch(&c.launch.Manifest, c.attester) }},
		{Name: "approvals", Run: func(context.Context) error { return guest.CheckApprovals(&c.launch.Manifest, c.launch.Approvals) }},
	}
}

func (c *computation) open(ctx context.Context) (err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, dialDeadline, fmt.Errorf("the host did not answer within %v", dialDeadline))
	defer cancel()
	c.session, c.launch, err = session.Open(ctx, session.Options{
		Dial: c.dial, Journal: c.journal, AgentVersion: version(), Log: c.log,
	})
	if err != nil {
		return err
	}
	level, err := session.ParseLevel(c.launch.Config.LogLevel)
	c.level.Set(level)
	return err
}

// end tells the host why the run is over, if it was refused, and closes the
// session once every event is on the shim's disk.
func (c *computation) end(err error) {
	if c.session == nil {
		return
	}
	defer c.session.Close()
	if errors.Is(err, guest.ErrRefused) {
		c.journal.Emit(vm.EventRefused, err.Error(), map[string]string{"reason": err.Error()})
	}
	ctx, cancel := context.WithTimeout(context.Background(), flushDeadline)
	defer cancel()
	if err := c.session.Flush(ctx); err != nil {
		c.log.Warn("ending with events that the host has not taken", "error", err)
	}
}

// runGuest is the agent in a VM.
func runGuest(ctx context.Context, console io.Writer) error {
	m := new(guest.Machine)
	c := newComputation(func(ctx context.Context) (net.Conn, error) { return vsock.DialHost(ctx, vm.SessionPort) })
	phases := append(m.Phases(), c.phases()...)
	phases = append(phases,
		guest.Phase{Name: "network", Run: func(context.Context) error { return guest.ConfigureNetwork(c.launch.Config) }},
	)
	err := guest.Run(ctx, phases)
	c.end(err)
	return err
}
