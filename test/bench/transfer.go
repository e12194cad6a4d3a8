package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"time"

	"github.com/ultravioletrs/cocos/manifest"
)

var (
	transferAim = aim{atLeast: true, bound: 0.8}
	memoryAim   = aim{ofValue: true, bound: 64}
)

// upload times `cocos-cli data` beside a bare TLS copy, and watches the agent's
// memory meanwhile. Each run has an agent of its own, for a dataset arrives once
// in a computation.
func upload(ctx context.Context, l *lab) ([]row, error) {
	source, digest, err := l.data()
	if err != nil {
		return nil, err
	}
	owner, err := l.newParty()
	if err != nil {
		return nil, err
	}
	m, err := owner.manifest(
		// Never comes.
		manifest.Algorithm{Type: manifest.Binary, SHA256: sha256.Sum256([]byte("bench")), Size: 1},
		manifest.Dataset{Name: "data", SHA256: digest, Size: l.size})
	if err != nil {
		return nil, err
	}
	reference, err := l.startTLSCopy(source)
	if err != nil {
		return nil, err
	}
	rates, memory := transferRows("upload_1gib")
	for range l.runs {
		if err := uploadOnce(ctx, l, owner, m, source, &rates, &memory); err != nil {
			return nil, errors.Join(err, reference.stop())
		}
		if err := reference.upload(ctx, source, digest, &rates); err != nil {
			return nil, errors.Join(err, reference.stop())
		}
	}
	return []row{rates, memory}, reference.stop()
}

func uploadOnce(ctx context.Context, l *lab, owner party, m manifest.Frozen, source string, rates, memory *row) (err error) {
	a, err := l.startAgent(ctx, m)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, a.stop()) }()
	if err := errors.Join(l.warm(), a.memory.reset()); err != nil {
		return err
	}
	_, took, err := timed(ctx, a.cli(owner, "data", source, "--name", "data", "--skip-check")...)
	if err != nil {
		return err
	}
	rates.values = append(rates.values, l.rate(took))
	return a.remember(memory)
}

// result times `cocos-cli result` beside a bare TLS copy. The algorithm makes a
// result of the lab's size before the clock starts.
func result(ctx context.Context, l *lab) ([]row, error) {
	source, digest, err := l.data()
	if err != nil {
		return nil, err
	}
	owner, err := l.newParty()
	if err != nil {
		return nil, err
	}
	algorithm := l.path("bigresult")
	if err := buildProgram(ctx, algorithm, "./test/bench/bigresult"); err != nil {
		return nil, err
	}
	program, err := os.ReadFile(algorithm)
	if err != nil {
		return nil, err
	}
	const around = mib // the archive's own bytes and the captured output
	m, err := owner.manifest(manifest.Algorithm{
		Type: manifest.Binary, Args: []string{strconv.FormatInt(l.size, 10)},
		Limits: manifest.Limits{OutputBytes: l.size + around},
		SHA256: sha256.Sum256(program), Size: int64(len(program)),
	})
	if err != nil {
		return nil, err
	}
	reference, err := l.startTLSCopy(source)
	if err != nil {
		return nil, err
	}
	rates, memory := transferRows("result_1gib")
	for range l.runs {
		if err := resultOnce(ctx, l, owner, m, algorithm, &rates, &memory); err != nil {
			return nil, errors.Join(err, reference.stop())
		}
		if err := reference.download(ctx, digest, &rates); err != nil {
			return nil, errors.Join(err, reference.stop())
		}
	}
	return []row{rates, memory}, reference.stop()
}

func resultOnce(ctx context.Context, l *lab, owner party, m manifest.Frozen, algorithm string, rates, memory *row) (err error) {
	a, err := l.startAgent(ctx, m)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, a.stop()) }()
	if _, _, err := timed(ctx, a.cli(owner, "algo", algorithm)...); err != nil {
		return err
	}
	bounded, cancel := context.WithTimeoutCause(ctx, 5*time.Minute, errors.New("there was no result after 5 minutes"))
	defer cancel()
	if err := a.awaitState(bounded, "ResultReady"); err != nil {
		return err
	}
	if err := errors.Join(l.warm(), a.memory.reset()); err != nil {
		return err
	}
	target := l.path("result.tar")
	_, took, err := timed(ctx, a.cli(owner, "result", "--archive", target)...)
	if err != nil {
		return err
	}
	info, err := os.Stat(target)
	if err != nil {
		return err
	}
	if info.Size() < l.size {
		return fmt.Errorf("the result has %d bytes; expected more than %d", info.Size(), l.size)
	}
	rates.values = append(rates.values, float64(info.Size())/mib/took.Seconds())
	return errors.Join(a.remember(memory), os.Remove(target))
}

func transferRows(name string) (rates, memory row) {
	return row{
			name: name, unit: "MiB/s", aim: transferAim,
			reference: "bare Go TLS 1.3 copy that hashes and writes",
		}, row{
			name: name + "_agent_rss", unit: "MiB", aim: memoryAim,
			reference: "the agent's resident set when idle",
		}
}

// remember adds the agent's peak to a row.
func (a *agent) remember(r *row) error {
	peak, err := a.memory.aboveIdle()
	if err != nil {
		return err
	}
	r.values = append(r.values, peak)
	r.referenceValues = append(r.referenceValues, float64(a.memory.idle)/1024)
	return nil
}

// cli is the command line of a call.
func (a *agent) cli(p party, args ...string) []string {
	return append(append([]string{cliBinary}, args...), "--agent", a.address, "--agent-key", a.key,
		"--key", p.keyFile, "--manifest", a.manifestFile())
}

// upload times one upload to the bare copy.
func (t *tlsCopy) upload(ctx context.Context, source string, digest [sha256.Size]byte, r *row) error {
	if err := t.l.warm(); err != nil {
		return err
	}
	_, took, err := timed(ctx, t.l.self, "tls-put", t.address, t.cert, source, hexDigest(digest))
	if err != nil {
		return err
	}
	r.referenceValues = append(r.referenceValues, t.l.rate(took))
	return os.Remove(t.target)
}

// download times one download from it.
func (t *tlsCopy) download(ctx context.Context, digest [sha256.Size]byte, r *row) error {
	if err := t.l.warm(); err != nil {
		return err
	}
	target := t.l.path("downloaded.bin")
	_, took, err := timed(ctx, t.l.self, "tls-get", t.address, t.cert, target, hexDigest(digest))
	if err != nil {
		return err
	}
	r.referenceValues = append(r.referenceValues, t.l.rate(took))
	return os.Remove(target)
}

func (t *tlsCopy) stop() error { return t.server.stop() }

// buildProgram builds a static program for a guest; env may name another machine.
func buildProgram(ctx context.Context, out, pkg string, env ...string) error {
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", out, pkg)
	cmd.Env = append(append(os.Environ(), "CGO_ENABLED=0"), env...)
	if b, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("building %s: %w: %s", pkg, err, b)
	}
	return nil
}
