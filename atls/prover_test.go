package atls

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ultravioletrs/cocos/attest"
	"github.com/ultravioletrs/cocos/keys"
)

// gated is a TEE that makes a report when it is let to.
type gated struct {
	attest.Attester
	let chan error // what Attest fails with, or nil

	mu      sync.Mutex
	started int
	seen    []attest.ReportData
}

func (g *gated) Attest(ctx context.Context, data attest.ReportData) (attest.Evidence, error) {
	g.mu.Lock()
	g.started++
	g.mu.Unlock()
	select {
	case err := <-g.let:
		if err != nil {
			return attest.Evidence{}, err
		}
	case <-ctx.Done():
		return attest.Evidence{}, ctx.Err()
	}
	g.mu.Lock()
	g.seen = append(g.seen, data)
	g.mu.Unlock()
	return g.Attester.Attest(ctx, data)
}

func (g *gated) begun() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.started
}

// eventually waits for what another goroutine does.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: not within a minute", what)
		}
	}
}

func (p *Prover) waiting() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.next == nil {
		return 0
	}
	return len(p.next.leaves)
}

// While one report is made, all who come wait for the next, and share it; who
// leaves holds nobody up.
func TestOneReportForAllWhoWait(t *testing.T) {
	const n = 100
	host := newHost(t)
	tee := &gated{Attester: host.Attester(measured, approved.SHA256), let: make(chan error)}
	p := newProver(t, tee, 0)
	got := make(chan error, n)
	ask := func(i int) {
		c := &connection{attester: server, exporter: [ExporterSize]byte{byte(i)}, appraisal: Appraisal{Verifier: verifierOf(host), Launch: approved}}
		var err error
		if c.evidence, err = p.prove(t.Context(), c.leaf(), false); err == nil {
			_, err = c.judge(t)
		}
		got <- err
	}
	go ask(0)
	eventually(t, "the first report is begun", func() bool { return tee.begun() == 1 })
	ctx, leave := context.WithCancel(t.Context())
	left := make(chan error, 1)
	go func() {
		_, err := p.prove(ctx, hash{1}, false)
		left <- err
	}()
	for i := 1; i < n; i++ {
		go ask(i)
	}
	eventually(t, "all wait", func() bool { return p.waiting() == n })
	leave()
	if err := <-left; !errors.Is(err, context.Canceled) {
		t.Errorf("who left got %v", err)
	}
	tee.let <- nil
	if err := <-got; err != nil { // the first is served before the rest's report is begun
		t.Error(err)
	}
	tee.let <- nil
	for range n - 1 {
		if err := <-got; err != nil {
			t.Error(err)
		}
	}
	if len(tee.seen) != 2 || tee.seen[0] == tee.seen[1] {
		t.Errorf("%d reports for %d connections; want 2 that differ", len(tee.seen), n)
	}
}

// After a report that several shared, the next waits a moment for others; one
// that nobody shared makes nobody wait, and neither does one of long ago.
func TestReportsGather(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newProver(t, quick{}, 0)
		// together lets n come, each a millisecond after the other, and tells
		// how long the first waited.
		together := func(n int) time.Duration {
			begun := time.Now()
			var first time.Duration
			var all sync.WaitGroup
			for i := range n {
				all.Go(func() {
					if _, err := p.prove(t.Context(), hash{byte(i)}, false); err != nil {
						t.Error(err)
					}
					if i == 0 {
						first = time.Since(begun)
					}
				})
				if i+1 < n {
					time.Sleep(time.Millisecond)
				}
			}
			all.Wait()
			return first
		}
		const report = 10 * time.Millisecond // quick's
		for _, step := range []struct {
			come  int
			pause time.Duration // before
			first time.Duration
		}{
			{1, 0, report},
			{1, 0, report},
			{3, 0, report},          // two of them share the second report
			{1, 0, report + gather}, // there was a crowd
			{3, 0, report + gather}, // of which all share
			{1, crowdTime, report},
		} {
			time.Sleep(step.pause)
			if got := together(step.come); got != step.first {
				t.Errorf("%+v: the first waited %s", step, got)
			}
		}
		p.Close()
	})
}

// quick is a TEE that makes a report in 10 ms.
type quick struct{ attest.Attester }

func (quick) Attest(context.Context, attest.ReportData) (attest.Evidence, error) {
	time.Sleep(10 * time.Millisecond)
	return attest.Evidence{Type: attest.Sim}, nil
}

// No more wait than a report covers: the next is told so, and room comes with
// the report.
func TestWaitingIsBounded(t *testing.T) {
	tee := &gated{Attester: newHost(t).Attester(measured, approved.SHA256), let: make(chan error)}
	p := newProver(t, tee, 0)
	for i := range maxBatch + 1 { // one is being reported on
		if _, _, err := p.join(hash{byte(i), byte(i >> 8)}); err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			eventually(t, "the first report is begun", func() bool { return tee.begun() == 1 })
		}
	}
	if _, err := p.prove(t.Context(), hash{9}, false); !errors.Is(err, errBusy) {
		t.Errorf("got %v", err)
	}
	tee.let <- nil
	eventually(t, "the second report is begun", func() bool { return tee.begun() == 2 })
	b, index, err := p.join(hash{9})
	if err != nil || index != 0 {
		t.Fatalf("index %d, %v", index, err)
	}
	tee.let <- nil
	tee.let <- nil
	if err := b.await(t.Context()); err != nil {
		t.Error(err)
	}
}

