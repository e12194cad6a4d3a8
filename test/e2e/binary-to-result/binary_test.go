// Package binary shows that static and dynamic ELF programs run in a VM, that
// folders travel, and what an algorithm finds around itself.
package binary

import (
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ultravioletrs/cocos/manifest"
	"github.com/ultravioletrs/cocos/test/computations/server"
	"github.com/ultravioletrs/cocos/test/e2e/harness"
)

func TestStaticBinaryAndFolder(t *testing.T) {
	folder := filepath.Join(t.TempDir(), "ward")
	if err := os.MkdirAll(filepath.Join(folder, "2025", "june"), 0o755); err != nil {
		t.Fatal(err)
	}
	var want []string
	for _, name := range []string{"2025/june/1.csv", "2025/june/2.csv", "readme.txt"} {
		content := strings.Repeat(name+"\n", 1000)
		if err := os.WriteFile(filepath.Join(folder, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		want = append(want, fmt.Sprintf("%x  datasets/ward/%s\n", sha256.Sum256([]byte(content)), name))
	}
	h := harness.Start(t)
	r := h.Submit(server.Computation{Algorithm: harness.Algorithm(t), Args: []string{"sum"}, Data: []string{folder}}, nil)
	r.Ready()
	r.Upload()
	r.State("ResultReady")
	dir := r.Result()
	if got := h.Read(dir, "results", "sums.txt"); got != strings.Join(want, "") {
		t.Errorf("the algorithm saw\n%s\nuploaded was\n%s", got, strings.Join(want, ""))
	}
	if got := h.Read(dir, "stdout.txt"); got != "summed\n" {
		t.Errorf("standard output %q", got)
	}
}

func TestDynamicBinary(t *testing.T) {
	program := filepath.Join(t.TempDir(), "count")
	source := filepath.Join(harness.Root(), "test", "e2e", "algorithms", "dynamic.c")
	if out, err := exec.Command("gcc", "-O2", "-o", program, source).CombinedOutput(); err != nil {
		t.Fatalf("compiling %s: %v\n%s", source, err, out)
	}
	data := filepath.Join(t.TempDir(), "bytes.bin")
	if err := os.WriteFile(data, make([]byte, 123_457), 0o600); err != nil {
		t.Fatal(err)
	}
	h := harness.Start(t)
	r := h.Submit(server.Computation{Algorithm: program, Args: []string{"datasets/bytes.bin"}, Data: []string{data}}, nil)
	r.Ready()
	r.Upload()
	r.State("ResultReady")
	if got := h.Read(r.Result(), "results", "count.txt"); got != "123457\n" {
		t.Errorf("the algorithm counted %q", got)
	}
}

func TestWhatAnAlgorithmSees(t *testing.T) {
	h := harness.Start(t)
	data := filepath.Join(t.TempDir(), "one.txt")
	if err := os.WriteFile(data, []byte("1"), 0o600); err != nil {
		t.Fatal(err)
	}
	r := h.Submit(server.Computation{Algorithm: harness.Algorithm(t), Type: manifest.Binary, Args: []string{"look"}, Data: []string{data}}, nil)
	r.Ready()
	r.Upload()
	r.State("ResultReady")
	got := h.Read(r.Result(), "results", "look.txt")
	want := `uid 10001 gid 10001 pid 1
dial 10.0.2.2:7001: reached false
dial 127.0.0.1:7002: reached false
write to the root: refused true
write to datasets: refused true
other processes: 0
`
	// The number of its process is the runtime's choice.
	if lineOff(got, 0) != lineOff(want, 0) || !strings.HasPrefix(got, "uid 10001 gid 10001 ") {
		t.Errorf("the algorithm found\n%s\nexpected\n%s", got, want)
	}
}

// lineOff is s without one of its lines.
func lineOff(s string, n int) string {
	lines := strings.SplitAfter(s, "\n")
	return strings.Join(append(lines[:n:n], lines[n+1:]...), "")
}
