package agent

import (
	"context"
	"errors"
	"io"
	"strings"
	"unicode"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	agentv1 "github.com/ultravioletrs/cocos/api/agent/v1"
	"github.com/ultravioletrs/cocos/internal/bulk"
	"github.com/ultravioletrs/cocos/internal/rpcerr"
	"github.com/ultravioletrs/cocos/internal/source"
	"github.com/ultravioletrs/cocos/manifest"
)

// What State says of a dataset with a source.
const (
	awaitsSecret = "its provider has to hand over what it takes to read it: cocos-cli data provide"
	awaitsSalt   = "its provider has to hand over the salt of its commitment: cocos-cli data provide"
	noBroker     = "this agent can't ask a key broker (without a TEE there is nothing to show it); its provider can hand over the key: cocos-cli data provide"
	notYours     = "it can't be had from its source now; its provider is told why"
	longestText  = 400 // of a problem, in bytes
	pullChunk    = 256 << 10
	// maxPulls at once: each takes about 1 MiB of memory and one of the connections
	// that a host lets out; the others wait.
	maxPulls      = 8
	sourceInvalid = "the manifest gives the %s no source; its provider uploads it"
)

// pull is the taking of a dataset from its source. The agent's mutex guards it.
type pull struct {
	source manifest.Source // zero: the input is uploaded
	// active from when the agent begins, asking a key broker included, to the end.
	active bool
	asking bool // a key broker
	// problem why it is not active, or does not go on.
	problem string
	cancel  context.CancelFunc
	done    chan struct{}
}

// secretFor gets what it takes to have a dataset.
type secretFor func(ctx context.Context) (*source.Secret, manifest.Salt, error)

// startPulls begins with every dataset whose provider need do nothing for it.
func (a *Agent) startPulls() {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, in := range a.inputs {
		s := in.pull.source
		switch {
		case s.IsZero():
		case s.Broker != "" && !a.canAsk():
			in.pull.problem = noBroker
		case s.Broker != "":
			a.startAsking(in)
		case source.Needed(s):
			in.pull.problem = awaitsSecret
		case in.content.Committed():
			in.pull.problem = awaitsSalt
		default:
			a.startPull(in, func(context.Context) (*source.Secret, manifest.Salt, error) { return nil, manifest.Salt{}, nil })
		}
	}
}

// startAsking takes an input from its source with what its key broker releases; a.mu
// is held.
func (a *Agent) startAsking(in *input) {
	in.pull.asking = true
	a.startPull(in, func(ctx context.Context) (*source.Secret, manifest.Salt, error) { return a.askBroker(ctx, in) })
}

// askBroker has the secret from the key broker of the dataset's owner.
func (a *Agent) askBroker(ctx context.Context, in *input) (*source.Secret, manifest.Salt, error) {
	text, err := a.fromBroker(ctx, in)
	if err != nil {
		return nil, manifest.Salt{}, err
	}
	defer clear(text)
	secret, salt, err := readSecret(in, text, nil)
	if err != nil {
		return nil, salt, errors.New("what the key broker released can't be used: " + words(err))
	}
	a.mu.Lock()
	in.pull.asking, in.pull.problem = false, ""
	a.mu.Unlock()
	return secret, salt, nil
}

// readSecret reads a secret for an input, whose salt comes with it or in it.
func readSecret(in *input, text, saltBytes []byte) (*source.Secret, manifest.Salt, error) {
	var none manifest.Salt
	secret, err := source.ParseSecret(text)
	if err == nil {
		err = secret.Fits(in.pull.source)
	}
	if err != nil {
		return nil, none, rpcerr.New(codes.InvalidArgument, rpcerr.Detail{
			Reason: rpcerr.SecretInvalid, Field: "secret", Hint: "give what the manifest's source of the dataset takes, and nothing else",
		}, "%s: %s", in.ref, err)
	}
	if secret.Salt != nil {
		if len(saltBytes) > 0 {
			return nil, none, rpcerr.New(codes.InvalidArgument, rpcerr.Detail{
				Reason: rpcerr.SaltInvalid, Field: "salt", Hint: "give the salt once",
			}, "the salt of the %s stands in the secret and beside it", in.ref)
		}
		saltBytes = secret.Salt[:]
	}
	salt, err := saltOf(in, saltBytes)
	return secret, salt, err
}

// startPull takes an input from its source; a.mu is held, and nothing else brings
// the input. Its end makes the input complete, or its problem known.
func (a *Agent) startPull(in *input, get secretFor) {
	ctx, cancel := context.WithCancel(a.pullCtx)
	p := &in.pull
	p.active, p.problem, p.cancel, p.done = true, "", cancel, make(chan struct{})
	done := p.done
	a.pulls.Go(func() {
		defer close(done)
		defer cancel()
		err := a.pullInput(ctx, in, get)
		a.mu.Lock()
		defer a.mu.Unlock()
		p.active, p.asking = false, false
		switch {
		case err == nil || in.complete:
			p.problem = ""
		case ctx.Err() != nil:
			p.problem = "" // whoever stopped it knows, and goes on
		default:
			p.problem = words(err) // not for the log, which the host reads
		}
	})
}

