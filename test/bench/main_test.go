package main

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// testLab works in a folder of the test's own.
func testLab(t *testing.T) *lab {
	t.Helper()
	return &lab{dir: t.TempDir(), size: 3*mib + 5, runs: 1}
}

func ok(names ...string) bench {
	return bench{names, func(context.Context, *lab) (rows []row, err error) {
		for _, n := range names {
			rows = append(rows, row{name: n, unit: "1", values: series{1}})
		}
		return rows, nil
	}}
}

func names(t *testing.T, file string) (found []string) {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var figures []figure
	if err := json.Unmarshal(b, &figures); err != nil {
		t.Fatal(err)
	}
	for _, f := range figures {
		found = append(found, f.Name)
	}
	return found
}

func TestARowThatFailsIsNamedAndTheOthersAreMeasured(t *testing.T) {
	broken := bench{[]string{"two", "two_rss"}, func(context.Context, *lab) ([]row, error) {
		return nil, errors.New("no such machine")
	}}
	out := filepath.Join(t.TempDir(), "bench.json")
	var table strings.Builder
	err := measure(t.Context(), testLab(t), []bench{ok("one"), broken, ok("three")}, &table, out)
	if err == nil || !strings.Contains(err.Error(), "failed: two, two_rss") || strings.Contains(err.Error(), "one") {
		t.Errorf("error %v; expected it to name two and two_rss alone", err)
	}
	if got, want := names(t, out), []string{"one", "three"}; !slices.Equal(got, want) {
		t.Errorf("the file has %v, want %v", got, want)
	}
	if !strings.Contains(table.String(), "three") {
		t.Errorf("the table lacks what came after the failure:\n%s", &table)
	}
}

func TestARowThatIsMissingIsAFailure(t *testing.T) {
	forgets := ok("one")
	forgets.rows = []string{"one", "two"}
	err := measure(t.Context(), testLab(t), []bench{forgets}, new(strings.Builder), "")
	if err == nil || !strings.Contains(err.Error(), "failed: two") {
		t.Errorf("error %v; expected it to name two", err)
	}
	empty := bench{[]string{"one"}, func(context.Context, *lab) ([]row, error) { return []row{{name: "one"}}, nil }}
	if err := measure(t.Context(), testLab(t), []bench{empty}, new(strings.Builder), ""); err == nil {
		t.Error("a row without a figure passed")
	}
}

func TestAnErrorAfterTheFiguresIsAFailure(t *testing.T) {
	untidy := ok("one", "two")
	measured := untidy.run
	untidy.run = func(ctx context.Context, l *lab) ([]row, error) {
		rows, err := measured(ctx, l)
		return rows, errors.Join(err, errors.New("a process did not end"))
	}
	err := measure(t.Context(), testLab(t), []bench{untidy}, new(strings.Builder), "")
	if err == nil || !strings.Contains(err.Error(), "failed: one, two") {
		t.Errorf("error %v; expected it to name one and two", err)
	}
}

func TestAnInterruptWritesNothing(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	last := bench{[]string{"one"}, func(context.Context, *lab) ([]row, error) {
		cancel()
		return nil, ctx.Err()
	}}
	out := filepath.Join(t.TempDir(), "bench.json")
	if err := measure(ctx, testLab(t), []bench{last}, new(strings.Builder), out); !errors.Is(err, errInterrupted) {
		t.Errorf("error %v", err)
	}
	if _, err := os.Stat(out); err == nil {
		t.Error("figures were written")
	}
}

func TestChoose(t *testing.T) {
	all := func() []bench { return []bench{ok("a", "a_rss"), ok("b"), ok("c")} }
	for only, want := range map[string][]string{
		"":          {"a", "b", "c"},
		"b":         {"b"},
		"a_rss,c":   {"a", "c"},
		"c,a":       {"a", "c"},
		"a,a_rss,a": {"a"},
	} {
		chosen, err := choose(all(), only)
		var got []string
		for _, b := range chosen {
			got = append(got, b.rows[0])
		}
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("-only %q: %v %v, want %v", only, got, err, want)
		}
	}
	for _, only := range []string{"d", "a,d", "a,", "A"} {
		if _, err := choose(all(), only); err == nil || !strings.Contains(err.Error(), "a, a_rss, b, c") {
			t.Errorf("-only %q: %v; expected the names that there are", only, err)
		}
	}
}

