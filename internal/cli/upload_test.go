package cli

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/ultravioletrs/cocos/internal/archive"
)

func noise(n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{1}).Read(b) //nolint:errcheck // never fails
	return b
}

func TestUploadGoesOnAfterEveryCut(t *testing.T) {
	const n = 3<<20 + 17
	for name, cuts := range map[string][]int{
		"none":            nil,
		"before anything": {0},
		"after one byte":  {1},
		"between chunks":  {1 << 20, 2 << 20},
		"many":            {0, 5, 1<<20 - 1, 1<<20 + 1, 3 << 20},
		"at the end":      {n},
	} {
		t.Run(name, func(t *testing.T) {
			f := &fakeAgent{want: noise(n), cuts: cuts}
			f.serve(t)
			u := newUser(t)
			u.with(f, "algo", u.file("algo", f.want)).wants(t, ExitOK, "the agent has verified the algorithm")
			if !f.complete || !bytes.Equal(f.held, f.want) {
				t.Fatalf("the agent holds %d bytes, complete: %t", len(f.held), f.complete)
			}
			if len(u.sleeps) < len(cuts) {
				t.Errorf("%d pauses for %d cuts", len(u.sleeps), len(cuts))
			}
		})
	}
}

func TestFolderUploadGoesOnAfterACut(t *testing.T) {
	u := newUser(t)
	u.file("photos/b/2.bin", noise(1<<20+3))
	u.file("photos/a.txt", []byte("one"))
	var packed bytes.Buffer
	if err := archive.Pack(&packed, u.path("photos")); err != nil {
		t.Fatal(err)
	}
	f := &fakeAgent{want: packed.Bytes(), cuts: []int{100, 700, 1 << 20}}
	f.serve(t)
	u.with(f, "data", u.path("photos"), "--name", "photos").wants(t, ExitOK, "verified the dataset photos")
	if !bytes.Equal(f.held, f.want) {
		t.Fatal("the agent holds other bytes")
	}
}

func TestUploadThatIsThereAlreadySendsNothing(t *testing.T) {
	f := &fakeAgent{want: []byte("x"), held: []byte("x"), complete: true}
	f.serve(t)
	u := newUser(t)
	o := u.with(f, "algo", u.file("algo", f.want), "--json")
	o.wants(t, ExitOK, `"already_there":true`)
	if f.count("Upload") != 0 {
		t.Error("Upload was called")
	}
}

func TestUploadOfAWrongSizeSendsNothing(t *testing.T) {
	for name, content := range map[string]string{"a byte short": "1234", "a byte long": "123456", "empty": ""} {
		t.Run(name, func(t *testing.T) {
			f := &fakeAgent{want: []byte("12345")}
			f.serve(t)
			u := newUser(t)
			u.with(f, "data", u.file("d", []byte(content)), "--name", "d").wants(t, ExitFailure, "the computation expects 5", "nothing was sent")
			if f.count("Upload") != 0 {
				t.Error("Upload was called")
			}
		})
	}
}

func TestWrongDigestIsFinal(t *testing.T) {
	f := &fakeAgent{want: []byte("right")}
	f.serve(t)
	u := newUser(t)
	o := u.with(f, "data", u.file("d", []byte("wrong")), "--name", "d", "--json")
	o.wants(t, ExitFailure)
	message, reason, field, hint := o.failure(t)
	if reason != "digest_mismatch" || field != "sha256" || hint != "give the right file" || !strings.Contains(message, "it is not right") {
		t.Errorf("got %q %q %q %q", message, reason, field, hint)
	}
	if f.count("Upload") != 1 || len(u.sleeps) != 0 {
		t.Errorf("%d uploads and %d pauses; a wrong digest is final", f.count("Upload"), len(u.sleeps))
	}
}

func TestUploadWaitsForAnotherOne(t *testing.T) {
	f := &fakeAgent{want: []byte("data"), uploadErrs: []error{
		refusal(codes.Aborted, "busy", "", "wait"), refusal(codes.Aborted, "busy", "", "wait"),
	}}
	f.serve(t)
	u := newUser(t)
	u.with(f, "data", u.file("d", f.want), "--name", "d").wants(t, ExitOK, "trying again")
	if len(u.sleeps) != 2 {
		t.Errorf("%d pauses, want 2", len(u.sleeps))
	}
}

func TestUploadGivesUpWithoutProgress(t *testing.T) {
	f := &fakeAgent{want: noise(1 << 20), cuts: []int{1000}, gone: true}
	f.serve(t)
	u := newUser(t)
	u.with(f, "data", u.file("d", f.want), "--name", "d").wants(t, ExitFailure, "run the same command again: it goes on where this one stopped")
	if len(u.sleeps) != maxTries {
		t.Errorf("%d pauses, want %d", len(u.sleeps), maxTries)
	}
	var total time.Duration
	for i, d := range u.sleeps {
		total += d
		if d > longPause || (i > 0 && i < 5 && d <= u.sleeps[i-1]) {
			t.Errorf("pauses %v do not grow to %v", u.sleeps, longPause)
		}
	}
	if total < 35*time.Second {
		t.Errorf("gave up after %v: before an agent drops a dead connection", total)
	}
}

func TestInterruptedUploadSaysHowToResume(t *testing.T) {
	f := &fakeAgent{want: noise(1 << 20), uploadErrs: []error{status.Error(codes.Aborted, "busy")}}
	f.serve(t)
	u := newUser(t)
	ctx, cancel := context.WithCancel(t.Context())
	var stderr bytes.Buffer
	code := run(ctx, Env{
		Args:   u.flags(f, "data", u.file("d", f.want), "--name", "d"),
		Stdout: &bytes.Buffer{}, Stderr: &stderr, Getenv: func(string) string { return "" }, Columns: columns(0),
	}, timing{time.Now, func(ctx context.Context, _ time.Duration) error {
		cancel() // Ctrl-C
		return ctx.Err()
	}})
	outcome{code, "", stderr.String()}.wants(t, ExitInterrupted, "cocos-cli: interrupted\n", "run the same command again")
}

func TestFileThatShrinksIsNotClosedAsComplete(t *testing.T) {
	u := newUser(t)
	in, err := openInput(u.file("d", []byte("12345")))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(in.path, 3); err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	var local *readError
	if err := in.copyFrom(&b, 0); !errors.As(err, &local) {
		t.Errorf("got %v, want an error of reading", err)
	}
}
