package debian

import (
	"bytes"
	"context"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

var (
	app = testPackage{"app", "1.0-1", "lib (>= 2)"}
	lib = testPackage{"lib", "2.0-1", ""}
)

func TestAptResolves(t *testing.T) {
	t.Parallel()
	r := newRepo(t)
	r.publish(t, "trixie", app, lib, testPackage{"other", "3", ""})
	a := newTestApt(t, r)
	if err := a.Update(t.Context()); err != nil {
		t.Fatal(err)
	}
	got, err := a.Resolve(t.Context(), "", "app")
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != 2 || got[0].fileName() != app.locked(t).fileName() || got[1].SHA256 != lib.locked(t).SHA256 {
		t.Errorf("got %+v", got)
	}
	dep, err := a.DependsOn(t.Context(), "app")
	if err != nil || dep.Name != "lib" {
		t.Errorf("app depends on %v, %v", dep, err)
	}
	idx, err := a.Indexes()
	if err != nil || len(idx) != 3 || idx[0].Suite != "trixie" || idx[0].Date != "Sat, 21 Nov 2026 09:15:44 UTC" {
		t.Errorf("indexes %+v, %v", idx, err)
	}
	_, err = a.Resolve(t.Context(), "", "nonexistent")
	wantError(t, err, "resolving nonexistent", "Unable to locate")
}

func TestAptRefuses(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		break_ func(t *testing.T, r *repo, a *Apt)
		want   []string
	}{
		"another key": {func(t *testing.T, _ *repo, a *Apt) { a.Keyring = keyring(t, newKey(t)) },
			[]string{"not signed by a key of Debian's archive keyring", MirrorVariable}},
		"no keyring": {func(t *testing.T, _ *repo, a *Apt) { a.Keyring = filepath.Join(t.TempDir(), "none") },
			[]string{"debian-archive-keyring"}},
		"unsigned": {func(_ *testing.T, r *repo, _ *Apt) {
			r.set("/debian/dists/trixie/Release", []byte("Codename: trixie\n"))
			delete(r.files, "/debian/dists/trixie/InRelease")
		}, []string{"signed"}},
		"a changed release file": {func(_ *testing.T, r *repo, _ *Apt) {
			f := "/debian/dists/trixie/InRelease"
			r.set(f, bytes.Replace(r.files[f], []byte("Components: main"), []byte("Components: evil main"), 1))
		}, []string{"not signed by a key of Debian's archive keyring"}},
		"a changed index": {func(_ *testing.T, r *repo, _ *Apt) {
			f := "/debian/dists/trixie/main/binary-amd64/Packages"
			r.set(f, bytes.Replace(r.files[f], []byte("Size: "), []byte("Size: 1"), 1))
		}, []string{"differs from what Debian signed"}},
		"no index": {func(_ *testing.T, r *repo, _ *Apt) {
			delete(r.files, "/debian/dists/trixie/main/binary-amd64/Packages")
		}, []string{"fetching trixie's signed indexes"}},
		"no security suite": {func(_ *testing.T, r *repo, _ *Apt) {
			delete(r.files, "/debian-security/dists/trixie-security/InRelease")
		}, []string{"trixie-security"}},
		"another release": {func(t *testing.T, r *repo, _ *Apt) { r.publish(t, "bookworm", app, lib) },
			[]string{"trixie", "bookworm"}},
		"no network": {func(_ *testing.T, r *repo, _ *Apt) { r.Close() },
			[]string{"fetching trixie's signed indexes", "check the network"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRepo(t)
			r.publish(t, "trixie", app, lib)
			a := newTestApt(t, r)
			tc.break_(t, r, a)
			wantError(t, a.Update(t.Context()), tc.want...)
			// What was refused must not be used by whoever asks next.
			if got, err := a.Resolve(t.Context(), "", "app"); err == nil {
				if _, err := a.Indexes(); err == nil {
					t.Errorf("resolved %v from refused indexes", got)
				}
			}
		})
	}
}