func TestArguments(t *testing.T) {
	for arg, want := range map[string]string{
		"-size=0":             "-size 0",
		"-size=2000000000000": "-size 2000000000000",
		"-runs=0":             "-runs 0",
		"-runs=101":           "-runs 101",
		"rubbish":             "rubbish",
		"-only=nothing":       "nothing",
	} {
		if err := run(t.Context(), []string{arg}, new(strings.Builder)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v; expected an error with %q", arg, err, want)
		}
	}
}

func TestMemoryLines(t *testing.T) {
	const log = "2026-01-01T00:00:00Z debug memory of the agent resident_kib=10000 peak_kib=12000\n" +
		"2026-01-01T00:00:01Z info something else peak_kib=99999\n" +
		"2026-01-01T00:00:02Z debug memory of the agent resident_kib=20000 peak_kib=34000\n"
	if idle, peak, err := memoryLines(log); err != nil || idle != 10000 || peak != 34000 {
		t.Errorf("%d, %d, %v", idle, peak, err)
	}
	if _, _, err := memoryLines("2026-01-01T00:00:01Z info nothing of it\n"); err == nil {
		t.Error("a log without such a line is taken")
	}
}

// The names are promised to whoever reads the file.
func TestNamesOfRows(t *testing.T) {
	var got []string
	for _, b := range benches() {
		got = append(got, b.rows...)
	}
	for _, want := range []string{
		"upload_1gib", "upload_1gib_agent_rss", "upload_parallel_4", "upload_8gib_scratch", "upload_8gib_agent_rss", "scratch_throughput", "scratch_write_throughput", "result_1gib", "checksum_1gib",
		"boot_agent_ready", "vsock_throughput", "vsock_roundtrip", "events_per_second",
		"stream_events_per_second", "run_to_boot", "adopt_100_shims", "manager_rss", "shim_rss", "idle_cpu_manager", "idle_cpu_shim",
		"boot_agent_ready_simulated", "atls_handshakes", "verify_snp", "verify_tdx", "verify_sgx", "measure_snp",
		"runtime_start_binary", "runtime_start_python", "runtime_start_wasm", "runtime_start_container", "isolation_overhead",
	} {
		if !slices.Contains(got, want) {
			t.Errorf("there is no row %s", want)
		}
	}
	slices.Sort(got)
	if len(slices.Compact(slices.Clone(got))) != len(got) {
		t.Errorf("a name stands twice: %v", got)
	}
}

func TestPerOperation(t *testing.T) {
	got, err := perOperation("goos: linux\nBenchmarkVerify \t 1234\t 812345 ns/op\nBenchmarkVerify-2   \t10\t 2000000 ns/op\t 3 B/op\nPASS\n")
	if err != nil || !slices.Equal(got, series{0.812345, 2}) {
		t.Errorf("%v, %v", got, err)
	}
	if got, err := perOperation("PASS\n"); err == nil {
		t.Errorf("of nothing: %v", got)
	}
}

func TestWarmLeavesNothing(t *testing.T) {
	l := testLab(t)
	if err := l.warm(); err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(l.dir); err != nil || len(left) != 0 {
		t.Errorf("left: %v %v", left, err)
	}
	l.dir = filepath.Join(l.dir, "missing")
	if err := l.warm(); err == nil {
		t.Error("no error in a folder that does not exist")
	}
}

func TestAMissingProgramSaysWhatToDo(t *testing.T) {
	l := testLab(t)
	missing := filepath.Join(l.dir, "cocos-nothing")
	_, err := l.start("nothing", nil, missing)
	_, _, timedErr := timed(t.Context(), missing)
	for _, err := range []error{err, timedErr} {
		if err == nil || !strings.Contains(err.Error(), missing) || !strings.Contains(err.Error(), "make build") {
			t.Errorf("error %v", err)
		}
	}
}
