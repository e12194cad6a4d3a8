package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/ultravioletrs/cocos/internal/computations"
	"github.com/ultravioletrs/cocos/internal/version"
)

const (
	// lookTimeout bounds a look at the database for readiness and metrics.
	lookTimeout = 5 * time.Second
	// metricsTimeout bounds the reading of a request for them.
	metricsTimeout = 10 * time.Second
)

// watch is health and metrics.
type watch struct {
	parts    *parts
	draining atomic.Bool
	registry *prometheus.Registry
	pages    *prometheus.HistogramVec
}

func newWatch(p *parts) *watch {
	w := &watch{
		parts: p, registry: prometheus.NewRegistry(),
		pages: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "cocos_console_request_duration_seconds", Help: "How long the console took to answer, by route and status.",
			Buckets: []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 10},
		}, []string{"route", "status"}),
	}
	build := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "cocos_computations_build_info", Help: "1, with the version of this program.", ConstLabels: prometheus.Labels{"version": version.String()},
	})
	build.Set(1)
	again := prometheus.NewCounterFunc(prometheus.CounterOpts{
		Name: "cocos_store_retries_total", Help: "Transactions that ran again, as others were in their way.",
	}, func() float64 { return float64(p.store.Retries()) })
	w.registry.MustRegister(w.pages, build, again, &lookout{p: p}, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return w
}

// page notes an answer of the console.
func (w *watch) page(route string, status int, took time.Duration) {
	w.pages.WithLabelValues(route, strconv.Itoa(status)).Observe(took.Seconds())
}

// drain says that the service goes down: it is no longer ready.
func (w *watch) drain() { w.draining.Store(true) }

// serve serves health and metrics until ctx ends; without a listener it waits.
func (w *watch) serve(ctx context.Context, l net.Listener) error {
	if l == nil {
		<-ctx.Done()
		return nil
	}
	server := &http.Server{
		Handler: w.handler(), ReadHeaderTimeout: metricsTimeout, ReadTimeout: metricsTimeout, WriteTimeout: 3 * metricsTimeout, IdleTimeout: time.Minute,
		MaxHeaderBytes: 16 << 10, ErrorLog: slog.NewLogLogger(w.parts.log.Handler(), slog.LevelDebug),
	}
	// It ends last, so that a load balancer sees that this process is not ready.
	stop := context.AfterFunc(ctx, func() {
		time.Sleep(min(w.parts.grace, time.Second))
		_ = server.Close() // nothing that counts is cut off
	})
	defer stop()
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serving health and metrics: %w", err)
	}
	return nil
}

func (w *watch) handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(w.registry, promhttp.HandlerOpts{MaxRequestsInFlight: 4, ErrorHandling: promhttp.HTTPErrorOnError}))
	mux.HandleFunc("GET /healthz", func(rw http.ResponseWriter, _ *http.Request) {
		answer(rw, http.StatusOK, map[string]any{"status": "ok"})
	})
	mux.HandleFunc("GET /readyz", func(rw http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), lookTimeout)
		defer cancel()
		switch err := w.parts.store.Check(ctx); {
		case w.draining.Load():
			answer(rw, http.StatusServiceUnavailable, map[string]any{"ready": false, "message": "the service is being stopped"})
		case err != nil:
			w.parts.log.Error("the database can't be used", "error", err)
			answer(rw, http.StatusServiceUnavailable, map[string]any{"ready": false, "message": "the database can't be used; the log says why"})
		default:
			answer(rw, http.StatusOK, map[string]any{"ready": true})
		}
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

// lookout is the database as a collector of what is in it at the moment.
type lookout struct{ p *parts }

var (
	hostsDesc = prometheus.NewDesc("cocos_hosts", "Hosts that have enrolled, by state: connected, away, revoked.", []string{"state"}, nil)
	roomDesc  = prometheus.NewDesc("cocos_hosts_capacity", "VMs that the connected hosts run at most, as far as they say.", nil, nil)
	runsDesc  = prometheus.NewDesc("cocos_runs_active", "Runs that have not ended, by state.", []string{"state"}, nil)
)

// Describe implements prometheus.Collector.
func (l *lookout) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{hostsDesc, roomDesc, runsDesc} {
		out <- d
	}
}

// Collect implements prometheus.Collector.
func (l *lookout) Collect(out chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), lookTimeout)
	defer cancel()
	hosts := map[string]int{"connected": 0, "away": 0, "revoked": 0}
	runs := map[computations.RunState]int{computations.RunQueued: 0, computations.RunOffered: 0, computations.RunStarting: 0, computations.RunRunning: 0}
	room := 0
	err := l.p.store.View(ctx, func(r computations.Reader) error {
		all, err := r.Hosts()
		if err != nil {
			return err
		}
		for _, h := range all {
			switch {
			case !h.Revoked.IsZero():
				hosts["revoked"]++
			case h.Connected:
				hosts["connected"]++
				room += h.Report.Capacity
			default:
				hosts["away"]++
			}
		}
		counts, err := r.CountRuns(slices.Collect(maps.Keys(runs))...)
		maps.Copy(runs, counts)
		return err
	})
	if err != nil {
		out <- prometheus.NewInvalidMetric(runsDesc, err)
		return
	}
	for state, n := range hosts {
		out <- prometheus.MustNewConstMetric(hostsDesc, prometheus.GaugeValue, float64(n), state)
	}
	out <- prometheus.MustNewConstMetric(roomDesc, prometheus.GaugeValue, float64(room))
	for state, n := range runs {
		out <- prometheus.MustNewConstMetric(runsDesc, prometheus.GaugeValue, float64(n), string(state))
	}
}
