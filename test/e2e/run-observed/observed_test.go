// Package observed shows that one computation in a real VM can be followed by
// its id: in the Manager's log through Manager, shim and agent, in the spans
// that reach a collector, and in the figures over HTTP.
package observed

import (
	"bufio"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ultravioletrs/cocos/internal/telemetry/otlptest"
	"github.com/ultravioletrs/cocos/internal/vm"
	"github.com/ultravioletrs/cocos/test/computations/server"
	"github.com/ultravioletrs/cocos/test/e2e/harness"
)

func TestRunIsObserved(t *testing.T) {
	data := filepath.Join(t.TempDir(), "numbers.txt")
	if err := os.WriteFile(data, []byte("secret-of-the-data\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	address := freeAddress(t)
	c := otlptest.New(t)
	h := harness.Start(t, harness.Env("MANAGER_HTTP_ADDR="+address), harness.Env("MANAGER_LOG_FORMAT=json"),
		harness.Env("MANAGER_LOG_LEVEL=info"), harness.Env("COCOS_JAEGER_URL="+c.URL), harness.Env("COCOS_JAEGER_TRACE_RATIO=1"))
	h.ManagerReady()
	get(t, address, "/readyz", http.StatusOK, `"ready":true`)
	r := h.Submit(server.Computation{Algorithm: harness.Algorithm(t), Args: []string{"sum"}, Data: []string{data}}, nil)
	r.Ready()
	get(t, address, "/metrics", http.StatusOK, "\ncocos_manager_vms{state=\"running\"} 1\n", "\ncocos_manager_vm_boot_seconds_count 1\n")
	r.Upload()
	r.State("ResultReady")
	r.Result()
	r.State("Released")
	r.Stop()
	get(t, address, "/metrics", http.StatusOK, "\ncocos_manager_vms{state=\"running\"} 0\n", "\ncocos_manager_vm_stop_seconds_count 1\n",
		"\ncocos_manager_runs_ended_total{how=\"stopped\"} 1\n", "\ncocos_manager_runs_accepted_total 1\n")

	spans := spansOf(t, c, 10)
	checkSpans(t, spans, r.ID)
	checkLog(t, h.ManagerLog(), r.ID)
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func get(t *testing.T, address, path string, status int, holds ...string) {
	t.Helper()
	r, err := http.Get("http://" + address + path)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err != nil || r.StatusCode != status {
		t.Errorf("%s: %d, %v: %s", path, r.StatusCode, err, b)
	}
	for _, want := range holds {
		if !strings.Contains("\n"+string(b), want) {
			t.Errorf("%s lacks %q", path, want)
		}
	}
}

// spansOf waits for that many spans; they come in batches.
func spansOf(t *testing.T, c *otlptest.Collector, n int) []otlptest.Span {
	t.Helper()
	for deadline := time.Now().Add(harness.EndLimit); len(c.Spans()) < n; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d of %d spans came: %+v", len(c.Spans()), n, c.Spans())
		}
	}
	return c.Spans()
}

func checkSpans(t *testing.T, spans []otlptest.Span, run string) {
	t.Helper()
	var names []string
	root := ""
	for _, s := range spans {
		names = append(names, s.Name)
		if s.Name == "run" {
			root = s.ID
		}
		t.Logf("%-14s %8.3f s", s.Name, s.End.Sub(s.Start).Seconds())
	}
	slices.Sort(names)
	want := []string{"agent.inputs", "agent.result", "agent.running", "run", "run.accept", "run.removal", "shim.start", "vm.boot", "vm.start", "vm.stop"}
	if !slices.Equal(names, want) {
		t.Errorf("spans %v, want %v", names, want)
	}
	for _, s := range spans {
		if s.Trace != spans[0].Trace || s.Attributes["cocos.run"] != run || s.Error || s.End.Before(s.Start) {
			t.Errorf("%+v", s)
		}
		if want := map[bool]string{true: "", false: root}[s.Name == "run"]; s.Parent != want {
			t.Errorf("%s is under %q, want %q", s.Name, s.Parent, want)
		}
	}
}

// checkLog reads the lines of one run, as `grep` would find them.
func checkLog(t *testing.T, log, run string) {
	t.Helper()
	sources, kinds := map[string]int{}, map[string]bool{}
	for lines := bufio.NewScanner(strings.NewReader(log)); lines.Scan(); {
		var line struct {
			Run, Source, Msg, Kind string
		}
		if err := json.Unmarshal(lines.Bytes(), &line); err != nil {
			t.Fatalf("a line is no JSON: %v: %s", err, lines.Text())
		}
		if line.Run != run {
			continue
		}
		sources[line.Source]++
		if line.Msg == "event" {
			kinds[line.Source+" "+line.Kind] = true
		}
		if strings.Contains(lines.Text(), "secret-of-the-data") || strings.Contains(lines.Text(), "summed") {
			t.Errorf("data, or what the algorithm printed, is in the log: %s", lines.Text())
		}
	}
	for _, source := range []string{"manager", "shim", "agent"} {
		if sources[source] == 0 {
			t.Errorf("nothing of the %s is in the log under the run's id:\n%s", source, log)
		}
	}
	for _, want := range []string{"shim " + vm.EventStarting, "shim " + vm.EventBooting, "agent " + vm.EventReady,
		"agent " + vm.EventInput, "agent " + vm.EventState, "shim " + vm.EventStopping, "shim " + vm.EventExited} {
		if !kinds[want] {
			t.Errorf("the log lacks the event %s", want)
		}
	}
	t.Logf("lines in the log by source: %v", sources)
}
