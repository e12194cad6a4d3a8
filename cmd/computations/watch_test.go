package main

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
)

// openFaces returns the service with nothing listening, and what closes its store
// before the test's end does.
func openFaces(t *testing.T) (*faces, func() error) {
	t.Helper()
	s, err := parse([]string{"COMPUTATIONS_DATA_DIR=" + t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	p, err := open(t.Context(), s, discard())
	if err != nil {
		t.Fatal(err)
	}
	shut := sync.OnceValue(p.store.Close)
	t.Cleanup(func() {
		if err := shut(); err != nil {
			t.Error(err)
		}
	})
	f, err := p.faces()
	if err != nil {
		t.Fatal(err)
	}
	return f, shut
}

var figureRE = regexp.MustCompile(`cocos_[a-z_]+`)

// documented reads the names of figures from a page's tables. The Manager's stand
// there without what they all begin with.
func documented(t *testing.T, page, prefix string) map[string]bool {
	t.Helper()
	b, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	for row := range strings.Lines(string(b)) {
		cells := strings.Split(row, "|")
		if len(cells) < 4 {
			continue
		}
		for _, name := range regexp.MustCompile("`([a-z_]+)`").FindAllStringSubmatch(cells[1], -1) {
			names[prefix+name[1]] = true
		}
	}
	return names
}

// TestFiguresAreDocumented: the page names every figure and no other.
func TestFiguresAreDocumented(t *testing.T) {
	f, _ := openFaces(t)
	f.watch.page("GET /", http.StatusOK, time.Millisecond)
	families, err := f.watch.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	served := map[string]bool{}
	named := documented(t, docs, "")
	for _, family := range families {
		if name := family.GetName(); strings.HasPrefix(name, "cocos_") {
			served[name] = true
			if !named[name] {
				t.Errorf("%s does not have %s", docs, name)
			}
		}
	}
	for name := range named {
		if strings.HasPrefix(name, "cocos_") && !served[name] {
			t.Errorf("%s has %s, which is not served", docs, name)
		}
	}
	if problems, err := testutil.GatherAndLint(f.watch.registry); err != nil || len(problems) > 0 {
		t.Errorf("%v, %v", problems, err)
	}
}

// TestMonitoringNamesFiguresThatAreServed: dashboard and alert rules ask for what
// the programs have.
func TestMonitoringNamesFiguresThatAreServed(t *testing.T) {
	known := documented(t, docs, "")
	for name := range documented(t, "../../docs/observability.md", "cocos_manager_") {
		known[name] = true
	}
	for _, file := range []string{"dashboard.json", "alerts.yml"} {
		b, err := os.ReadFile("../../packaging/monitoring/" + file)
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(file, ".json") && !json.Valid(b) {
			t.Errorf("%s is not JSON", file)
		}
		names := figureRE.FindAllString(string(b), -1)
		if len(names) < 10 {
			t.Errorf("%s names %d figures only", file, len(names))
		}
		for _, name := range names {
			plain := name
			for _, suffix := range []string{"_bucket", "_count", "_sum"} {
				plain = strings.TrimSuffix(plain, suffix)
			}
			if !known[name] && !known[plain] {
				t.Errorf("%s asks for %s, which nothing serves", file, name)
			}
		}
	}
}

// TestReadiness: a service that can't use its database, or is being stopped, is not
// ready; and the answer tells nothing of the reason.
func TestReadiness(t *testing.T) {
	ask := func(f *faces) (int, string) {
		w := httptest.NewRecorder()
		f.watch.handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/readyz", nil))
		return w.Code, w.Body.String()
	}
	f, _ := openFaces(t)
	if code, body := ask(f); code != http.StatusOK || !strings.Contains(body, `"ready":true`) {
		t.Errorf("%d %s", code, body)
	}
	f.watch.drain()
	if code, body := ask(f); code != http.StatusServiceUnavailable || !strings.Contains(body, "being stopped") {
		t.Errorf("%d %s", code, body)
	}
	closed, shut := openFaces(t)
	if err := shut(); err != nil {
		t.Fatal(err)
	}
	if code, body := ask(closed); code != http.StatusServiceUnavailable || !strings.Contains(body, "the log says why") {
		t.Errorf("%d %s", code, body)
	}
}
