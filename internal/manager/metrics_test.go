package manager

import (
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus/testutil"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	eventv1 "github.com/ultravioletrs/cocos/api/event/v1"
	managerv1 "github.com/ultravioletrs/cocos/api/manager/v1"
	"github.com/ultravioletrs/cocos/internal/vm"
)

// scraped is what /metrics says: "name{label=value}" to the value, or the count
// of a histogram.
type scraped map[string]float64

func scrape(t *testing.T, m *Manager) scraped {
	t.Helper()
	w := httptest.NewRecorder()
	m.pages().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	if w.Code != http.StatusOK {
		t.Fatalf("/metrics: %d %s", w.Code, w.Body)
	}
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(w.Body)
	if err != nil {
		t.Fatalf("/metrics is not what Prometheus reads: %v", err)
	}
	out := scraped{}
	for name, f := range families {
		for _, m := range f.GetMetric() {
			var labels []string
			for _, l := range m.GetLabel() {
				labels = append(labels, l.GetName()+"="+l.GetValue())
			}
			key := strings.TrimPrefix(name, "cocos_manager_")
			if len(labels) > 0 {
				key += "{" + strings.Join(labels, ",") + "}"
			}
			switch f.GetType() {
			case dto.MetricType_COUNTER:
				out[key] = m.GetCounter().GetValue()
			case dto.MetricType_GAUGE:
				out[key] = m.GetGauge().GetValue()
			case dto.MetricType_HISTOGRAM:
				out[key] = float64(m.GetHistogram().GetSampleCount())
			}
		}
	}
	return out
}

// watching makes l tell of its next Manager inside the test.
func (l *lab) watching(change func(*Config)) (manager func() *Manager) {
	began := make(chan *Manager, 1)
	l.change = func(cfg *Config) {
		cfg.HTTPAddr = "127.0.0.1:0"
		cfg.began = func(m *Manager) { began <- m }
		if change != nil {
			change(cfg)
		}
	}
	return func() *Manager {
		l.t.Helper()
		select {
		case m := <-began:
			return m
		case <-l.ctx.Done():
			l.t.Fatal("the Manager does not begin")
			return nil
		}
	}
}

