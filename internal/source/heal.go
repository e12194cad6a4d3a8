package source

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"time"
)

// How long a reader waits for a server. With these it gives up after a quarter of an
// hour in which next to nothing came.
const (
	firstPause   = time.Second
	longestPause = time.Minute
	mostPauses   = 20
	// progress is how many bytes must have come after a break for it to be forgotten.
	progress     = 64 << 10
	defaultStall = time.Minute
)

// healer waits between tries. It is of one reader.
type healer struct {
	ctx    context.Context
	o      Options
	pauses int // since as much as progress came last
	got    int // bytes since the first of them
	broken bool
}

func newHealer(ctx context.Context, o Options) *healer {
	if o.Sleep == nil {
		o.Sleep = sleep
	}
	if o.stall == 0 {
		o.stall = defaultStall
	}
	return &healer{ctx: ctx, o: o}
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// came notes that the server sent n bytes.
func (h *healer) came(n int) {
	if h.broken && h.o.Broken != nil {
		h.o.Broken(nil)
	}
	h.broken = false
	if h.got += n; h.got >= progress {
		h.pauses, h.got = 0, 0
	}
}

// pause waits after err and returns nil when it is time to try again, or why one
// does not.
func (h *healer) pause(err error) error {
	err = problemOf(h.ctx, err)
	var p *Problem
	if !errors.As(err, &p) || !p.Passing {
		return err
	}
	if h.pauses >= mostPauses {
		return lasting("%s; given up after %d tries", p.Text, h.pauses+1)
	}
	d := min(firstPause<<min(h.pauses, 10), longestPause)
	if h.pauses == 0 {
		h.got = 0
	}
	h.pauses++
	h.broken = true
	if h.o.Broken != nil {
		h.o.Broken(p)
	}
	if err := h.o.Sleep(h.ctx, d); err != nil {
		return err
	}
	return h.ctx.Err()
}

// describe puts an error of making a request into words that have nothing of what
// a server sent.
func describe(err error) *Problem {
	var (
		cert *tls.CertificateVerificationError
		op   *net.OpError
		dns  *net.DNSError
		out  net.Error
	)
	switch {
	case errors.As(err, &cert):
		return lasting("the certificate of the source's server is not vouched for by the authorities of the manifest's source, or not for this name or time")
	case errors.As(err, &dns):
		return passing("the name of the source's server can't be resolved")
	case errors.As(err, &out) && out.Timeout():
		return passing("the source's server does not answer in time")
	case errors.As(err, &op) && op.Op == "dial":
		return passing("the source's server can't be reached: %.120s", op.Err) // of the system, or of the way out
	}
	return passing("the connection to the source's server broke")
}
