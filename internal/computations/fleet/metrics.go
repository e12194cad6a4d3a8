package fleet

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics are the figures of a fleet.
type metrics struct {
	events, lines, linesDropped, failed, strange prometheus.Counter
	placed                                       prometheus.Counter
	queued                                       prometheus.Gauge
	connected                                    prometheus.GaugeFunc
	batches                                      prometheus.Histogram
}

func newMetrics(f *Fleet) *metrics {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: "cocos_fleet_" + name, Help: help})
	}
	return &metrics{
		events:       counter("events_committed_total", "Events of runs that were committed, each once."),
		lines:        counter("log_lines_committed_total", "Log lines of runs that were committed."),
		linesDropped: counter("log_lines_dropped_total", "Log lines that were dropped, as their host or their run said too much."),
		failed:       counter("commits_failed_total", "Attempts to commit that failed."),
		strange:      counter("strange_runs_total", "Batches in which a host spoke of a run that it was not given."),
		placed:       counter("runs_offered_total", "Runs that were offered to a host."),
		queued:       prometheus.NewGauge(prometheus.GaugeOpts{Name: "cocos_fleet_runs_queued", Help: "Runs that wait for a host, as this process saw last."}),
		connected: prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "cocos_fleet_managers_connected", Help: "Managers that this process serves."},
			func() float64 { return float64(f.Connected()) }),
		batches: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "cocos_fleet_commit_seconds", Help: "How long the commit of a batch took.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5}}),
	}
}

func (m *metrics) register(r prometheus.Registerer) error {
	for _, c := range []prometheus.Collector{m.events, m.lines, m.linesDropped, m.failed, m.strange, m.placed, m.queued, m.connected, m.batches} {
		if err := r.Register(c); err != nil {
			return err
		}
	}
	return nil
}

func (m *metrics) wrote(b *batch, took time.Duration) {
	m.events.Add(float64(b.events))
	m.lines.Add(float64(b.lines))
	m.linesDropped.Add(float64(b.over))
	m.batches.Observe(took.Seconds())
}