// until waits for a figure.
func (l *lab) until(m *Manager, key string, want float64) {
	l.t.Helper()
	for l.ctx.Err() == nil {
		if got := scrape(l.t, m)[key]; got == want {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	l.t.Fatalf("%s does not get %v; there is %v", key, want, scrape(l.t, m))
}

// TestFiguresOfARun: all that a run changes, while it is there and afterwards.
func TestFiguresOfARun(t *testing.T) {
	l := newLab(t, nil, wholeLife)
	began := l.watching(func(cfg *Config) {
		cfg.Host.Limits = Limits{MaxVMs: 1, MaxMemoryMiB: 4096, MaxVCPUs: 8, MinFreeDisk: 1 << 20}
	})
	stop := l.inside()
	m := began()
	l.until(m, "server_connected", 1)
	id := l.submit()
	l.released(id)
	l.until(m, "events_unacknowledged{source=agent}", 0)
	l.until(m, "events_unacknowledged{source=shim}", 0)

	during := scrape(t, m)
	for key, want := range map[string]float64{
		"vms{state=running}": 1, "vms{state=starting}": 0, "vms{state=lost}": 0,
		"runs_accepted_total": 1, "events_relayed_total{source=agent}": 5, "events_acknowledged_total{source=agent}": 5,
		"vm_boot_seconds": 1, "vm_stop_seconds": 0,
		"limit_vms": 1, "limit_memory_bytes": 4096 << 20, "limit_vcpus": 8, "limit_disk_free_bytes": 1 << 20,
		"used_vms": 1, "used_memory_bytes": 1024 << 20, "used_vcpus": 1,
		"server_connections_total": 1, "server_connection_failures_total": 0, "draining": 0,
		"log_lines_total{source=shim}": 1, "runs_ended_total{how=stopped}": 0,
	} {
		if got, ok := during[key]; !ok || got != want {
			t.Errorf("while it runs %s is %v (there: %v), want %v", key, got, ok, want)
		}
	}
	if during["disk_free_bytes"] <= 0 || during["spool_bytes{spool=shim}"] <= 0 || during["spool_bytes{spool=manager}"] <= 0 {
		t.Errorf("disk %v, spools %v and %v", during["disk_free_bytes"], during["spool_bytes{spool=shim}"], during["spool_bytes{spool=manager}"])
	}
	l.resubmit(id)
	l.until(m, "run_requests_repeated_total", 1)
	full := l.submit()
	if reply, _, err := l.server.Reply(l.ctx, full); err != nil || reply.GetRefusal() == nil {
		t.Fatalf("a second VM: %v, %v", reply, err)
	}
	l.server.Submit(&managerv1.RunRequest{RunId: uuid.NewString(), Manifest: []byte("{}")})
	l.until(m, "runs_refused_total{reason=INVALID}", 1)
	l.until(m, "runs_refused_total{reason=NO_CAPACITY}", 1)
	l.stopRun(id)
	l.complete(id)
	l.empty()
	l.until(m, "used_vms", 0)
	l.stopRun(full)
	l.until(m, "stop_requests_total{result=NOT_FOUND}", 1)
	l.server.Disconnect()
	l.until(m, "server_connections_total", 2)
	for key, want := range map[string]float64{
		"vms{state=running}": 0, "runs_accepted_total": 1, "runs_ended_total{how=stopped}": 1, "runs_ended_total{how=exited}": 0,
		"vm_stop_seconds": 1, "stop_requests_total{result=ok}": 1, "server_connection_failures_total": 1,
		"used_memory_bytes": 0, "spool_bytes{spool=shim}": 0, "events_relayed_total{source=manager}": 2, "shim_failures_total": 0,
	} {
		if got, ok := scrape(t, m)[key]; !ok || got != want {
			t.Errorf("afterwards %s is %v (there: %v), want %v", key, got, ok, want)
		}
	}
	for key := range scrape(t, m) {
		if strings.Contains(key, id) || strings.Contains(key, full) {
			t.Errorf("a run's id is a label: %s", key)
		}
	}
	stop()
}

// TestNoLimitIsAbsent: a limit of 0 would say that nothing is allowed.
func TestNoLimitIsAbsent(t *testing.T) {
	l := newLab(t, nil)
	began := l.watching(func(cfg *Config) { cfg.Host.Limits.MaxScratch = NoLimit })
	defer l.inside()()
	for key := range scrape(t, began()) {
		if strings.HasPrefix(key, "limit_") {
			t.Errorf("%s is there", key)
		}
	}
}

func TestMetricsLint(t *testing.T) {
	l := newLab(t, nil)
	began := l.watching(func(cfg *Config) {
		cfg.Host.Limits = Limits{MaxVMs: 1, MaxMemoryMiB: 4096, MaxVCPUs: 8, MinFreeDisk: 1, MaxScratch: 1}
	})
	defer l.inside()()
	problems, err := testutil.GatherAndLint(began().witness.metrics.registry)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
}

func TestHowRunsEnd(t *testing.T) {
	const shim, manager = eventv1.Source_SOURCE_SHIM, eventv1.Source_SOURCE_MANAGER
	exited := func(code string) func(*story) {
		return func(s *story) {
			tellOf(s, shim, vm.EventExited, 30, map[string]string{"exit_status": code})
		}
	}
	kind := func(k string) func(*story) { return func(s *story) { tellOf(s, shim, k, 20, nil) } }
	lost := func(s *story) { tellOf(s, manager, vm.EventLost, 30, nil) }
	for want, tells := range map[string][][]func(*story){
		howExited:  {{exited("0")}},
		howFailed:  {{exited("1")}, {exited("")}, {exited("127")}},
		howStopped: {{kind(vm.EventStopping), exited("0")}, {kind(vm.EventStopping), exited("137")}},
		howSilent:  {{kind(vm.EventSilent), kind(vm.EventStopping), exited("0")}},
		howExpired: {{kind(vm.EventExpired), kind(vm.EventStopping), exited("0")}},
		howLost:    {{lost}, {kind(vm.EventStopping), lost}},
	} {
		for _, steps := range tells {
			s, _ := testStory(t, nil)
			for _, step := range steps {
				step(s)
			}
			tellOf(s, manager, vm.EventRemoved, 40, nil)
			tellOf(s, manager, vm.EventRemoved, 41, nil)
			for _, how := range []string{howExited, howFailed, howStopped, howSilent, howExpired, howLost} {
				got := testutil.ToFloat64(s.metrics.ended.WithLabelValues(how))
				if got != map[bool]float64{true: 1, false: 0}[how == want] {
					t.Errorf("a run that is %s counts %v as %s", want, got, how)
				}
			}
		}
	}
}

// TestLabelsAreFixed: after all that a hostile guest and server can say, no
// series is there that was not there from the start.
func TestLabelsAreFixed(t *testing.T) {
	s, _ := testStory(t, nil)
	names := func() []string {
		families, err := s.metrics.registry.Gather()
		if err != nil {
			t.Fatal(err)
		}
		var out []string
		for _, f := range families {
			if !strings.HasPrefix(f.GetName(), "cocos_") {
				continue
			}
			for _, m := range f.GetMetric() {
				out = append(out, f.GetName()+labelsOf(m))
			}
		}
		return out
	}
	before := names()
	h := heard{sink: nowhere{}, story: s}
	for _, source := range []eventv1.Source{1, 2, 3} {
		for _, kind := range []string{"x.y", "agent.state", `a"b`, vm.EventExited} {
			if err := h.Event(t.Context(), &eventv1.Event{Source: source, Sequence: 1, Kind: kind, Attributes: map[string]string{kind: kind}}); err != nil {
				t.Fatal(err)
			}
		}
	}
	h.Log(&eventv1.Log{Source: 1, Level: 99, Message: "x"})
	w := witnessed{&Manager{witness: s.witness, watched: newWatched(at(0))}}
	w.cfg.Log = s.log
	w.ack(eventKey{run: "x", source: 77, sequence: 1})
	if after := names(); !slices.Equal(before, after) {
		t.Errorf("there were %d series, now %d:\n%v", len(before), len(after), after)
	}
}

func labelsOf(m *dto.Metric) string {
	var out []string
	for _, l := range m.GetLabel() {
		out = append(out, l.GetName()+"="+l.GetValue())
	}
	return "{" + strings.Join(out, ",") + "}"
}

// TestFiguresAreDocumented: docs/observability.md names all of them and no other.
func TestFiguresAreDocumented(t *testing.T) {
	page, err := os.ReadFile("../../docs/observability.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(page), "A test compares this table")
	table, _, _ = strings.Cut(table, "\n\nWhen ")
	documented := map[string]bool{}
	for row := range strings.Lines(table) {
		if cells := strings.Split(row, "|"); len(cells) > 3 {
			for _, name := range regexp.MustCompile("`([a-z_]+)`").FindAllStringSubmatch(cells[1], -1) {
				documented[name[1]] = true
			}
		}
	}
	l := newLab(t, nil)
	began := l.watching(func(cfg *Config) {
		cfg.Host.Limits = Limits{MaxVMs: 1, MaxMemoryMiB: 4096, MaxVCPUs: 8, MinFreeDisk: 1, MaxScratch: 1}
	})
	defer l.inside()()
	served := map[string]bool{}
	families, err := began().witness.metrics.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if name, ours := strings.CutPrefix(f.GetName(), "cocos_manager_"); ours {
			served[name] = true
			if !documented[name] {
				t.Errorf("%s is not in the table", name)
			}
		}
	}
	for name := range documented {
		if !served[name] {
			t.Errorf("%s is in the table and not served", name)
		}
	}
}

// TestShimFailuresCount: of a shim that talks nonsense.
func TestShimFailuresCount(t *testing.T) {
	l := newLab(t, nil, envBad+"=garbage")
	began := l.watching(hasty)
	stop := l.inside()
	m := began()
	id := l.submit()
	for scrape(t, m)["shim_failures_total"] < 2 {
		if l.ctx.Err() != nil {
			t.Fatal("no failure is counted")
		}
		time.Sleep(10 * time.Millisecond)
	}
	l.stopRun(id)
	l.complete(id)
	l.until(m, "runs_ended_total{how=lost}", 1)
	stop()
}
