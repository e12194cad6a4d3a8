package build

import (
	"context"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/ultravioletrs/cocos/hal"
	"github.com/ultravioletrs/cocos/hal/debian"
)

// offline is a configuration whose mirror has nothing, and an empty cache.
func offline(t *testing.T) Config {
	t.Helper()
	empty := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(empty.Close)
	cfg := config(t, filepath.Join(t.TempDir(), "cache"), filepath.Join(t.TempDir(), "out"))
	cfg.Lock = filepath.Join(t.TempDir(), hal.LockFile)
	cfg.Getenv = func(k string) string {
		if k == debian.MirrorVariable {
			return empty.URL + "/debian"
		}
		return os.Getenv(k)
	}
	return cfg
}

func realLock(t *testing.T) debian.Lock {
	t.Helper()
	lock, err := debian.ReadLock(filepath.Join("../../cmd/manager/img", hal.LockFile))
	if err != nil {
		t.Fatal(err)
	}
	return lock
}

// The lock file in the tree is what the builder wants, and names nothing that
// must not be in the image.
func TestLockFile(t *testing.T) {
	lock := realLock(t)
	if lock.Release != Release || len(lock.Indexes) != len(debian.Suites(Release)) {
		t.Errorf("release %s, indexes %+v", lock.Release, lock.Indexes)
	}
	if n := len(lock.Using(useKernel)); n != 1 {
		t.Errorf("%d kernels", n)
	}
	if stub := lock.Using(useDisk); len(stub) != 1 || stub[0].Name != stubPackage {
		t.Errorf("for the bootable disk: %v", stub)
	}
	for _, use := range []string{usePython, useTools} {
		if len(lock.Using(use)) == 0 {
			t.Errorf("nothing for %s", use)
		}
	}
	for _, p := range lock.Using(usePython) {
		for _, bad := range []string{"dash", "bash", "perl-base", "apt", "dpkg", "busybox", "openssh-server", "login"} {
			if p.Name == bad {
				t.Errorf("%s is among the runtime's packages", p)
			}
		}
	}
}

func TestBuildRefusesLock(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(l *debian.Lock)
		want   []string
	}{
		"another release":       {func(l *debian.Lock) { l.Release = "bookworm" }, []string{"bookworm", "trixie", "make hal-update"}},
		"no kernel":             {func(l *debian.Lock) { without(l, useKernel) }, []string{useKernel, "make hal-update"}},
		"no Python":             {func(l *debian.Lock) { without(l, usePython) }, []string{usePython, "make hal-update"}},
		"no tools":              {func(l *debian.Lock) { without(l, useTools) }, []string{useTools, "make hal-update"}},
		"nothing on the mirror": {func(*debian.Lock) {}, []string{"fetching trixie's signed indexes"}},
	} {
		t.Run(name, func(t *testing.T) {
			cfg, lock := offline(t), realLock(t)
			tc.change(&lock)
			text, err := lock.Bytes()
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(cfg.Lock, text, 0o644); err != nil {
				t.Fatal(err)
			}
			_, err = Build(t.Context(), cfg)
			if err == nil {
				t.Fatal("no error")
			}
			for _, w := range tc.want {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("error %q lacks %q", err, w)
				}
			}
			if left, err := os.ReadDir(cfg.Out); err == nil && len(left) > 0 {
				t.Errorf("left in the image's folder: %v", left)
			}
		})
	}
}

// A lock file of before there were bootable disks builds an image, and no disk.
func TestStubRefusesLock(t *testing.T) {
	cfg, lock := offline(t), realLock(t)
	lock.Packages = slices.DeleteFunc(lock.Packages, func(p debian.Package) bool { return p.Name == stubPackage })
	_, _, err := newBuilder(cfg).stub(t.Context(), lock)
	for _, w := range []string{cfg.Lock, useDisk, "make hal-update"} {
		if err == nil || !strings.Contains(err.Error(), w) {
			t.Errorf("error %v lacks %q", err, w)
		}
	}
}

// A package that holds no stub is refused, and named.
func TestStubRefusesPackage(t *testing.T) {
	cacheDir, err := debian.CacheDir(os.Getenv)
	if err != nil {
		t.Fatal(err)
	}
	cfg, lock := config(t, cacheDir, t.TempDir()), realLock(t)
	other := lock.Using(useTools)[0]
	other.Use = []string{useDisk}
	lock.Packages = []debian.Package{other}
	if _, _, err := newBuilder(cfg).stub(t.Context(), lock); err == nil || !strings.Contains(err.Error(), other.Name) || !strings.Contains(err.Error(), stubFile) {
		t.Errorf("got %v, want an error that names %s and %s", err, other.Name, stubFile)
	}
}

func without(l *debian.Lock, use string) {
	for i := range l.Packages {
		l.Packages[i].Use = []string{useKernel, usePython, useTools}
		for j, u := range l.Packages[i].Use {
			if u == use {
				l.Packages[i].Use = append(l.Packages[i].Use[:j:j], l.Packages[i].Use[j+1:]...)
				break
			}
		}
	}
}

// An update that fails leaves the lock file as it was.
func TestUpdateKeepsTheLock(t *testing.T) {
	cfg := offline(t)
	if err := os.WriteFile(cfg.Lock, []byte("as it was"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := Update(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "signed indexes") {
		t.Errorf("got %v", err)
	}
	if b, err := os.ReadFile(cfg.Lock); err != nil || string(b) != "as it was" {
		t.Errorf("the lock file is now %q, %v", b, err)
	}
}

// Without a lock file the packages are resolved first, which this mirror can't.
func TestBuildWithoutLock(t *testing.T) {
	cfg := offline(t)
	if _, err := Build(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "signed indexes") {
		t.Errorf("got %v", err)
	}
	if _, err := os.Stat(cfg.Lock); err == nil {
		t.Error("a lock file appeared")
	}
}

func TestBuildStops(t *testing.T) {
	cfg := offline(t)
	text, err := realLock(t).Bytes()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(cfg.Lock, text, 0o644); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Build(ctx, cfg); err == nil {
		t.Error("a cancelled build succeeds")
	}
}
