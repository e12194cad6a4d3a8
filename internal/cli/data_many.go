package cli

import (
	"context"
	"fmt"
	"sync"

	"github.com/spf13/cobra"

	agentv1 "github.com/ultravioletrs/cocos/api/agent/v1"
	"github.com/ultravioletrs/cocos/manifest"
)

// maxAtOnce is how many datasets are sent side by side, each over a connection of
// its own: more only share the same network and the agent's processors.
const maxAtOnce = 4

// bringAll sends several datasets. What is wrong with one does not keep the others
// from being sent; it is told as it happens, and the error in the end counts them.
func (a *app) bringAll(cmd *cobra.Command, paths []string, named, salted, skip bool) error {
	for _, f := range []struct {
		given bool
		flag  string
	}{{named, "--name"}, {salted, "--salt"}, {skip, "--skip-check"}} {
		if f.given {
			return usagef("give one PATH with it: it is one dataset's", "%s is given beside %d paths", f.flag, len(paths))
		}
	}
	id, err := a.identity()
	if err != nil {
		return err
	}
	if err := id.role(manifest.DatasetProvider); err != nil {
		return err
	}
	if err := a.unchanged(id); err != nil {
		return err
	}
	first, err := a.prepare(cmd, id, manifest.DatasetProvider)
	if err != nil {
		return err
	}
	defer first.close()
	found, failed, err := a.findAll(cmd.Context(), id, paths)
	if err != nil {
		return err
	}
	if len(found) > 0 {
		// Whoever answers is judged once, before the connections beside this one.
		if err := first.open(cmd.Context()); err != nil {
			return err
		}
		sent, err := a.sendAll(cmd.Context(), first, found)
		if err != nil {
			return err
		}
		failed += len(found) - sent
	}
	if failed > 0 {
		return then(fmt.Errorf("%d of %d datasets were not brought", failed, len(paths)), goesOn)
	}
	return nil
}

// toSend is a dataset that the manifest has.
type toSend struct {
	in   input
	name string
}

// findAll reads the inputs one after the other and finds them in the manifest; it
// tells of those that it can't, and counts them.
func (a *app) findAll(ctx context.Context, id *identity, paths []string) (found []toSend, failed int, err error) {
	seen := map[string]string{}
	for _, path := range paths {
		in, err := openInput(path)
		name := ""
		if err != nil {
			err = fmt.Errorf("bringing a dataset: %w", err)
		} else if name, err = a.datasetName(ctx, id, &in, ""); err == nil && seen[name] != "" {
			err = fmt.Errorf("%s is the dataset %s, as is %s", path, name, seen[name])
		}
		if ctx.Err() != nil {
			return nil, 0, ctx.Err()
		}
		if err != nil {
			a.out.problem(err)
			failed++
			continue
		}
		seen[name] = path
		found = append(found, toSend{in, name})
	}
	return found, failed, nil
}

// sendAll sends datasets side by side and tells of each how it ended; it counts
// those that the agent has verified. An error is one of ctx, or of the output.
func (a *app) sendAll(ctx context.Context, first *peer, datasets []toSend) (sent int, err error) {
	type outcome struct {
		done uploaded
		err  error
	}
	ctx, cancel := context.WithCancel(ctx)
	group := a.out.together(fmt.Sprintf("%d datasets", len(datasets)))
	todo, outcomes := make(chan toSend), make(chan outcome)
	var senders sync.WaitGroup
	for i := range min(maxAtOnce, len(datasets)) {
		p := first
		if i > 0 {
			another, err := first.another()
			if err != nil {
				break // fewer side by side
			}
			p = another
		}
		senders.Go(func() {
			if p != first {
				defer p.close()
			}
			for d := range todo {
				ref := &agentv1.InputRef{Kind: agentv1.InputKind_INPUT_KIND_DATASET, Name: d.name}
				done, err := a.uploadIn(ctx, p, d.in, ref, group)
				outcomes <- outcome{done, err}
			}
		})
	}
	go func() {
		defer close(todo)
		for _, d := range datasets {
			select {
			case todo <- d:
			case <-ctx.Done():
				return
			}
		}
	}()
	go func() { senders.Wait(); close(outcomes) }()
	defer func() { // nothing goes on when this returns
		cancel()
		for range outcomes {
		}
		group.stop()
	}()
	for o := range outcomes {
		if ctx.Err() != nil {
			return sent, then(ctx.Err(), goesOn)
		}
		group.apart(func() {
			switch {
			case o.err != nil:
				a.out.problem(o.err)
			case a.out.json:
				err = a.out.object(o.done)
			default:
				a.out.hint("the agent has verified the %s", o.done.Input)
			}
		})
		if err != nil {
			return sent, err
		}
		if o.err == nil {
			sent++
		}
	}
	if ctx.Err() != nil {
		return sent, then(ctx.Err(), goesOn)
	}
	return sent, nil
}
