package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"

	agentv1 "github.com/ultravioletrs/cocos/api/agent/v1"
	eventv1 "github.com/ultravioletrs/cocos/api/event/v1"
	"github.com/ultravioletrs/cocos/internal/archive"
	"github.com/ultravioletrs/cocos/internal/vm"
	"github.com/ultravioletrs/cocos/manifest"
)

// Bounds of an unpacked result; its bytes are bounded by the archive's own.
const (
	maxEntries = 1 << 20
	maxDepth   = 64
)

// fetched is what a script learns.
type fetched struct {
	Path    string          `json:"path"`
	Kind    string          `json:"kind"` // "folder" or "archive"
	Size    int64           `json:"size"` // of the archive
	SHA256  manifest.Digest `json:"sha256"`
	State   string          `json:"state"`
	Reason  string          `json:"reason,omitempty"`
	Resumed int64           `json:"resumed_from"`
	// Already: it was there before, complete.
	Already bool `json:"already_there"`
	// Receipt is the file of the receipt; empty in a plain VM.
	Receipt string `json:"receipt,omitempty"`
	// ReceiptVerified: by the policy, before the result was opened.
	ReceiptVerified bool `json:"receipt_verified"`
}

func (a *app) resultCmd() *cobra.Command {
	var (
		out, file string
		wait      bool
	)
	cmd := &cobra.Command{
		Use:   "result",
		Short: "Fetch the result",
		Long: `Fetch the result, verify it, store it, and tell the agent that you have it. It
is unpacked into a folder: results/ as the algorithm left it, with stdout.txt and
stderr.txt beside it, as far as the manifest releases them to your key, and run.json,
which says how the run ended; or kept as the archive that it came as.

Over attested TLS the run's receipt is fetched first and verified, by the policy, for
the manifest and this very VM. A result that is not the receipt's is not opened. The
receipt is kept beside it, as OUT.receipt.json.

A download that was cut goes on where it stopped. Nothing stands under the final
name before it is complete. If the algorithm failed, what it printed is fetched
all the same, and the exit status is 1.`,
		Example: `  cocos-cli result --wait --out iris-result --agent 127.0.0.1:7020 \
    --agent-key sha256:… --key carol.pem --manifest manifest.json`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if file != "" && cmd.Flags().Changed("out") {
				return usagef("give the one that you want", "--out and --archive exclude each other")
			}
			t := target{path: filepath.Clean(out), folder: true}
			if file != "" {
				t = target{path: filepath.Clean(file)}
			}
			if base := filepath.Base(t.path); base == "." || base == ".." || base == string(filepath.Separator) {
				return usagef("give one that is the result's alone, such as --out result", "%q is not a place for a result", t.path)
			}
			id, err := a.identity()
			if err != nil {
				return err
			}
			if err := id.role(manifest.Consumer); err != nil {
				return err
			}
			p, err := a.connect(cmd, id, manifest.Consumer)
			if err != nil {
				return err
			}
			defer p.close()
			return a.result(cmd.Context(), p, id, t, wait)
		},
	}
	a.agentFlags(cmd)
	f := cmd.Flags()
	f.StringVar(&out, "out", "result", "`FOLDER` to unpack it into; it must not exist, or be empty")
	f.StringVar(&file, "archive", "", "`FILE` to keep the archive in, instead of unpacking it")
	f.BoolVar(&wait, "wait", false, "wait until there is a result")
	return cmd
}

func (a *app) result(ctx context.Context, p *peer, id *identity, t target, wait bool) error {
	s, err := p.state(ctx, id)
	if err != nil {
		return err
	}
	if wait && slices.Contains([]string{stateAwaiting, stateRunning}, s.State) {
		a.out.hint("the computation is in state %s; waiting for its result", clean(s.State))
		if err := a.waitForEnd(ctx, p); err != nil {
			return err
		}
		if s, err = p.state(ctx, id); err != nil {
			return err
		}
	}
	if s.Result == nil {
		return noResult(s)
	}
	done := fetched{Kind: "archive", Path: t.path, Size: s.Result.Size, SHA256: s.Result.SHA256, State: s.State, Reason: s.Reason}
	if t.folder {
		done.Kind = "folder"
	}
	release, everything := id.manifest.ReleaseTo(id.key.Public())
	output := everything || release.Output
	proof, err := a.resultReceipt(ctx, p, id, s)
	if err != nil {
		return err
	}
	if proof != nil {
		done.Receipt, done.ReceiptVerified = t.path+receiptSuffix, proof.verified
		if err := proof.free(done.Receipt); err != nil {
			return err
		}
	}
	if done.Already, err = t.holds(s.Result); err != nil {
		return err
	}
	if !done.Already {
		part := partName(t.path, s.Result)
		if done.Resumed, err = a.download(ctx, p, part, *s.Result); err != nil {
			return err
		}
		if err := t.take(part, s.Result); err != nil {
			return err
		}
	}
	if proof != nil {
		if err := proof.store(done.Receipt); err != nil {
			return err
		}
	}
	if err := a.confirm(ctx, p, s.Result.SHA256); err != nil {
		return advise(fmt.Errorf("the result is complete and verified in %s, but the agent does not know: %w", t.path, err),
			"run the same command again: it only tells the agent")
	}
	if a.out.json {
		err = a.out.object(done)
	} else {
		err = a.out.text("%s\n", t.path)
	}
	if err != nil {
		return err
	}
	proof.tell(a.out, done.Receipt)
	if s.State == stateFailed {
		q := &problem{reason: s.Reason, err: fmt.Errorf("the computation failed: %s", orUnknown(s.Reason)), hint: "why is in failure.txt in " + t.path}
		if s.Limit != "" {
			q.err = fmt.Errorf("%w, limit %s", q.err, clean(s.Limit))
		}
		if output {
			q.hint += ", with what the algorithm printed in stdout.txt and stderr.txt"
		}
		return q
	}
	a.out.hint("verified, sha256 %s", s.Result.SHA256)
	return nil
}

