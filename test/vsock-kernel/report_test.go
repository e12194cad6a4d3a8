package main

import (
	"bytes"
	"io"
	"strings"
	"testing"
)

// What a good run says, in the order of testing.
func goodRun() string {
	var b strings.Builder
	b.WriteString("[    3.2] some kernel's words\r\n=== RUN   TestKernelHostWithVM\r\n")
	for _, name := range required() {
		b.WriteString("    --- PASS: " + name + " (0.10s)\r\n")
	}
	return b.String() + "PASS\r\n" + passed + "\r\n"
}

func TestVerdict(t *testing.T) {
	names := required()
	one := names[len(names)/2]
	for _, c := range []struct {
		name, says string
		edit       func(string) string
	}{
		{name: "all passed", edit: func(s string) string { return s }},
		{"one failed", "FAIL: " + one, func(s string) string { return strings.Replace(s, "PASS: "+one+" ", "FAIL: "+one+" ", 1) }},
		{"one was skipped", "SKIP: " + one, func(s string) string { return strings.Replace(s, "PASS: "+one+" ", "SKIP: "+one+" ", 1) }},
		{"one is missing", "did not run: " + one, func(s string) string { return strings.Replace(s, "--- PASS: "+one+" ", "", 1) }},
		{"the VM died at the end", "good end", func(s string) string { return strings.Replace(s, passed, "", 1) }},
		{"the VM said it failed", "good end", func(s string) string { return strings.Replace(s, "outer: PASSED", "outer: FAILED", 1) }},
		{"nothing was said", "good end", func(string) string { return "" }},
	} {
		t.Run(c.name, func(t *testing.T) {
			var shown bytes.Buffer
			r := newReport(&shown)
			said := c.edit(goodRun())
			for _, b := range []byte(said) { // a serial port's pieces are of any size
				r.Write([]byte{b})
			}
			n, err := r.judge(names)
			if c.says == "" && (err != nil || n != len(names)) || c.says != "" && (err == nil || !strings.Contains(err.Error(), c.says)) {
				t.Errorf("%d passed, %v; want %q", n, err, c.says)
			}
			if said != "" && !strings.Contains(shown.String(), "some kernel's words") {
				t.Errorf("shown:\n%s", shown.String())
			}
		})
	}
	t.Run("no test at all", func(t *testing.T) {
		r := newReport(io.Discard)
		r.note(passed)
		r.Write([]byte(passed + "\n"))
		if _, err := r.judge(nil); err == nil || !strings.Contains(err.Error(), "no test ran") {
			t.Error(err)
		}
	})
}
