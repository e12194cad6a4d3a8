package cli

import (
	"bytes"
	"testing"
	"time"

	"github.com/ultravioletrs/cocos/internal/bytesize"
	"github.com/ultravioletrs/cocos/manifest"
)

func TestSize(t *testing.T) {
	for n, want := range map[int64]string{
		0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 1536: "1.5 KiB", 1 << 20: "1.0 MiB", 5 << 30: "5.0 GiB", 1 << 50: "1.0 PiB", 1<<63 - 1: "8.0 EiB",
	} {
		if got := bytesize.Round(n); got != want {
			t.Errorf("bytesize.Round(%d) = %q, want %q", n, got, want)
		}
	}
}

func TestBrief(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0:                              "0.0 s",
		400 * time.Millisecond:         "0.4 s",
		12 * time.Second:               "12 s",
		59600 * time.Millisecond:       "1 min 0 s",
		185 * time.Second:              "3 min 5 s",
		2*time.Hour + 10*time.Minute:   "2 h 10 min",
		100*time.Hour + 59*time.Second: "100 h 0 min",
	} {
		if got := brief(d); got != want {
			t.Errorf("brief(%v) = %q, want %q", d, got, want)
		}
	}
}

func TestClean(t *testing.T) {
	for in, want := range map[string]string{
		"plain äöü": "plain äöü",
		"a\nb\tc":   `a b\u0009c`,
		"\x1b[31m":  `\u001b[31m`,
		"\u202eabc": `\u202eabc`,
		"\xff":      "\uFFFD",
		"\u2028":    `\u2028`,
	} {
		if got := clean(in); got != want {
			t.Errorf("clean(%q) = %q, want %q", in, got, want)
		}
	}
}

// TestOutputSendsNoEscapes: text that nobody cleaned before can't move a terminal's
// cursor, and its lines stay lines.
func TestOutputSendsNoEscapes(t *testing.T) {
	var out, hints bytes.Buffer
	o := &output{stdout: &out, stderr: &hints}
	if err := o.result(nil, "id  %s\nname  x\n", "\x1b[2J0193"); err != nil {
		t.Fatal(err)
	}
	o.hint("go on with %s", "\x1b]0;mine\a")
	for got, want := range map[string]string{
		out.String():   "id  \\u001b[2J0193\nname  x\n",
		hints.String(): "go on with \\u001b]0;mine\\u0007\n",
	} {
		if got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

func TestSumLine(t *testing.T) {
	d := manifest.Sum([]byte("hello\n"))
	for name, want := range map[string]string{
		"plain":      d.String() + "  plain\n",
		" sp ace ":   d.String() + "   sp ace \n",
		"back\\":     `\` + d.String() + `  back\\` + "\n",
		"new\nline":  `\` + d.String() + `  new\nline` + "\n",
		"carriage\r": `\` + d.String() + `  carriage\r` + "\n",
	} {
		if got := sumLine(d, name); got != want {
			t.Errorf("sumLine(%q) = %q, want %q", name, got, want)
		}
	}
}
