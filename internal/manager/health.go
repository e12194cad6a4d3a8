package manager

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/net/netutil"
	"golang.org/x/sys/unix"

	"github.com/ultravioletrs/cocos/internal/telemetry"
	"github.com/ultravioletrs/cocos/internal/vm"
)

// Bounds of the HTTP server.
const (
	httpConnections   = 32
	httpHeaderBytes   = 8 << 10
	httpHeaderTimeout = 5 * time.Second
	httpTimeout       = 30 * time.Second
	httpIdle          = time.Minute
	// httpAtOnce bounds scrapes, each of which looks at every run.
	httpAtOnce = 4
	// httpGoodbye is what requests get to end when the Manager does.
	httpGoodbye = 2 * time.Second
)

// serveHTTP serves health and metrics on HTTPAddr until stop is called, and
// nothing else: there is no profiler, and nothing can be changed.
func (m *Manager) serveHTTP() (stop func(), err error) {
	if m.cfg.HTTPAddr == "" {
		return func() {}, nil
	}
	if err := m.witness.metrics.registry.Register(lookout{m}); err != nil {
		return nil, fmt.Errorf("preparing metrics: %w", err)
	}
	l, err := net.Listen("tcp", m.cfg.HTTPAddr)
	if err != nil {
		return nil, fmt.Errorf("MANAGER_HTTP_ADDR=%q: %w; set another ADDRESS:PORT, or none to do without health and metrics", m.cfg.HTTPAddr, err)
	}
	log := m.cfg.Log.With("address", l.Addr().String())
	if a, err := netip.ParseAddrPort(l.Addr().String()); err == nil && !a.Addr().IsLoopback() {
		log.Warn("health and metrics can be read from other hosts, by anybody who reaches MANAGER_HTTP_ADDR")
	}
	log.Info("serving health and metrics over HTTP")
	server := &http.Server{
		Handler:           m.pages(),
		ReadHeaderTimeout: httpHeaderTimeout, ReadTimeout: httpHeaderTimeout,
		WriteTimeout: httpTimeout, IdleTimeout: httpIdle,
		MaxHeaderBytes: httpHeaderBytes,
		ErrorLog:       slog.NewLogLogger(m.cfg.Log.Handler(), slog.LevelDebug), // strangers cause these
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := server.Serve(netutil.LimitListener(l, httpConnections)); !errors.Is(err, http.ErrServerClosed) {
			log.Error("serving health and metrics ended", "error", err)
		}
	}()
	return func() {
		ctx, cancel := context.WithTimeout(context.Background(), httpGoodbye)
		defer cancel()
		if server.Shutdown(ctx) != nil {
			_ = server.Close()
		}
		<-done
	}, nil
}

// pages are all that there is.
func (m *Manager) pages() http.Handler {
	scrape := promhttp.HandlerFor(m.witness.metrics.registry, promhttp.HandlerOpts{
		MaxRequestsInFlight: httpAtOnce,
		ErrorHandling:       promhttp.HTTPErrorOnError,
	})
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", scrape) // and HEAD
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, http.StatusOK, map[string]string{"status": "ok"})
	})
	looks := make(chan struct{}, 1) // they write to the disk: one at a time
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		select {
		case looks <- struct{}{}:
			defer func() { <-looks }()
		case <-r.Context().Done():
			return
		}
		checks := m.ready()
		report := readiness{Ready: true, Checks: checks}
		status := http.StatusOK
		for _, c := range checks {
			if !c.OK {
				report.Ready, status = false, http.StatusServiceUnavailable
			}
		}
		answer(w, status, report)
	})
	return mux
}

func answer(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // the caller went away
}

// readiness is the body of /readyz.
type readiness struct {
	Ready  bool    `json:"ready"`
	Checks []check `json:"checks"`
}

// check is one thing that a Manager needs to take runs.
type check struct {
	Name    string `json:"name"`
	OK      bool   `json:"ok"`
	Message string `json:"message,omitempty"`
}

// ready looks at all that a Manager needs to take runs.
func (m *Manager) ready() []check {
	state := check{Name: "state_dir", OK: true}
	if err := writable(filepath.Join(m.cfg.StateDir, vm.VMsDir)); err != nil {
		state = check{Name: "state_dir", Message: fmt.Sprintf("MANAGER_STATE_DIR can't be written to: %v", err)}
	}
	server := check{Name: "server", OK: m.connected()}
	if !server.OK {
		server.Message = fmt.Sprintf("not connected to %s (MANAGER_GRPC_URL)", m.cfg.Server.Address)
		if why := m.watched.line.get().why; why != "" {
			server.Message += ": " + telemetry.Clean(why, maxLine)
		}
	}
	m.mu.Lock()
	draining := m.draining
	m.mu.Unlock()
	host := check{Name: "host", OK: !draining}
	if draining {
		host.Message = "the host is shutting down and takes no runs"
	}
	return []check{state, server, host}
}

// writable tells why nothing can be written to a folder; what it writes has no
// name and goes with its descriptor.
func writable(dir string) error {
	f, err := os.OpenFile(dir, unix.O_TMPFILE|os.O_WRONLY, 0o600)
	if errors.Is(err, unix.EOPNOTSUPP) {
		return unix.Access(dir, unix.W_OK)
	}
	if err != nil {
		return err
	}
	_, err = f.Write(make([]byte, 4096))
	return errors.Join(err, f.Close())
}
