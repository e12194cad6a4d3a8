package telemetry

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"
)

// hostile are texts that a guest may send to pass for somebody else.
var hostile = map[string]string{
	"a line of its own":  "x\ntime=2026-01-01T00:00:00Z level=ERROR msg=\"the host is on fire\" run=r source=manager",
	"carriage return":    "x\rlevel=ERROR msg=forged",
	"windows line":       "x\r\n{\"level\":\"ERROR\",\"msg\":\"forged\"}\n",
	"unicode lines":      "x\u2028level=ERROR msg=forged\u2029y\u0085z\vw\fv",
	"end of the quotes":  "x\" level=ERROR msg=\"forged",
	"escaped quote":      `x\" level=ERROR msg=forged`,
	"end of the object":  `x"} {"level":"ERROR","msg":"forged"}`,
	"bare keys":          "level=ERROR msg=forged",
	"terminal colours":   "\x1b[31mred\x1b[0m \x1b]0;title\x07 \x1bc",
	"eight-bit terminal": "\u009b31mred\xc2\x9b2J",
	"cursor":             "\x1b[2K\x1b[1A\rtime=now level=ERROR msg=forged",
	"backspaces":         "good\b\b\b\bevil",
	"right to left":      "abc\u202e gro.elpmaxe\u202c \u2066x\u2069 \u200f",
	"nothing to see":     "a\u200bb\ufeffc\u00add\U000e0041",
	"invalid UTF-8":      "a\xff\xfe\xc3(b\xed\xa0\x80c",
	"NUL":                "a\x00b",
	"one long line":      strings.Repeat("A", 1<<20),
	"long and quoted":    strings.Repeat(`"\`, 1<<19),
	"long and escaped":   strings.Repeat("\x1b[31m\n", 1<<17),
	"long and invalid":   strings.Repeat("\xff", 1<<20),
}

// textLine is a line of the text format: every value is bare or quoted.
var textLine = regexp.MustCompile(`^(?:[a-z.]+=(?:[^\s"=]+|"(?:[^"\\]|\\.)*")(?: |$))+$`)

// TestNoForgedLines: whatever a guest says, in a message, a value, an error, a
// key or a group, the log has one line for it, which is whole, printable and
// bounded, and says what the logger said.
func TestNoForgedLines(t *testing.T) {
	for name, text := range hostile {
		for _, format := range Formats {
			t.Run(name+"/"+format, func(t *testing.T) {
				var out bytes.Buffer
				log, err := NewLogger(&out, format, "info")
				if err != nil {
					t.Fatal(err)
				}
				log.With(Run, "r-1", Source, "agent").Info("the agent says", "text", text, "error", errors.New(text),
					slog.Group("attr", slog.String("reason", text)))
				log.With("text", text).Warn(text)
				log.Info("m", text, "v")

				if !bytes.HasSuffix(out.Bytes(), []byte("\n")) {
					t.Error("the last line has no end")
				}
				lines := strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
				if len(lines) != 3 {
					t.Fatalf("%d lines for 3 records:\n%.2000s", len(lines), out.String())
				}
				for _, line := range lines {
					if len(line) >= 48<<10 {
						t.Errorf("a line of %d bytes: journald would split it", len(line))
					}
					if !utf8.ValidString(line) {
						t.Error("not UTF-8")
					}
					for _, r := range line {
						if !unicode.IsPrint(r) {
							t.Fatalf("%U is in the log", r)
						}
					}
				}
				if format == "json" {
					checkJSON(t, lines[0])
				} else {
					checkText(t, lines[0])
				}
			})
		}
	}
}

func checkJSON(t *testing.T, line string) {
	t.Helper()
	d := json.NewDecoder(strings.NewReader(line))
	var got map[string]any
	if err := d.Decode(&got); err != nil {
		t.Fatal(err)
	}
	if d.More() {
		t.Error("something follows the object")
	}
	if got["level"] != "INFO" || got["msg"] != "the agent says" || got["run"] != "r-1" || got["source"] != "agent" {
		t.Errorf("level %v, msg %v, run %v, source %v", got["level"], got["msg"], got["run"], got["source"])
	}
}

func checkText(t *testing.T, line string) {
	t.Helper()
	if !textLine.MatchString(line) {
		t.Fatalf("not a line of keys and values: %.300s", line)
	}
	prefix := regexp.MustCompile(`^time=\S+ level=INFO msg="the agent says" run=r-1 source=agent text=`)
	if !prefix.MatchString(line) {
		t.Errorf("the line begins with %.200s", line)
	}
	// Outside of quotes no key of the logger's is there twice.
	bare := regexp.MustCompile(`"(?:[^"\\]|\\.)*"`).ReplaceAllString(line, "Q")
	for _, key := range []string{"time=", "level=", "msg=", "run=", "source="} {
		if n := strings.Count(" "+bare, " "+key); n != 1 {
			t.Errorf("%s is there %d times in %.300s", key, n, bare)
		}
	}
}

// TestLineIsBounded: so is one with many values, and what With left.
func TestLineIsBounded(t *testing.T) {
	for _, format := range Formats {
		var out bytes.Buffer
		log, err := NewLogger(&out, format, "info")
		if err != nil {
			t.Fatal(err)
		}
		for i := range 200 {
			log = log.With(fmt.Sprint("k", i), strings.Repeat(`"`, 1000))
		}
		var values []any
		for i := range 200 {
			values = append(values, fmt.Sprint("v", i), strings.Repeat(`"`, 1000), fmt.Sprint("n", i), i)
		}
		log.Info("still told", values...)
		if n := out.Len(); n >= 48<<10 {
			t.Errorf("%s: %d bytes", format, n)
		}
		if !strings.Contains(out.String(), "still told") || strings.Count(out.String(), "\n") != 1 {
			t.Errorf("%s: %.200s", format, out.String())
		}
	}
}

func TestLoggerKeepsWhatIsHarmless(t *testing.T) {
	var out bytes.Buffer
	log, err := NewLogger(&out, "text", "warn")
	if err != nil {
		t.Fatal(err)
	}
	log.Info("not at this level")
	log.With(Run, "r").WithGroup("g").Warn("grüße, 世界", "n", 7, "yes", true, "d", 1500*time.Millisecond, "ids", []string{"a", "b"},
		"error", fmt.Errorf("a: %w", errors.New("b")), "e", "")
	_, got, _ := strings.Cut(out.String(), " ")
	want := "level=WARN msg=\"grüße, 世界\" run=r g.n=7 g.yes=true g.d=1.5s g.ids=\"[a b]\" g.error=\"a: b\" g.e=\"\"\n"
	if got != want {
		t.Errorf("got  %swant %s", got, want)
	}
	if log.Enabled(context.Background(), slog.LevelInfo) {
		t.Error("lines below the level are made")
	}
}

func TestNewLoggerRefuses(t *testing.T) {
	for _, tt := range []struct{ format, level, want string }{
		{"xml", "info", `log format "xml"`},
		{"", "info", `log format ""`},
		{"text", "loud", `log level "loud"`},
		{"text", "", `log level ""`},
		{"text", "INFO+4", `log level "INFO+4"`},
	} {
		if _, err := NewLogger(&bytes.Buffer{}, tt.format, tt.level); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%q, %q: %v", tt.format, tt.level, err)
		}
	}
}

func TestClean(t *testing.T) {
	for _, tt := range []struct {
		in   string
		n    int
		want string
	}{
		{"plain", 10, "plain"},
		{"plain", 5, "plain"},
		{"plain!", 5, "pl…"},
		{"a\nb\tc\rd", 10, "a b c d"},
		{"a\x1b[1;31mb\x1b[0mc", 10, "abc"},
		{"a\x1b[1;31", 10, "a"},
		{"a\x1b", 10, "a"},
		{"a\xffb", 10, "a\ufffdb"},
		{"ééééé", 8, "éé…"},
		{"\n\n\n\n\n\n", 5, "  …"},
		{"", 0, ""},
		{"abc", 0, ""},
		{"abc", 2, ""},
		{"\x1b]", 9, ""},
		{"\x1b[31;1mred\x1b[0m", 9, "red"},
		{"nul\x00 del\x7f \x9b", 20, "nul del \ufffd"},
		{"\u202eright to left\u2066", 20, "right to left"},
		{"é漢", 5, "é漢"},
	} {
		if got := Clean(tt.in, tt.n); got != tt.want {
			t.Errorf("Clean(%q, %d) is %q, want %q", tt.in, tt.n, got, tt.want)
		}
		if got := Clean(tt.in, tt.n); len(got) > tt.n {
			t.Errorf("Clean(%q, %d) has %d bytes", tt.in, tt.n, len(got))
		}
	}
}

func FuzzClean(f *testing.F) {
	for _, s := range hostile {
		f.Add(s[:min(len(s), 200)], 40)
	}
	f.Fuzz(func(t *testing.T, s string, n int) {
		n = min(max(n, 0), 1000)
		got := Clean(s, n)
		if len(got) > n || !clean(got) {
			t.Errorf("Clean(%q, %d) is %q", s, n, got)
		}
		if Clean(got, n) != got {
			t.Errorf("%q is not clean", got)
		}
	})
}

func TestLimiter(t *testing.T) {
	now := time.Unix(0, 0)
	l := NewLimiter(2, 3, func() time.Time { return now })
	allow := func(wantOK bool, wantDropped uint64) {
		t.Helper()
		if ok, dropped := l.Allow(); ok != wantOK || dropped != wantDropped {
			t.Errorf("at %v: %v with %d dropped, want %v with %d", now, ok, dropped, wantOK, wantDropped)
		}
	}
	for range 3 {
		allow(true, 0)
	}
	for range 5 {
		allow(false, 0)
	}
	now = now.Add(500 * time.Millisecond)
	allow(true, 5)
	allow(false, 0)
	now = now.Add(-time.Hour) // a clock that jumps gives nothing
	allow(false, 0)
	now = now.Add(time.Hour)
	allow(true, 2)
	for range 2 {
		allow(true, 0) // and no more than the burst
	}
	allow(false, 0)
	if n := l.Rest(); n != 1 {
		t.Errorf("%d rest", n)
	}
	if n := l.Rest(); n != 0 {
		t.Errorf("%d rest twice", n)
	}
}
