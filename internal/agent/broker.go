package agent

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/ultravioletrs/cocos/attest"
	"github.com/ultravioletrs/cocos/internal/keybroker"
	"github.com/ultravioletrs/cocos/internal/source"
	"github.com/ultravioletrs/cocos/manifest"
)

// Pauses between two tries of a broker that does not answer.
const (
	firstAsk   = time.Second
	longestAsk = 2 * time.Minute
)

// namesBroker tells whether a key broker is to be asked for a dataset.
func (a *Agent) namesBroker() bool {
	return slices.ContainsFunc(a.inputs, func(in *input) bool { return in.pull.source.Broker != "" })
}

// canAsk tells whether there is anything to show to a broker.
func (a *Agent) canAsk() bool { return a.cfg.Release != nil || a.prover != nil }

// fromBroker returns what its key broker has for a dataset. It goes on while the broker
// can't answer, of which the dataset's provider learns, until ctx ends; a refusal is
// an error.
func (a *Agent) fromBroker(ctx context.Context, in *input) ([]byte, error) {
	ask := a.cfg.Release
	if ask == nil {
		ask = a.askOnce
	}
	for pause := firstAsk; ; pause = min(2*pause, longestAsk) {
		text, err := ask(ctx, in.pull.source)
		var p *keybroker.Problem
		if err == nil || ctx.Err() != nil || !errors.As(err, &p) || !p.Passing {
			return text, err
		}
		a.noteBreak(in, &source.Problem{Text: p.Text, Passing: true})
		if err := a.pause(ctx, pause); err != nil {
			return nil, err
		}
	}
}

// askOnce asks a broker, and shows it evidence of this VM.
func (a *Agent) askOnce(ctx context.Context, s manifest.Source) ([]byte, error) {
	client, err := source.NewClient(s, a.cfg.Dial, manifest.Source{Broker: s.Broker}.Servers()...)
	if err != nil {
		return nil, err
	}
	defer client.CloseIdleConnections()
	return keybroker.Ask(ctx, keybroker.Query{
		Client: client, Broker: s.Broker, Resource: s.Resource,
		Manifest: a.cfg.Manifest.Digest, TEE: a.teeType(), Prove: a.prover.ForBroker,
	})
}

// teeType is "" in a plain VM.
func (a *Agent) teeType() attest.Type {
	if a.cfg.Attester == nil {
		return ""
	}
	return a.cfg.Attester.Type()
}

func (a *Agent) pause(ctx context.Context, d time.Duration) error {
	if a.cfg.Sleep != nil {
		return a.cfg.Sleep(ctx, d)
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