func (a *Agent) pullInput(ctx context.Context, in *input, get secretFor) error {
	secret, salt, err := get(ctx)
	if err != nil {
		return err
	}
	select {
	case a.pullPlaces <- struct{}{}:
		defer func() { <-a.pullPlaces }()
	case <-ctx.Done():
		return ctx.Err()
	}
	r, err := source.Open(ctx, in.pull.source, secret, source.Options{
		Dial: a.cfg.Dial, Size: in.size, Sleep: a.cfg.Sleep,
		Broken: func(p *source.Problem) { a.noteBreak(in, p) },
	})
	if err != nil {
		return err
	}
	defer r.Close()
	a.mu.Lock()
	err = a.occupy(in, salt)
	a.mu.Unlock()
	if err != nil {
		return err
	}
	_, err = a.take(in, bringFrom(r))
	return err
}

// noteBreak tells participants why the agent waits before it tries again.
func (a *Agent) noteBreak(in *input, p *source.Problem) {
	a.mu.Lock()
	defer a.mu.Unlock()
	in.pull.problem = ""
	if p != nil {
		in.pull.problem = words(p) + " (trying again)"
	}
}

// bringFrom carries what a source has. It heals by itself: after an error nothing
// of it is kept, for nobody else goes on in the middle of what is encrypted.
func bringFrom(r io.Reader) carrier {
	return func(limit int64, taken func(n int), sinks ...io.Writer) (total int64, err error) {
		buf := make([]byte, pullChunk)
		for {
			n, err := r.Read(buf)
			if total+int64(n) > limit {
				return total, bulk.ErrTooLong
			}
			for i, s := range sinks {
				if _, err := s.Write(buf[:n]); err != nil {
					return total, &bulk.SinkError{Err: err}
				}
				if i == 0 {
					taken(n)
				}
			}
			total += int64(n)
			switch {
			case errors.Is(err, io.EOF):
				return total, nil
			case err != nil:
				return total, discarded{rpcerr.New(codes.Unavailable, rpcerr.Detail{
					Reason: rpcerr.SourceFailed, Hint: "see that it is at its source, and hand over what it takes again: cocos-cli data provide",
				}, "%s", words(err))}
			}
		}
	}
}

// words of an error for a dataset's provider, on one line and not too many.
func words(err error) string {
	text := err.Error()
	if s, ok := status.FromError(err); ok {
		text = s.Message()
	}
	text = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, text)
	if len(text) > longestText {
		text = strings.ToValidUTF8(text[:longestText], "") + "…"
	}
	return text
}

// makeWay ends a pull that does not get on, and refuses if one does. Whoever calls
// it looks again under the mutex.
func (a *Agent) makeWay(in *input) error {
	a.mu.Lock()
	p := &in.pull
	if !p.active || in.complete {
		a.mu.Unlock()
		return nil
	}
	if p.problem == "" && !p.asking {
		a.mu.Unlock()
		return pulling(in)
	}
	p.cancel()
	done := p.done
	a.mu.Unlock()
	<-done
	return nil
}

func pulling(in *input) error {
	return rpcerr.New(codes.Aborted, rpcerr.Detail{
		Reason: rpcerr.UploadBusy, Field: "input", Hint: "wait for it: cocos-cli state shows how far it is",
	}, "the agent is taking the %s from its source", in.ref)
}

// Provide implements AgentService.
func (a *Agent) Provide(ctx context.Context, req *agentv1.ProvideRequest) (*agentv1.ProvideResponse, error) {
	defer clear(req.GetSecret())
	ref, err := a.providersInput(ctx, agentv1.AgentService_Provide_FullMethodName, req.GetInput())
	if err != nil {
		return nil, err
	}
	in := a.input(ref)
	if in == nil || in.pull.source.IsZero() {
		return nil, rpcerr.New(codes.InvalidArgument, rpcerr.Detail{
			Reason: rpcerr.InputUnknown, Field: "input", Hint: "upload it: cocos-cli data",
		}, sourceInvalid, ref)
	}
	begin := func() { a.startAsking(in) } // again, as when its owner has consented
	if len(req.GetSecret())+len(req.GetSalt()) > 0 || in.pull.source.Broker == "" || !a.canAsk() {
		secret, salt, err := readSecret(in, req.GetSecret(), req.GetSalt())
		if err != nil {
			return nil, err
		}
		begin = func() {
			a.startPull(in, func(context.Context) (*source.Secret, manifest.Salt, error) { return secret, salt, nil })
		}
	}
	p, err := a.provide(in, begin)
	if err != nil {
		return nil, err
	}
	return &agentv1.ProvideResponse{State: protoProgress(p)}, nil
}

// provide begins to take an input, unless it is there or on its way.
func (a *Agent) provide(in *input, begin func()) (progress, error) {
	if err := a.makeWay(in); err != nil {
		return progress{}, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case in.complete:
		return in.progress(), nil
	case a.state != AwaitingInputs:
		return progress{}, wrongState(a.state)
	case in.pull.active:
		return progress{}, pulling(in)
	case in.busy:
		return progress{}, busy(in.ref)
	}
	if in.sink != nil { // an upload broke off, and what is pulled begins at the beginning
		a.drop(in)
		in.received.Store(0)
	}
	begin()
	return in.progress(), nil
}