// A failure is that of those who waited for it, and of nobody else.
func TestReportsThatFail(t *testing.T) {
	for _, cached := range []bool{false, true} {
		tee := &gated{Attester: newHost(t).Attester(measured, approved.SHA256), let: make(chan error, 1)}
		p := newProver(t, tee, time.Hour)
		errFirmware := errors.New("the firmware is busy")
		tee.let <- errFirmware
		if _, err := p.prove(t.Context(), hash{1}, cached); !errors.Is(err, errFirmware) {
			t.Errorf("cached %t: got %v", cached, err)
		}
		tee.let <- nil
		if e, err := p.prove(t.Context(), hash{1}, cached); err != nil || e.cached != cached {
			t.Errorf("cached %t: %+v, %v", cached, e, err)
		}
	}
	// Evidence that could not be sent is none.
	p := newProver(t, large{newHost(t).Attester(measured, approved.SHA256)}, 0)
	if _, err := p.prove(t.Context(), hash{1}, false); err == nil || !strings.Contains(err.Error(), "at most 524288 are sent") {
		t.Errorf("got %v", err)
	}
}

type large struct{ attest.Attester }

func (large) Attest(context.Context, attest.ReportData) (attest.Evidence, error) {
	return attest.Evidence{Report: make([]byte, maxEvidence)}, nil
}

// Reports are kept for an epoch, for those who take them, and for nobody else.
func TestEpoch(t *testing.T) {
	for _, tt := range []struct {
		epoch   time.Duration
		takes   bool
		reports int // for two connections
		cached  bool
	}{
		{0, false, 2, false},
		{0, true, 2, false},
		{time.Hour, false, 2, false},
		{time.Hour, true, 1, true},
		{time.Nanosecond, true, 2, true}, // over at once
	} {
		t.Run(fmt.Sprint(tt.epoch, tt.takes), func(t *testing.T) {
			tee := &gated{Attester: newHost(t).Attester(measured, approved.SHA256), let: make(chan error, 2)}
			tee.let <- nil
			tee.let <- nil
			p := newProver(t, tee, tt.epoch)
			for i := range byte(2) {
				e, err := p.prove(t.Context(), hash{i}, tt.takes)
				if err != nil || e.cached != tt.cached {
					t.Errorf("%+v, %v", e, err)
				}
			}
			if tee.begun() != tt.reports {
				t.Errorf("%d reports", tee.begun())
			}
		})
	}
}

// Close ends reports that are being made, and waits for them.
func TestCloseProver(t *testing.T) {
	tee := &gated{Attester: newHost(t).Attester(measured, approved.SHA256), let: make(chan error)}
	p := newProver(t, tee, time.Hour)
	got := make(chan error, 2)
	for _, cached := range []bool{false, true} {
		go func() {
			_, err := p.prove(t.Context(), hash{1}, cached)
			got <- err
		}()
	}
	eventually(t, "a report is begun", func() bool { return tee.begun() >= 1 })
	p.Close()
	for range 2 {
		if err := <-got; !errors.Is(err, context.Canceled) && !errors.Is(err, errClosed) {
			t.Errorf("got %v", err)
		}
	}
	for _, cached := range []bool{false, true} {
		if _, err := p.prove(t.Context(), hash{1}, cached); !errors.Is(err, errClosed) {
			t.Errorf("got %v", err)
		}
	}
	p.Close()
}

// Each configuration is right in all but one thing.
func TestProverConfigs(t *testing.T) {
	right := ProverConfig{Attester: newHost(t).Attester(measured, approved.SHA256), Manifest: approved.SHA256, Instance: newInstance(t), Epoch: time.Minute}
	for name, tt := range map[string]struct {
		change func(*ProverConfig)
		want   string // empty: nothing is wrong
	}{
		"right":         {func(*ProverConfig) {}, ""},
		"no epoch":      {func(c *ProverConfig) { c.Epoch = 0 }, ""},
		"no attester":   {func(c *ProverConfig) { c.Attester = nil }, "no attester"},
		"no manifest":   {func(c *ProverConfig) { c.Manifest = [32]byte{} }, "manifest"},
		"no instance":   {func(c *ProverConfig) { c.Instance = keys.Private{} }, "no instance key"},
		"an epoch past": {func(c *ProverConfig) { c.Epoch = -1 }, "negative"},
	} {
		c := right
		tt.change(&c)
		p, err := NewProver(c)
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v; want %q", name, err, tt.want)
		}
		if p != nil {
			p.Close()
		}
	}
}