// waitForEnd follows the events until one says that nothing more will come.
func (a *app) waitForEnd(ctx context.Context, p *peer) error {
	again := func(uint64) string { return "run the same command again" }
	return a.events(ctx, p, 0, true, again, func(e *eventv1.Event) (bool, error) {
		to := e.GetAttributes()["to"]
		return e.GetKind() == vm.EventState && slices.Contains([]string{stateReady, stateReleased, stateFailed, stateStopped}, to), nil
	})
}

// noResult says why there is none, and when there will be.
func noResult(s *stateInfo) error {
	switch s.State {
	case stateAwaiting:
		return &problem{reason: reasonNoResult, err: fmt.Errorf("there is no result yet: the computation awaits %s", s.awaited()),
			hint: "try again when these are there, or give --wait"}
	case stateRunning:
		return &problem{reason: reasonNoResult, err: errors.New("there is no result yet: the algorithm is running"), hint: "try again later, or give --wait"}
	case stateFailed, stateStopped:
		return &problem{reason: s.Reason, err: fmt.Errorf("there is no result: the computation is in state %s: %s", s.State, orUnknown(s.Reason)),
			hint: "cocos-cli events and cocos-cli logs may tell more"}
	}
	return &problem{err: fmt.Errorf("there is no result for you: the computation is in state %s", s.State), hint: "cocos-cli events tells who took it"}
}

func orUnknown(reason string) string {
	if reason == "" {
		return "no reason was given"
	}
	return reason
}

// confirm tells the agent that the result is safe here.
func (a *app) confirm(ctx context.Context, p *peer, d manifest.Digest) error {
	const doing = "confirming the result"
	try := retry{sleep: a.sleep, reached: true}
	quiet := a.out.progress("result", -1)
	for {
		err := func() error {
			ctx, cancel := p.call(ctx)
			defer cancel()
			_, err := p.ConfirmResult(ctx, &agentv1.ConfirmResultRequest{Sha256: d[:]})
			return err
		}()
		if err == nil {
			return nil
		}
		if err := try.next(ctx, p, quiet, doing, err); err != nil {
			return err
		}
	}
}

// target is where the result is to be.
type target struct {
	path   string
	folder bool
}

// holds tells whether the result is there already. Something else in its place
// is an error.
func (t target) holds(want *resultInfo) (bool, error) {
	info, err := os.Lstat(t.path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("storing the result: %w", err)
	}
	other := advise(fmt.Errorf("%s exists and is not this result", t.path), "choose another place with --out or --archive, or move it away")
	if info.IsDir() != t.folder {
		return false, other
	}
	if t.folder {
		entries, err := os.ReadDir(t.path)
		if err != nil {
			return false, fmt.Errorf("storing the result: %w", err)
		}
		if len(entries) == 0 {
			return false, nil
		}
	}
	d, n, err := archive.SumPadded(t.path, want.Size)
	if err != nil || d != want.SHA256 || n != want.Size {
		return false, other
	}
	return true, nil
}

// take makes the verified archive in the partial file the result, and durable.
func (t target) take(part string, want *resultInfo) error {
	if !t.folder {
		if err := os.Rename(part, t.path); err != nil {
			return fmt.Errorf("storing the result: %w", err)
		}
		return syncFile(filepath.Dir(t.path))
	}
	if err := t.unpack(part, want); err != nil {
		return advise(fmt.Errorf("unpacking the result: %w", err), "the archive itself is complete: run with --archive FILE to keep it as it is")
	}
	return os.Remove(part)
}

func (t target) unpack(part string, want *resultInfo) error {
	parent := filepath.Dir(t.path)
	// Unpacked out of everybody's sight; results are not for a machine's other users.
	tmp, err := os.MkdirTemp(parent, ".cocos-result-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp) //nolint:errcheck // empty by then, or the error says more
	f, err := os.Open(part)
	if err != nil {
		return err
	}
	defer f.Close()
	dir := filepath.Join(tmp, "result")
	limits := archive.Limits{Entries: maxEntries, Depth: maxDepth, FileBytes: want.Size, TotalBytes: want.Size, Padding: want.Size}
	if err := archive.Unpack(f, dir, limits); err != nil {
		return err
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		return err
	}
	if err := syncTree(dir); err != nil {
		return err
	}
	// os.Rename does not replace even an empty folder, and Remove only such a one.
	if err := os.Remove(t.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Rename(dir, t.path); err != nil {
		return err
	}
	return syncFile(parent)
}

// syncTree puts a folder on the disk: once confirmed, it is the only copy.
func syncTree(dir string) error {
	return filepath.WalkDir(dir, func(name string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return syncFile(name)
	})
}

func syncFile(name string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
