package cli

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"syscall"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	agentv1 "github.com/ultravioletrs/cocos/api/agent/v1"
	"github.com/ultravioletrs/cocos/internal/bulk"
	"github.com/ultravioletrs/cocos/internal/bytesize"
	"github.com/ultravioletrs/cocos/manifest"
)

// download is a result archive on its way into a partial file, which stays for
// the next run if this one is cut.
type download struct {
	peer *peer
	want resultInfo
	part *os.File
	hash hash.Hash
	held int64
	show *progress
	try  retry
}

// partName is the partial file of a result that will be final: it names the
// result too, so that the beginning of another one is never continued.
func partName(final string, want *resultInfo) string {
	return final + "." + want.SHA256.String()[:16] + ".part"
}

// download leaves the whole, verified archive in the partial file of that name.
// It returns how many bytes were there before.
func (a *app) download(ctx context.Context, p *peer, name string, want resultInfo) (resumed int64, err error) {
	part, err := openPart(name)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, part.Close()) }()
	d := &download{peer: p, want: want, part: part, hash: sha256.New(), try: retry{sleep: a.sleep, resume: goesOn}}
	d.show = a.out.progress("result", want.Size)
	defer d.show.stop()
	if err := d.resume(); err != nil {
		return 0, err
	}
	resumed = d.held
	d.try.progress(0) // the agent has told its state already
	for d.held < want.Size {
		err := d.attempt(ctx)
		d.try.progress(d.held)
		if err == nil {
			continue
		}
		var local *problem
		if errors.As(err, &local) {
			return resumed, err
		}
		if err := d.try.next(ctx, p, d.show, "fetching the result", err); err != nil {
			return resumed, err
		}
	}
	if got := manifest.Digest(d.hash.Sum(nil)); got != want.SHA256 {
		return resumed, &problem{reason: reasonDigest, hint: "it was thrown away: run the same command again",
			err: errors.Join(fmt.Errorf("the result that arrived has the sha256 %s, and the agent announced %s", got, want.SHA256), os.Remove(name))}
	}
	if err := part.Sync(); err != nil {
		return resumed, fmt.Errorf("writing %s: %w", name, err)
	}
	d.show.finish("fetched")
	return resumed, nil
}

// openPart opens a partial file for this process alone.
func openPart(name string) (*os.File, error) {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, advise(fmt.Errorf("storing the result: %w", err), "choose with --out or --archive a place that you can write to")
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close() //nolint:errcheck // nothing was written
		return nil, advise(fmt.Errorf("%s is in use: another cocos-cli fetches this result", name), "wait for it, or choose another --out or --archive")
	}
	return f, nil
}

// resume takes over what an earlier run left, hashing it anew.
func (d *download) resume() error {
	n, err := io.CopyBuffer(onlyWriter{d.hash}, onlyReader{d.part}, make([]byte, readSize))
	if err != nil {
		return fmt.Errorf("reading %s: %w", d.part.Name(), err)
	}
	whole := n == d.want.Size && manifest.Digest(d.hash.Sum(nil)) == d.want.SHA256
	if n >= d.want.Size && !whole {
		d.hash.Reset()
		n = 0
	}
	if err := d.part.Truncate(n); err != nil {
		return fmt.Errorf("writing %s: %w", d.part.Name(), err)
	}
	if _, err := d.part.Seek(n, io.SeekStart); err != nil {
		return fmt.Errorf("writing %s: %w", d.part.Name(), err)
	}
	d.held = n
	d.show.begin(n)
	if n > 0 {
		d.show.note("%s of %s are here already; going on from there", bytesize.Round(n), bytesize.Round(d.want.Size))
	}
	return nil
}

// attempt makes one call of Result. Its errors are those of the call, or
// problems that no other attempt would solve.
func (d *download) attempt(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := d.peer.Result(ctx, &agentv1.ResultRequest{Offset: uint64(d.held)})
	if err != nil {
		return err
	}
	first, err := stream.Recv()
	if errors.Is(err, io.EOF) {
		return errEarly
	}
	if err != nil {
		return err
	}
	info, err := resultOf(first.GetInfo())
	if err != nil {
		return &problem{err: fmt.Errorf("fetching the result: %w", err), hint: "this agent can't be right: look at the run's events"}
	}
	if *info != d.want {
		return &problem{err: fmt.Errorf("the agent announced a result of %d bytes with sha256 %s, and now sends one of %d bytes with sha256 %s",
			d.want.Size, d.want.SHA256, info.Size, info.SHA256), hint: "run the same command again"}
	}
	if len(first.GetChunk()) > 0 {
		return &problem{err: errors.New("fetching the result: the agent's first message has data"), hint: "the agent is of another version than this program: cocos-cli version"}
	}
	at := d.held
	n, err := bulk.Receive(stream, d.want.Size-d.held, func(n int) {
		at += int64(n)
		d.show.set(at)
	}, d.part, d.hash)
	var sink *bulk.SinkError
	switch {
	case errors.As(err, &sink):
		return &problem{err: fmt.Errorf("writing %s: %w", d.part.Name(), sink.Err), hint: "make room, then run the same command again: it goes on where this one stopped"}
	case errors.Is(err, bulk.ErrNotChunk), errors.Is(err, bulk.ErrTooLong):
		return &problem{err: fmt.Errorf("fetching the result: %w", err), hint: "the agent is of another version than this program: cocos-cli version"}
	}
	d.held += n
	if err == nil && d.held < d.want.Size {
		return errEarly
	}
	return err
}

var errEarly = status.Error(codes.Unavailable, "the agent ended the result early")