// An index that was good before stays unused once the mirror turns bad.
func TestAptRefusesAfterSuccess(t *testing.T) {
	t.Parallel()
	r := newRepo(t)
	r.publish(t, "trixie", app, lib)
	a := newTestApt(t, r)
	if err := a.Update(t.Context()); err != nil {
		t.Fatal(err)
	}
	good := r.key
	r.key = newKey(t)
	r.publish(t, "trixie", testPackage{"app", "6.6-6", ""})
	wantError(t, a.Update(t.Context()), "not signed by a key")
	if _, err := a.Resolve(t.Context(), "", "app"); err == nil {
		t.Error("the old indexes are still used")
	}
	r.key = good
	r.publish(t, "trixie", app, lib)
	if err := a.Update(t.Context()); err != nil {
		t.Errorf("a good mirror again: %v", err)
	}
}

func TestVerify(t *testing.T) {
	t.Parallel()
	r := newRepo(t)
	r.publish(t, "trixie", app, lib)
	a := newTestApt(t, r)
	if err := a.Update(t.Context()); err != nil {
		t.Fatal(err)
	}
	good := app.locked(t)
	if err := a.Verify(t.Context(), []Package{good, lib.locked(t)}); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		change func(p *Package)
		want   []string
	}{
		"digest":  {func(p *Package) { p.SHA256 = strings.Repeat("0", 64) }, []string{"app 1.0-1", "Debian's signed index", "make hal-update"}},
		"size":    {func(p *Package) { p.Size++ }, []string{"app 1.0-1", "Debian's signed index"}},
		"version": {func(p *Package) { p.Version = "0.9-1" }, []string{"no longer list app 0.9-1", "make hal-update"}},
		"name":    {func(p *Package) { p.Name = "appx" }, []string{"no longer list appx", "make hal-update"}},
		"arch":    {func(p *Package) { p.Arch = "amd64" }, []string{"no longer list app"}},
	} {
		t.Run(name, func(t *testing.T) {
			p := good
			tc.change(&p)
			wantError(t, a.Verify(t.Context(), []Package{lib.locked(t), p}), tc.want...)
		})
	}
}

func TestEnsure(t *testing.T) {
	t.Parallel()
	r := newRepo(t)
	r.publish(t, "trixie", app, lib)
	pkgs := []Package{app.locked(t), lib.locked(t)}
	c := NewCache(t.TempDir(), quiet())
	asked := 0
	apt := func() (*Apt, error) { asked++; return newTestApt(t, r), nil }
	if err := c.Ensure(t.Context(), apt, pkgs); err != nil {
		t.Fatal(err)
	}
	for _, p := range pkgs {
		if err := c.Check(p); err != nil {
			t.Error(err)
		}
	}
	if err := c.Ensure(t.Context(), apt, pkgs); err != nil || asked != 1 {
		t.Errorf("everything cached: %v, apt asked %d times", err, asked)
	}
	// A damaged file is fetched again, the other is not.
	if err := os.WriteFile(c.Path(pkgs[0]), []byte("rot"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := c.Ensure(t.Context(), apt, pkgs); err != nil || asked != 2 {
		t.Errorf("one damaged: %v, apt asked %d times", err, asked)
	}
	if n := r.requests("/pool/"); n != 3 {
		t.Errorf("%d downloads, want 3", n)
	}
	if err := c.Check(pkgs[0]); err != nil {
		t.Error(err)
	}
	// A lock that names what Debian did not sign downloads nothing.
	evil := testPackage{"evil", "1-1", ""}
	r.set("/debian/"+evil.pkg().Path, evil.deb(t))
	wantError(t, c.Ensure(t.Context(), apt, []Package{evil.locked(t)}), "no longer list evil", "make hal-update")
	if n := r.requests("evil"); n != 0 {
		t.Errorf("evil was asked for %d times", n)
	}
}

func TestFetchRefuses(t *testing.T) {
	t.Parallel()
	good := app.locked(t)
	path := "/debian/" + good.Path
	for name, tc := range map[string]struct {
		serve    func(r *repo)
		want     []string
		requests int
	}{
		"gone":  {func(r *repo) { delete(r.files, path) }, []string{"app 1.0-1", "no longer has", "make hal-update"}, 1},
		"wrong": {func(r *repo) { r.files[path][100] ^= 1 }, []string{"app 1.0-1", "not what Debian signed"}, 1},
		"long":  {func(r *repo) { r.files[path] = append(r.files[path], 0) }, []string{"not what Debian signed"}, 1},
		"short": {func(r *repo) { r.files[path] = r.files[path][:10] }, []string{"10 bytes of"}, attempts},
		"down":  {func(r *repo) { r.Close() }, []string{"app 1.0-1", "check the network", MirrorVariable}, 0},
		"error": {func(r *repo) {
			r.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
				r.mu.Lock()
				r.hits = append(r.hits, q.URL.Path)
				r.mu.Unlock()
				http.Error(w, "no", http.StatusBadGateway)
			})
		}, []string{"502"}, attempts},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRepo(t)
			r.publish(t, "trixie", app)
			tc.serve(r)
			c := NewCache(t.TempDir(), quiet())
			wantError(t, c.Fetch(t.Context(), r.mirror(), []Package{good}), tc.want...)
			if n := r.requests(path); n != tc.requests {
				t.Errorf("%d requests, want %d", n, tc.requests)
			}
			left, err := os.ReadDir(c.Dir)
			if err != nil || len(left) != 0 {
				t.Errorf("left in the cache: %v, %v", left, err)
			}
		})
	}
}

