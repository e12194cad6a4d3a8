package hostcheck

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestRun(t *testing.T) {
	release := make(chan struct{})
	defer close(release)
	list := []probe{
		{"hangs", time.Millisecond, func(context.Context, *host, Config) []Finding { <-release; return nil }},
		{"gives up", time.Millisecond, func(ctx context.Context, _ *host, _ Config) []Finding { <-ctx.Done(); return warn("late", "", "wait") }},
		{"two", brief, func(context.Context, *host, Config) []Finding { return append(ok("a"), named("own name", ok("b"))...) }},
		{"none", brief, func(context.Context, *host, Config) []Finding { return nil }},
	}
	got := run(t.Context(), nil, Config{}, list)
	var names []string
	for _, f := range got {
		names = append(names, f.Name+" "+string(f.Verdict))
	}
	if want := []string{"hangs fail", "gives up warn", "two ok", "own name ok"}; !slices.Equal(names, want) {
		t.Errorf("got %q, want %q", names, want)
	}
	if !strings.Contains(got[0].Found, "no answer within 1ms") {
		t.Errorf("got %+v", got[0])
	}
}

// Run on the machine that runs the test comes to an end, tells of everything,
// and changes nothing that another run would tell of.
func TestRunHere(t *testing.T) {
	c := goodConfig(t)
	c.QEMU, c.KVM = "/nowhere/qemu", "false"
	c.Image.Dir, c.Server.Address = t.TempDir(), "127.0.0.1:1"
	// What other programs use meanwhile must not change a verdict.
	c.HTTPAddr, c.MemoryMiB, c.Limits = "", 1, Limits{MaxVMs: 1}
	first, second := Run(t.Context(), c), Run(t.Context(), c)
	told := map[string]bool{}
	for _, f := range first {
		told[f.Name] = true
	}
	for _, p := range probes {
		if !told[p.name] {
			t.Errorf("nothing is said of %s", p.name)
		}
	}
	if len(first) != len(second) {
		t.Errorf("first %+v\nthen %+v", first, second)
	}
	for i := range min(len(first), len(second)) {
		if first[i].Name != second[i].Name || first[i].Verdict != second[i].Verdict {
			t.Errorf("first %+v, then %+v", first[i], second[i])
		}
	}
	if !Failed(first) {
		t.Error("nothing failed")
	}
}

func TestWrite(t *testing.T) {
	fs := []Finding{
		{"kvm", OK, "works", "", ""},
		{"state directory", Fail, "a\nb \x1b[2Jname", "rights\u202e", "chown x"},
		{"disk", Warn, "full", "", "rm"},
	}
	var b bytes.Buffer
	if err := Write(&b, fs, false); err != nil {
		t.Fatal(err)
	}
	const want = "" +
		"ok    kvm              works\n" +
		"fail  state directory  a b \ufffd[2Jname; needed: rights\ufffd\n" +
		"                       -> chown x\n" +
		"warn  disk             full\n" +
		"                       -> rm\n" +
		"1 failed, 1 warned, 1 in order\n"
	if b.String() != want {
		t.Errorf("got\n%s\nwant\n%s", &b, want)
	}
	b.Reset()
	if err := Write(&b, fs, true); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(b.String(), "\x1b[32mok  \x1b[0m  kvm ") || strings.Contains(b.String(), "\x1b[2J") {
		t.Errorf("in colour: %q", &b)
	}
}

func TestWriteJSON(t *testing.T) {
	for worst, fs := range map[Verdict][]Finding{
		OK:   {{"a", OK, "f", "", ""}, {"b", Info, "f", "", "m"}},
		Warn: {{"a", Info, "f", "", ""}, {"b", Warn, "f<", "n", "m"}},
		Fail: {{"a", Warn, "f", "n", "m"}, {"b", Fail, "f\nf", "n", "a && b"}},
	} {
		var b bytes.Buffer
		if err := WriteJSON(&b, fs, Description{VCPUs: 3}); err != nil {
			t.Fatal(err)
		}
		var got struct {
			Verdict  string
			Findings []map[string]string
			Host     Description
		}
		d := json.NewDecoder(&b)
		if err := d.Decode(&got); err != nil {
			t.Fatal(err)
		}
		if got.Verdict != string(worst) || len(got.Findings) != len(fs) || got.Host != (Description{VCPUs: 3}) {
			t.Errorf("got %+v, want %s", got, worst)
		}
		for i, f := range fs {
			want := map[string]string{"name": f.Name, "verdict": string(f.Verdict), "found": f.Found, "needed": f.Needed, "mend": f.Mend}
			for k, v := range want {
				if got.Findings[i][k] != v {
					t.Errorf("%s: got %q, want %q", k, got.Findings[i][k], v)
				}
			}
		}
		if Failed(fs) != (worst == Fail) {
			t.Errorf("Failed says %v of %s", Failed(fs), worst)
		}
	}
}

func TestBytesText(t *testing.T) {
	for n, want := range map[int64]string{0: "0 KiB", 1536: "1.5 KiB", 2 << 20: "2 MiB", 5 << 30: "5 GiB", 3 << 40: "3 TiB", 4 << 50: "4096 TiB"} {
		if got := bytesText(n); got != want {
			t.Errorf("%d: %q, want %q", n, got, want)
		}
	}
}

func Example() {
	_ = Write(printer{}, []Finding{{"vsock", Fail, "there is no /dev/vhost-vsock", "the kernel's vsock", "modprobe vhost_vsock"}}, false)
	// Output:
	// fail  vsock  there is no /dev/vhost-vsock; needed: the kernel's vsock
	//              -> modprobe vhost_vsock
	// 1 failed, 0 warned, 0 in order
}

type printer struct{}

func (printer) Write(p []byte) (int, error) { return fmt.Print(string(p)) }
