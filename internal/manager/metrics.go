package manager

import (
	"io/fs"
	"path/filepath"
	"runtime"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	eventv1 "github.com/ultravioletrs/cocos/api/event/v1"
	"github.com/ultravioletrs/cocos/internal/vm"
)

// metrics is what a Manager counts. Every label has a fixed list of values, none
// of which a guest or a server chooses: a run's id is never a label.
type metrics struct {
	registry *prometheus.Registry

	accepted, repeated prometheus.Counter
	refused, stops     *prometheus.CounterVec // by reason; by result
	ended              *prometheus.CounterVec // by how
	relayed, acked     *prometheus.CounterVec // by source
	lines              *prometheus.CounterVec // by source
	dropped            *prometheus.CounterVec // by where
	// connects counts streams to the server, breaks those that ended or were not
	// opened.
	connects, breaks prometheus.Counter
	shimFailures     prometheus.Counter
	boot, stop       prometheus.Histogram
}

// How a run can have ended.
const (
	howExited  = "exited"  // the guest powered off
	howFailed  = "failed"  // QEMU failed, or never ran
	howStopped = "stopped" // it was told to
	howSilent  = "silent"  // the agent never dialled
	howExpired = "expired" // its time was over
	howLost    = "lost"    // the shim was gone
)

// Where log lines can be dropped.
const (
	dropGuest  = "guest"  // before the Manager, in agent or shim
	dropLog    = "log"    // on the way into the Manager's log
	dropServer = "server" // on the way to the server
)

const namespace = "cocos_manager"

var (
	allReasons = []string{string(Invalid), string(Unsupported), string(NoCapacity), string(NotFound), string(AlreadyExists), string(Internal)}
	allStates  = []vm.State{vm.Starting, vm.Booting, vm.Running, vm.Stopping, vm.Exited, vm.Lost}
	allSources = []string{"agent", "shim", "manager"}
)

// sourceName is the label, and the word in logs, of who speaks.
func sourceName(s eventv1.Source) string {
	switch s {
	case eventv1.Source_SOURCE_AGENT:
		return "agent"
	case eventv1.Source_SOURCE_SHIM:
		return "shim"
	case eventv1.Source_SOURCE_MANAGER:
		return "manager"
	}
	return "unknown"
}

// outcome is the label of an answer.
func outcome(faults []Fault) string {
	if len(faults) == 0 {
		return "ok"
	}
	return string(faults[0].Reason)
}