// A connection that breaks is tried again.
func TestFetchTriesAgain(t *testing.T) {
	t.Parallel()
	r := newRepo(t)
	r.publish(t, "trixie", app)
	serve := r.Config.Handler
	var broken atomic.Bool
	r.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if broken.CompareAndSwap(false, true) {
			w.Header().Set("Content-Length", "99999")
			panic(http.ErrAbortHandler)
		}
		serve.ServeHTTP(w, q)
	})
	c := NewCache(t.TempDir(), quiet())
	if err := c.Fetch(t.Context(), r.mirror(), []Package{app.locked(t)}); err != nil {
		t.Fatal(err)
	}
	if err := c.Check(app.locked(t)); err != nil || !broken.Load() {
		t.Errorf("%v, broken %v", err, broken.Load())
	}
}

// A server that falls silent is left, and tried again.
func TestFetchLeavesSilentServer(t *testing.T) {
	t.Parallel()
	r := newRepo(t)
	r.publish(t, "trixie", app)
	r.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		r.mu.Lock()
		r.hits = append(r.hits, q.URL.Path)
		r.mu.Unlock()
		w.Header().Set("Content-Length", "1000")
		_, _ = w.Write([]byte("some"))
		_ = http.NewResponseController(w).Flush()
		<-q.Context().Done()
	})
	c := NewCache(t.TempDir(), quiet())
	c.Stall = 50 * time.Millisecond
	wantError(t, c.Fetch(t.Context(), r.mirror(), []Package{app.locked(t)}), "app 1.0-1", "sent nothing for")
	if left, err := os.ReadDir(c.Dir); err != nil || len(left) != 0 {
		t.Errorf("left in the cache: %v, %v", left, err)
	}
}

func TestFetchStops(t *testing.T) {
	r := newRepo(t)
	r.publish(t, "trixie", app)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := NewCache(t.TempDir(), quiet()).Fetch(ctx, r.mirror(), []Package{app.locked(t)}); err == nil {
		t.Error("a cancelled download succeeds")
	}
}

func TestCacheDir(t *testing.T) {
	for _, tc := range []struct {
		env  map[string]string
		want string
	}{
		{map[string]string{"COCOS_CACHE": "/c", "XDG_CACHE_HOME": "/x", "HOME": "/h"}, "/c"},
		{map[string]string{"XDG_CACHE_HOME": "/x", "HOME": "/h"}, "/x/cocos"},
		{map[string]string{"HOME": "/h"}, "/h/.cache/cocos"},
	} {
		got, err := CacheDir(func(k string) string { return tc.env[k] })
		if err != nil || got != tc.want {
			t.Errorf("%v: %q, %v", tc.env, got, err)
		}
	}
	_, err := CacheDir(func(string) string { return "" })
	wantError(t, err, "COCOS_CACHE")
	_, err = CacheDir(func(string) string { return "relative" })
	wantError(t, err, "absolute")
}
