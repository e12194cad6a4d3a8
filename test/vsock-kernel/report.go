package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/ultravioletrs/cocos/internal/vsock/vsocktest"
)

// What test/vsock-kernel/outer says at its end.
const passed = "vsock-kernel outer: PASSED"

// silence is how long the outer VM may say nothing before it is said that it
// goes on.
const silence = 30 * time.Second

// required is the tests that must have passed, by the names that testing gives
// them.
func required() []string {
	const suite = "TestKernelHostWithVM"
	names := []string{"TestKernelHostileGuest", suite}
	for _, c := range vsocktest.Cases {
		names = append(names, suite+"/host to guest/"+c.Name, suite+"/guest to host/"+c.Name)
	}
	for _, c := range vsocktest.MachineCases {
		names = append(names, suite+"/"+c)
	}
	for i, n := range names {
		names[i] = strings.ReplaceAll(n, " ", "_")
	}
	return names
}

// outcome is testing's line about the end of a test.
var outcome = regexp.MustCompile(`^\s*--- (PASS|FAIL|SKIP): (\S+)`)

// report shows what the outer VM says, and reads the tests' outcomes in it.
type report struct {
	start time.Time

	mu       sync.Mutex
	to       io.Writer
	line     []byte // not ended yet
	last     string
	ended    bool // the outer VM has said that all passed
	outcomes map[string]string
	idle     *time.Timer
}

func newReport(to io.Writer) *report {
	r := &report{start: time.Now(), to: to, outcomes: map[string]string{}}
	r.idle = time.AfterFunc(silence, r.stillThere)
	return r
}

// note says something of our own.
func (r *report) note(s string) { r.Write([]byte("vsock-kernel: " + s + "\n")) }

// stillThere breaks a silence.
func (r *report) stillThere() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.say("... in: " + r.last)
	r.idle.Reset(silence)
}

func (r *report) say(s string) {
	fmt.Fprintf(r.to, "%6s  %s\n", time.Since(r.start).Round(time.Second), s)
}

// Write takes what the outer VM says, in pieces of any size.
func (r *report) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.line = append(r.line, p...)
	for {
		line, rest, ok := bytes.Cut(r.line, []byte("\n"))
		if !ok {
			return len(p), nil
		}
		if s := strings.TrimRight(string(line), "\r "); s != "" {
			r.say(s)
			r.read(s)
		}
		r.line = rest
		r.idle.Reset(silence)
	}
}

func (r *report) read(s string) {
	if m := outcome.FindStringSubmatch(s); m != nil {
		r.outcomes[m[2]] = m[1]
		return
	}
	r.ended = r.ended || s == passed
	r.last = s
}

// judge counts what has passed. An error says what has not, or was not run.
func (r *report) judge(required []string) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.idle.Stop()
	n := 0
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(r.outcomes)) {
		if o := r.outcomes[name]; o == "PASS" {
			n++
		} else {
			errs = append(errs, fmt.Errorf("%s: %s", o, name))
		}
	}
	for _, name := range required {
		if _, ok := r.outcomes[name]; !ok {
			errs = append(errs, fmt.Errorf("did not run: %s", name))
		}
	}
	switch {
	case !r.ended:
		errs = append(errs, errors.New("the outer VM did not come to a good end: its console is above"))
	case n == 0:
		errs = append(errs, errors.New("no test ran"))
	}
	return n, errors.Join(errs...)
}
