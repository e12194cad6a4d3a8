package source

import (
	"bytes"
	"context"
	"encoding/pem"
	"errors"
	"io"
	"log"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ultravioletrs/cocos/manifest"
)

// content of the tests' dataset: several of every buffer on the way.
var content = func() []byte {
	b := make([]byte, 700_001)
	r := rand.NewChaCha8([32]byte{1})
	_, _ = r.Read(b)
	return b
}()

// web is a server with TLS whose requests are noted.
type web struct {
	*httptest.Server
	mu   sync.Mutex
	seen []*http.Request
}

func serve(t *testing.T, h http.HandlerFunc) *web {
	t.Helper()
	w := &web{}
	w.Server = httptest.NewUnstartedServer(w.note(h))
	w.Config.ErrorLog = log.New(io.Discard, "", 0) // refused certificates are the point
	w.StartTLS()
	t.Cleanup(w.Close)
	return w
}

func (w *web) note(h http.HandlerFunc) http.HandlerFunc {
	return func(out http.ResponseWriter, r *http.Request) {
		w.mu.Lock()
		w.seen = append(w.seen, r.Clone(r.Context()))
		w.mu.Unlock()
		h(out, r)
	}
}

// requests that came so far.
func (w *web) requests() []*http.Request {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.seen)
}

func (w *web) host() string {
	u, _ := url.Parse(w.URL)
	return u.Host
}

func authority(servers ...*web) string {
	var b strings.Builder
	for _, s := range servers {
		b.Write(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}))
	}
	return b.String()
}

// at is a source at the server.
func (w *web) at(path string) manifest.Source {
	return manifest.Source{URL: w.URL + path, Authorities: authority(w)}
}

// file answers like any web server, ranges included.
func file(b []byte, tag string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if tag != "" {
			w.Header().Set("ETag", tag)
		}
		http.ServeContent(w, r, "data.bin", time.Time{}, bytes.NewReader(b))
	}
}

// cut lets h send at most n bytes of each body, then breaks the connection.
func cut(n int, h http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) { h(&cutting{w, n}, r) }
}

type cutting struct {
	http.ResponseWriter
	left int
}

func (c *cutting) Write(b []byte) (int, error) {
	n, _ := c.ResponseWriter.Write(b[:min(len(b), c.left)])
	if c.left -= n; n < len(b) {
		_ = http.NewResponseController(c.ResponseWriter).Flush()
		panic(http.ErrAbortHandler)
	}
	return n, nil
}

// pauses is a clock of the test's own.
type pauses struct {
	slept  []time.Duration
	broken []string
}

func (p *pauses) options(size int) Options {
	return Options{
		Size: int64(size),
		Sleep: func(ctx context.Context, d time.Duration) error {
			p.slept = append(p.slept, d)
			return ctx.Err()
		},
		Broken: func(problem *Problem) {
			if problem == nil {
				p.broken = append(p.broken, "goes on")
			} else {
				p.broken = append(p.broken, problem.Text)
			}
		},
	}
}

func secretOf(t *testing.T, text string) *Secret {
	t.Helper()
	k, err := ParseSecret([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// readAll opens a source and reads it to its end.
func readAll(t *testing.T, s manifest.Source, k *Secret, o Options) ([]byte, error) {
	t.Helper()
	if faults := s.Validate(); len(faults) > 0 {
		t.Fatal(faults)
	}
	if o.Sleep == nil {
		o.Sleep = (&pauses{}).options(0).Sleep
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	r, err := Open(ctx, s, k, o)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(r)
}

// wants reads a source that is all right.
func wants(t *testing.T, s manifest.Source, k *Secret) {
	t.Helper()
	got, err := readAll(t, s, k, Options{Size: int64(len(content))})
	if err != nil || !bytes.Equal(got, content) {
		t.Errorf("got %d bytes and %v, want the %d of the dataset", len(got), err, len(content))
	}
}

// refuses reads a source that ends with a lasting problem in these words.
func refuses(t *testing.T, s manifest.Source, k *Secret, words string) {
	t.Helper()
	p := &pauses{}
	got, err := readAll(t, s, k, p.options(len(content)))
	var problem *Problem
	if !errors.As(err, &problem) || problem.Passing || !strings.Contains(problem.Text, words) {
		t.Errorf("got %d bytes and %v, want the lasting problem %q", len(got), err, words)
	}
	if len(p.slept) > 0 && !strings.Contains(words, "given up") {
		t.Errorf("waited %v before it gave up", p.slept)
	}
}
