package manager

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/ultravioletrs/cocos/internal/vm"
)

// page asks a Manager over the network.
func page(t *testing.T, method, url string, body io.Reader) (status int, text string, header http.Header) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, body)
	if err != nil {
		t.Fatal(err)
	}
	w, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Body.Close()
	b, err := io.ReadAll(w.Body)
	if err != nil {
		t.Fatal(err)
	}
	return w.StatusCode, string(b), w.Header
}

// freeAddress is one that nobody listens on just now.
func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func TestPages(t *testing.T) {
	l := newLab(t, nil)
	address := freeAddress(t)
	began := l.watching(func(cfg *Config) { cfg.HTTPAddr = address })
	stop := l.inside()
	m := began()
	l.until(m, "server_connected", 1)
	url := "http://" + address
	for _, tt := range []struct {
		method, path string
		status       int
		holds        string
	}{
		{http.MethodGet, "/metrics", 200, "cocos_manager_vms{state=\"running\"} 0"},
		{http.MethodHead, "/metrics", 200, ""},
		{http.MethodGet, "/healthz", 200, `{"status":"ok"}`},
		{http.MethodHead, "/healthz", 200, ""},
		{http.MethodGet, "/readyz", 200, `{"ready":true,`},
		{http.MethodHead, "/readyz", 200, ""},
		{http.MethodPost, "/metrics", 405, ""},
		{http.MethodPut, "/readyz", 405, ""},
		{http.MethodDelete, "/healthz", 405, ""},
		{http.MethodOptions, "/healthz", 405, ""},
		{http.MethodTrace, "/metrics", 405, ""},
		{http.MethodGet, "/", 404, ""},
		{http.MethodGet, "/metrics/", 404, ""},
		{http.MethodGet, "/debug/pprof/", 404, ""},
		{http.MethodGet, "/debug/pprof/cmdline", 404, ""},
		{http.MethodGet, "/debug/vars", 404, ""},
		{http.MethodGet, "/healthz/../metrics/x", 404, ""},
	} {
		status, text, _ := page(t, tt.method, url+tt.path, nil)
		if status != tt.status || !strings.Contains(text, tt.holds) {
			t.Errorf("%s %s: %d %.200s", tt.method, tt.path, status, text)
		}
		if tt.method == http.MethodHead && text != "" {
			t.Errorf("HEAD %s has a body", tt.path)
		}
	}
	stop()
	if c, err := net.Dial("tcp", address); err == nil {
		c.Close()
		t.Error("the server goes on without its Manager")
	}
}

func TestReadiness(t *testing.T) {
	l := newLab(t, nil)
	// A server that takes connections and says nothing.
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	began := l.watching(func(cfg *Config) { cfg.Server.Address = silent.Addr().String() })
	defer l.inside()()
	m := began()

	failing := func() (names []string) {
		t.Helper()
		w := newRecorder()
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "/readyz", nil)
		if err != nil {
			t.Fatal(err)
		}
		m.pages().ServeHTTP(w, r)
		var got readiness
		if err := json.Unmarshal([]byte(w.body.String()), &got); err != nil {
			t.Fatalf("%v: %s", err, w.body.String())
		}
		if len(got.Checks) != 3 {
			t.Errorf("checks: %+v", got.Checks)
		}
		for _, c := range got.Checks {
			if !c.OK {
				names = append(names, c.Name)
			}
			if c.OK != (c.Message == "") {
				t.Errorf("%+v", c)
			}
		}
		if got.Ready != (len(names) == 0) || (w.status == http.StatusOK) != got.Ready || !got.Ready && w.status != http.StatusServiceUnavailable {
			t.Errorf("status %d, %s", w.status, w.body.String())
		}
		return names
	}
	expect := func(want ...string) {
		t.Helper()
		if got := failing(); !slices.Equal(got, want) {
			t.Errorf("what fails is %v, want %v", got, want)
		}
	}
	expect("server")
	// Whether or not this user may write anywhere: a folder that is gone takes
	// nothing.
	vms := filepath.Join(l.state, vm.VMsDir)
	if err := os.Rename(vms, vms+".away"); err != nil {
		t.Fatal(err)
	}
	expect("state_dir", "server")
	if err := os.Rename(vms+".away", vms); err != nil {
		t.Fatal(err)
	}
	m.hub.set(newSession(t.Context(), m.at, nil))
	expect()
	m.mu.Lock()
	m.draining = true
	m.mu.Unlock()
	expect("host")
	if entries, err := os.ReadDir(vms); err != nil || len(entries) > 0 {
		t.Errorf("the checks leave %v, %v", entries, err)
	}
}

type recorder struct {
	status int
	header http.Header
	body   strings.Builder
}

func newRecorder() *recorder                    { return &recorder{header: http.Header{}} }
func (r *recorder) Header() http.Header         { return r.header }
func (r *recorder) WriteHeader(status int)      { r.status = status }
func (r *recorder) Write(b []byte) (int, error) { return r.body.Write(b) }

func TestHTTPAddressInUse(t *testing.T) {
	l := newLab(t, nil)
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for _, address := range []string{taken.Addr().String(), "127.0.0.1:99999", "192.0.2.1:9101", "nonsense"} {
		cfg, err := testConfig(l.state, l.address, l.ca, l.env)
		if err != nil {
			t.Fatal(err)
		}
		cfg.Log, cfg.HTTPAddr = slog.New(slog.DiscardHandler), address
		err = Run(l.ctx, cfg)
		if err == nil || !strings.Contains(err.Error(), `MANAGER_HTTP_ADDR="`+address+`"`) || !strings.Contains(err.Error(), "none") {
			t.Errorf("%s: %v", address, err)
		}
	}
}

func TestHTTPIsOff(t *testing.T) {
	l := newLab(t, nil)
	var log strings.Builder
	began := l.watching(func(cfg *Config) {
		cfg.HTTPAddr = ""
		cfg.Log = slog.New(slog.NewTextHandler(&log, nil))
	})
	stop := l.inside()
	began()
	stop()
	if strings.Contains(log.String(), "HTTP") {
		t.Errorf("served all the same:\n%s", log.String())
	}
}

// TestHTTPStrangersAreBounded: those who connect and say nothing, or too much,
// keep nobody else and not the Manager's end.
func TestHTTPStrangersAreBounded(t *testing.T) {
	l := newLab(t, nil)
	address := freeAddress(t)
	began := l.watching(func(cfg *Config) { cfg.HTTPAddr = address })
	stop := l.inside()
	began()
	for range httpConnections / 2 {
		c, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := io.WriteString(c, "GET /metrics HTTP/1.1\r\nHost: x\r\n"); err != nil {
			t.Fatal(err)
		}
	}
	if status, _, _ := page(t, http.MethodGet, "http://"+address+"/healthz", nil); status != http.StatusOK {
		t.Errorf("status %d", status)
	}
	r, err := http.NewRequestWithContext(context.Background(), http.MethodGet, "http://"+address+"/healthz", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("X", strings.Repeat("x", 1<<20))
	if w, err := http.DefaultClient.Do(r); err == nil {
		defer w.Body.Close()
		if w.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
			t.Errorf("a megabyte of header: %d", w.StatusCode)
		}
	}
	stop()
}
