package atls

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/ultravioletrs/cocos/attest"
	"github.com/ultravioletrs/cocos/keys"
)

// reportTime is how long a connection waits for a report: less than its peer
// waits for the message, so that it is told.
const reportTime = 15 * time.Second

// gather is how long a report waits for others to share it, where several have
// shared the last one within crowdTime: less than a TEE takes to make it.
const (
	gather    = 5 * time.Millisecond
	crowdTime = 100 * time.Millisecond
)

// ProverConfig of NewProver. All but Epoch are required.
type ProverConfig struct {
	// Attester makes the reports. It must heed its context.
	Attester attest.Attester
	// Manifest is the digest that this machine enforces.
	Manifest [32]byte
	// Instance is the machine's instance key, which the reports name.
	Instance keys.Private
	// Epoch is how old a report may be for peers that take cached evidence; 0:
	// there is none, and every connection waits for a report of its own.
	Epoch time.Duration
}

// Prover gives evidence to connections, and for requests to key brokers, any
// number at once: those that wait at one moment share one report, and those that
// come while it is made share the next.
type Prover struct {
	cfg    ProverConfig
	ctx    context.Context // of the reports
	cancel context.CancelFunc
	work   sync.WaitGroup

	mu      sync.Mutex
	closed  bool
	working bool   // a goroutine makes reports
	next    *batch // gathers connections; nil: none waits
	renewal *batch // the next cached report, awaited; nil: nobody does
	cached  []byte // the cached report, JSON
	madeAt  time.Time
	crowd   time.Time // when several last shared a report
}

// batch is one report, made or to be made.
type batch struct {
	leaves []hash // none: it is to be cached
	done   chan struct{}

	// Set when done is closed.
	tree   tree
	report []byte // JSON
	err    error
}

// NewProver makes a Prover; Close it.
func NewProver(c ProverConfig) (*Prover, error) {
	switch {
	case c.Attester == nil:
		return nil, errors.New("attested TLS: there is no attester")
	case c.Manifest == [32]byte{}:
		return nil, errors.New("attested TLS: there is no digest of the manifest")
	case c.Instance.Public().IsZero():
		return nil, errors.New("attested TLS: there is no instance key")
	case c.Epoch < 0:
		return nil, fmt.Errorf("attested TLS: the epoch %s is negative", c.Epoch)
	}
	p := &Prover{cfg: c}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	return p, nil
}

// Close refuses whoever waits, and returns when no report is being made.
func (p *Prover) Close() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.cancel()
	p.work.Wait()
}

var (
	errBusy   = fmt.Errorf("%d connections wait for evidence already", maxBatch)
	errClosed = errors.New("no evidence is given any more")
)

// prove returns evidence for a leaf: a cached one, where the peer takes it and
// there is one to be had.
func (p *Prover) prove(ctx context.Context, leaf hash, cached bool) (evidence, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, reportTime, fmt.Errorf("there was no report within %s", reportTime))
	defer cancel()
	e := evidence{instance: p.cfg.Instance.Public().SPKI(), cached: cached && p.cfg.Epoch > 0}
	if !e.cached {
		b, index, err := p.join(leaf)
		if err != nil {
			return evidence{}, err
		}
		if err := b.await(ctx); err != nil {
			return evidence{}, err
		}
		e.proof, e.report = b.tree.proof(index), b.report
		return e, nil
	}
	report, b, err := p.fromCache()
	if err != nil {
		return evidence{}, err
	}
	if b != nil {
		if err := b.await(ctx); err != nil {
			return evidence{}, err
		}
		report = b.report
	}
	e.report = report
	e.signature, err = p.cfg.Instance.Sign(connectionText(leaf))
	return e, err
}

// connectionText is what an instance key signs for a connection that a cached
// report serves.
func connectionText(leaf hash) keys.Text {
	return keys.Text{Purpose: keys.PurposeConnection, Fields: [][]byte{leaf[:]}}
}

// join adds a leaf to the next report.
func (p *Prover) join(leaf hash) (b *batch, index int, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.closed:
		return nil, 0, errClosed
	case p.next == nil:
		p.next = &batch{done: make(chan struct{})}
	case len(p.next.leaves) == maxBatch:
		return nil, 0, errBusy
	}
	p.next.leaves = append(p.next.leaves, leaf)
	p.start()
	return p.next, len(p.next.leaves) - 1, nil
}

// fromCache returns the cached report, or the one to wait for.
func (p *Prover) fromCache() (report []byte, b *batch, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.closed:
		return nil, nil, errClosed
	case p.cached != nil && time.Since(p.madeAt) < p.cfg.Epoch:
		return p.cached, nil, nil
	case p.renewal == nil:
		p.renewal = &batch{done: make(chan struct{})}
	}
	p.start()
	return nil, p.renewal, nil
}

// start has reports made as long as somebody waits. The caller holds p.mu.
func (p *Prover) start() {
	if !p.working {
		p.working = true
		p.work.Go(p.makeReports)
	}
}

func (p *Prover) makeReports() {
	for {
		p.mu.Lock()
		if p.next != nil && time.Since(p.crowd) < crowdTime {
			p.mu.Unlock()
			select {
			case <-time.After(gather):
			case <-p.ctx.Done():
			}
			p.mu.Lock()
		}
		fresh, renewal := p.next, p.renewal
		p.next, p.renewal = nil, nil
		if fresh == nil && renewal == nil {
			p.working = false
			p.mu.Unlock()
			return
		}
		if fresh != nil && len(fresh.leaves) > 1 {
			p.crowd = time.Now()
		}
		p.mu.Unlock()
		if fresh != nil {
			p.make(fresh)
		}
		if renewal != nil {
			p.make(renewal)
		}
	}
}

// make makes the report of a batch that nobody adds to any more.
func (p *Prover) make(b *batch) {
	defer close(b.done)
	root := cachedRoot
	if len(b.leaves) > 0 {
		b.tree = newTree(b.leaves)
		root = b.tree.root()
	}
	binding := attest.Binding{
		Label: attest.ForConnections, Manifest: p.cfg.Manifest, Instance: p.cfg.Instance.Public().SPKI(), Root: root,
	}
	begun := time.Now()
	ctx, cancel := context.WithTimeout(p.ctx, reportTime)
	defer cancel()
	e, err := p.cfg.Attester.Attest(ctx, binding.ReportData())
	if err == nil {
		b.report, err = encode(e)
	}
	if err != nil {
		b.err = fmt.Errorf("obtaining evidence: %w", err)
		return
	}
	if len(b.leaves) == 0 {
		p.mu.Lock()
		p.cached, p.madeAt = b.report, begun
		p.mu.Unlock()
	}
}

// await returns when the report is there, or ctx ends.
func (b *batch) await(ctx context.Context) error {
	select {
	case <-b.done:
		return b.err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
