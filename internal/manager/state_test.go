package manager

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ultravioletrs/cocos/internal/vm"
	"github.com/ultravioletrs/cocos/manifest"
)

func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "cm")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func TestStateDirectoryThatIsRefused(t *testing.T) {
	for name, c := range map[string]struct {
		prepare func(t *testing.T, dir string) string // returns the directory to open
		says    string
	}{
		"relative":         {func(*testing.T, string) string { return "state" }, "absolute"},
		"too long":         {func(_ *testing.T, dir string) string { return filepath.Join(dir, strings.Repeat("x", 60)) }, "too long"},
		"a file":           {func(t *testing.T, dir string) string { return put(t, dir, "f", "") }, "MANAGER_STATE_DIR"},
		"another version":  {func(t *testing.T, dir string) string { put(t, dir, vm.VersionFile, "1\n"); return dir }, `version "1"`},
		"something else":   {func(t *testing.T, dir string) string { put(t, dir, "holiday.jpg", ""); return dir }, "holiday.jpg"},
		"others may write": {func(t *testing.T, dir string) string { chmod(t, dir, 0o707); return dir }, "has mode 0707: others may write"},
		"others may write below": {func(t *testing.T, dir string) string {
			put(t, dir, vm.VersionFile, "2\n")
			if err := os.Mkdir(filepath.Join(dir, vm.VMsDir), 0o700); err != nil {
				t.Fatal(err)
			}
			chmod(t, filepath.Join(dir, vm.VMsDir), 0o777)
			return dir
		}, "has mode 0777: others may write"},
		"damaged ledger": {func(t *testing.T, dir string) string {
			put(t, dir, vm.VersionFile, "2\n")
			put(t, dir, vm.EndedFile, goodID+" nonsense 7020 2\n")
			return dir
		}, "ended:1"},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := openState(c.prepare(t, shortDir(t)))
			if err == nil {
				_ = s.Close()
				t.Fatal("it is taken")
			}
			if !strings.Contains(err.Error(), c.says) {
				t.Errorf("%v\nexpected %q in it", err, c.says)
			}
		})
	}
}

func chmod(t *testing.T, name string, mode os.FileMode) {
	t.Helper()
	if err := os.Chmod(name, mode); err != nil {
		t.Fatal(err)
	}
}

// What lies in the folder of another user is theirs to choose. For an ordinary
// user that is the root folder.
func TestStateDirectoryOfAnotherUser(t *testing.T) {
	dir := "/"
	if os.Geteuid() == 0 {
		dir = shortDir(t)
		if err := os.Chown(dir, 65534, 0); err != nil {
			t.Fatal(err)
		}
	}
	if err := ownFolder(dir); err == nil || !strings.Contains(err.Error(), "belongs to user id ") {
		t.Errorf("%v", err)
	}
	if err := ownFolder(shortDir(t)); err != nil {
		t.Errorf("one's own: %v", err)
	}
}

// An installed Manager finds the guest image in its new state directory, and
// one on a file system of its own what was there from the beginning.
func TestStateDirectoryWithNeighbours(t *testing.T) {
	dir := shortDir(t)
	for _, name := range []string{"img", "lost+found"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	s, err := openState(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

func put(t *testing.T, dir, name, text string) string {
	t.Helper()
	name = filepath.Join(dir, name)
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func TestStateDirectoryHasOneUser(t *testing.T) {
	dir := shortDir(t)
	s, err := openState(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := openState(dir); err == nil || !strings.Contains(err.Error(), "another Manager (process ") {
		t.Errorf("a second user: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if s, err = openState(dir); err != nil {
		t.Fatalf("after the first has gone: %v", err)
	}
	_ = s.Close()
}

// TestLedgerSurvivesBeingCut: whatever a crash leaves of the last line, the
// lines before it hold, and writing goes on.
func TestLedgerSurvivesBeingCut(t *testing.T) {
	ids := []string{goodID, "1b9c7d3e-5a1f-4c2b-8e6d-7f0a1b2c3d4e", "2b9c7d3e-5a1f-4c2b-8e6d-7f0a1b2c3d4e"}
	e := ending{digest: manifest.Digest{7}, port: 7020, final: 3}
	whole := e.line(ids[0]) + e.line(ids[1])
	for cut := len(e.line(ids[0])); cut <= len(whole); cut++ {
		dir := shortDir(t)
		put(t, dir, vm.VersionFile, vm.StateVersion)
		put(t, dir, vm.EndedFile, whole[:cut])
		s, err := openState(dir)
		if err != nil {
			t.Fatalf("cut at %d: %v", cut, err)
		}
		if got, ok := s.ended(ids[0]); !ok || got != e {
			t.Fatalf("cut at %d: the first run is %+v, %v", cut, got, ok)
		}
		if _, ok := s.ended(ids[1]); ok != (cut == len(whole)) {
			t.Fatalf("cut at %d: the second run ended: %v", cut, ok)
		}
		if err := errors.Join(s.end(ids[2], e), s.end(ids[2], e), s.Close()); err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(filepath.Join(dir, vm.EndedFile))
		if err != nil || strings.Count(string(b), ids[2]) != 1 || !strings.HasSuffix(string(b), e.line(ids[2])) {
			t.Fatalf("cut at %d: the ledger is %q, %v", cut, b, err)
		}
		if s, err = openState(dir); err != nil {
			t.Fatalf("cut at %d, after writing: %v", cut, err)
		}
		_ = s.Close()
	}
}

func TestSweepRemovesOnlyUnfinishedFolders(t *testing.T) {
	dir := shortDir(t)
	s, err := openState(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for _, name := range []string{goodID, goodID + newSuffix, "notes", "x" + newSuffix} {
		if err := os.MkdirAll(filepath.Join(s.vms(), name, "sub"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	ids, err := s.sweep(slog.New(slog.DiscardHandler))
	if err != nil || len(ids) != 1 || ids[0] != goodID {
		t.Fatalf("%v, %v", ids, err)
	}
	for name, there := range map[string]bool{goodID: true, goodID + newSuffix: false, "notes": true, "x" + newSuffix: true} {
		if _, err := os.Stat(filepath.Join(s.vms(), name)); (err == nil) != there {
			t.Errorf("%s is there: %v", name, err == nil)
		}
	}
}

func TestDecide(t *testing.T) {
	for _, c := range []struct {
		f    facts
		want phase
	}{
		{facts{}, toStart},
		{facts{alive: true}, toFollow},
		{facts{alive: true, begun: true}, toFollow},
		{facts{begun: true}, toDrain},
		{facts{told: true}, toDrain},
		{facts{told: true, begun: true}, toDrain},
		{facts{ended: true}, toRetire},
		{facts{ended: true, alive: true, begun: true, told: true}, toRetire},
	} {
		if got := decide(c.f); got != c.want {
			t.Errorf("%+v: %v, expected %v", c.f, got, c.want)
		}
	}
}