func newMetrics(version string) *metrics {
	m := &metrics{registry: prometheus.NewRegistry()}
	counter := func(name, help string) prometheus.Counter {
		c := prometheus.NewCounter(prometheus.CounterOpts{Namespace: namespace, Name: name, Help: help})
		m.registry.MustRegister(c)
		return c
	}
	counters := func(name, help, label string, values ...string) *prometheus.CounterVec {
		c := prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: namespace, Name: name, Help: help}, []string{label})
		for _, v := range values {
			c.WithLabelValues(v) // there from the start, so that rates are right
		}
		m.registry.MustRegister(c)
		return c
	}
	histogram := func(name, help string, buckets ...float64) prometheus.Histogram {
		h := prometheus.NewHistogram(prometheus.HistogramOpts{Namespace: namespace, Name: name, Help: help, Buckets: buckets})
		m.registry.MustRegister(h)
		return h
	}
	m.accepted = counter("runs_accepted_total", "Run requests that were accepted.")
	m.repeated = counter("run_requests_repeated_total", "Run requests that repeat an accepted one and start nothing.")
	m.refused = counters("runs_refused_total", "Run requests that were refused, by the reason of their first fault.", "reason", allReasons...)
	m.stops = counters("stop_requests_total", "Stop requests of the server, by result: ok, or the reason of the refusal.", "result", append([]string{"ok"}, allReasons...)...)
	m.ended = counters("runs_ended_total", "Runs that are over, by how their VM ended.", "how", howExited, howFailed, howStopped, howSilent, howExpired, howLost)
	m.relayed = counters("events_relayed_total", "Events sent to the server, repetitions included.", "source", allSources...)
	m.acked = counters("events_acknowledged_total", "Acknowledgements of events by the server, repetitions included.", "source", allSources...)
	m.lines = counters("log_lines_total", "Log lines that shims and agents told.", "source", "agent", "shim")
	m.dropped = counters("log_lines_dropped_total", "Log lines that were dropped: before they reached the Manager (guest), on their way into its log (log) or to the server (server).", "where", dropGuest, dropLog, dropServer)
	m.connects = counter("server_connections_total", "Streams to the server that were opened and greeted.")
	m.breaks = counter("server_connection_failures_total", "Streams to the server that broke or could not be opened.")
	m.shimFailures = counter("shim_failures_total", "Times a shim could not be reached, did not answer, or answered nonsense.")
	m.boot = histogram("vm_boot_seconds", "Time from QEMU's start until the agent was ready.", 0.5, 1, 2, 3, 5, 7.5, 10, 15, 20, 30, 45, 60, 90, 120, 180, 300, 600)
	m.stop = histogram("vm_stop_seconds", "Time from the request to stop a VM to its end.", 0.1, 0.25, 0.5, 1, 2, 5, 10, 15, 20, 30, 45, 60, 120)
	build := prometheus.NewGauge(prometheus.GaugeOpts{Namespace: namespace, Name: "build_info", Help: "Always 1; what runs is in the labels.",
		ConstLabels: prometheus.Labels{"version": version, "go": runtime.Version()}})
	build.Set(1)
	m.registry.MustRegister(build, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

func gauge(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(prometheus.BuildFQName(namespace, "", name), help, labels, nil)
}

// What is looked up when it is asked for.
var (
	descVMs          = gauge("vms", "VMs whose folders are there, by state as it was told last.", "state")
	descUnacked      = gauge("events_unacknowledged", "Events that wait for the server's acknowledgement: those of the Manager itself, and those of VMs that were sent.", "source")
	descSpool        = gauge("spool_bytes", "Size on disk of the spools of events, by who writes them.", "spool")
	descConnected    = gauge("server_connected", "1 while the stream to the server is up.")
	descLimitVMs     = gauge("limit_vms", "MANAGER_MAX_VMS; absent where there is no limit.")
	descLimitMem     = gauge("limit_memory_bytes", "MANAGER_MAX_VM_MEMORY; absent where there is no limit.")
	descLimitVCPUs   = gauge("limit_vcpus", "MANAGER_MAX_VCPUS; absent where there is no limit.")
	descLimitDisk    = gauge("limit_disk_free_bytes", "MANAGER_MIN_FREE_DISK: what must stay free; absent where there is no limit.")
	descLimitScratch = gauge("limit_scratch_bytes", "MANAGER_SCRATCH_MAX; absent where there is no limit.")
	descUsedVMs      = gauge("used_vms", "VMs that count towards the limit.")
	descUsedMem      = gauge("used_memory_bytes", "Memory of those VMs.")
	descUsedVCPUs    = gauge("used_vcpus", "Virtual CPUs of those VMs.")
	descUsedScratch  = gauge("used_scratch_bytes", "Size of the scratch disks of those VMs, whether written to or not.")
	descDiskFree     = gauge("disk_free_bytes", "Free on the file system of MANAGER_STATE_DIR; absent while it can't be measured.")
	descDraining     = gauge("draining", "1 while the host takes no more runs because it is to shut down.")
)

var allDescs = []*prometheus.Desc{descVMs, descUnacked, descSpool, descConnected, descLimitVMs, descLimitMem,
	descLimitVCPUs, descLimitDisk, descLimitScratch, descUsedScratch, descUsedVMs, descUsedMem, descUsedVCPUs, descDiskFree, descDraining}

// lookout is a Manager as a collector of what it has at the moment.
type lookout struct{ *Manager }

var _ prometheus.Collector = lookout{}

// Describe implements prometheus.Collector.
func (l lookout) Describe(out chan<- *prometheus.Desc) {
	for _, d := range allDescs {
		out <- d
	}
}

// Collect implements prometheus.Collector.
func (l lookout) Collect(out chan<- prometheus.Metric) {
	value := func(d *prometheus.Desc, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	limit := func(d *prometheus.Desc, v float64) {
		if v > 0 {
			value(d, v)
		}
	}
	l.mu.Lock()
	runs := make([]*run, 0, len(l.runs))
	for _, r := range l.runs {
		runs = append(runs, r)
	}
	used, draining := l.used(), l.draining
	l.mu.Unlock()

	states := map[vm.State]int{}
	unacked := map[string]uint64{}
	var shims, own int64
	for _, r := range runs {
		states[r.lastState()]++
		unacked["manager"] += r.own.Unacknowledged()
		for source, n := range r.theirs.waiting() {
			unacked[sourceName(source)] += n
		}
		shims += size(r.dir.Spool())
		own += size(r.dir.ManagerSpool())
	}
	for _, s := range allStates {
		value(descVMs, float64(states[s]), string(s))
	}
	for _, s := range allSources {
		value(descUnacked, float64(unacked[s]), s)
	}
	value(descSpool, float64(shims), "shim")
	value(descSpool, float64(own), "manager")

	value(descConnected, truth(l.connected()))

	limits := l.cfg.Host.Limits
	const mib = 1 << 20
	limit(descLimitVMs, float64(limits.MaxVMs))
	limit(descLimitMem, float64(limits.MaxMemoryMiB)*mib)
	limit(descLimitVCPUs, float64(limits.MaxVCPUs))
	limit(descLimitDisk, float64(limits.MinFreeDisk))
	if limits.MaxScratch != NoLimit { // 0 is a limit, too
		value(descLimitScratch, float64(limits.MaxScratch))
	}
	value(descUsedScratch, float64(used.scratch))
	value(descUsedVMs, float64(used.vms))
	value(descUsedMem, float64(used.memoryMiB)*mib)
	value(descUsedVCPUs, float64(used.vcpus))
	if free, err := l.cfg.freeDisk(l.cfg.StateDir); err == nil {
		value(descDiskFree, float64(free))
	}
	value(descDraining, truth(draining))
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// size is that of a folder's files, in bytes; what goes meanwhile counts nothing.
func size(dir string) int64 {
	var total int64
	_ = filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return nil
		}
		if info, err := e.Info(); err == nil {
			total += info.Size()
		}
		return nil
	})
	return total
}

// waiting counts the events that were sent and are not acknowledged.
func (t *tracker) waiting() map[eventv1.Source]uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	out := map[eventv1.Source]uint64{}
	for source, p := range t.sources {
		out[source] = p.highest - p.acked - uint64(len(p.ahead))
	}
	return out
}

// connected tells whether the stream to the server is up.
func (m *Manager) connected() bool {
	s, _ := m.hub.get()
	return s != nil
}

// The link of a test may have no metrics.

func (m *metrics) lostLines(n uint64) {
	if m != nil {
		m.dropped.WithLabelValues(dropServer).Add(float64(n))
	}
}

func (m *metrics) connected() {
	if m != nil {
		m.connects.Inc()
	}
}

func (m *metrics) broken() {
	if m != nil {
		m.breaks.Inc()
	}
}
