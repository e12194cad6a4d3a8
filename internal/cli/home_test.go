package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// homeOf is an app with that environment and no other.
func homeOf(t *testing.T, env map[string]string) *app {
	t.Helper()
	return &app{env: Env{Getenv: func(name string) string { return env[name] }}, out: &output{now: time.Now}}
}

func TestHome(t *testing.T) {
	for name, tt := range map[string]struct {
		env  map[string]string
		want string
	}{
		"named":        {map[string]string{"COCOS_HOME": "here", "XDG_CONFIG_HOME": "/x", "HOME": "/h"}, "here"},
		"XDG":          {map[string]string{"XDG_CONFIG_HOME": "/x", "HOME": "/h"}, "/x/cocos"},
		"relative XDG": {map[string]string{"XDG_CONFIG_HOME": "x", "HOME": "/h"}, "/h/.config/cocos"},
		"default":      {map[string]string{"HOME": "/h"}, "/h/.config/cocos"},
	} {
		if got, err := homeOf(t, tt.env).home(); err != nil || got != tt.want {
			t.Errorf("%s: %q, %v; want %q", name, got, err, tt.want)
		}
	}
	if dir, err := homeOf(t, nil).home(); err == nil {
		t.Errorf("without any variable: %q", dir)
	}
}

// Each file is right in all but one thing.
func TestHomeFilesRefused(t *testing.T) {
	const (
		zeros = "0000000000000000000000000000000000000000000000000000000000000000"
		right = `{"version":1,"contacts":[{"name":"bob","fingerprint":"sha256:` + zeros + `","added":"2026-01-02T03:04:05Z"}]}`
	)
	change := func(from, to string) string {
		if !strings.Contains(right, from) {
			t.Fatalf("%q is not there", from)
		}
		return strings.Replace(right, from, to, 1)
	}
	second := strings.TrimSuffix(strings.SplitAfterN(right, "[", 2)[1], "]}")
	for name, tt := range map[string]struct{ content, want string }{
		"all right":         {right, ""},
		"empty":             {"", "is not as this program writes it"},
		"cut":               {right[:len(right)-1], "is not as this program writes it"},
		"more after it":     {right + right, "is not as this program writes it"},
		"another version":   {change(`"version":1`, `"version":2`), "/version is 2; this program reads 1"},
		"no version":        {change(`"version":1,`, ``), "/version is 0"},
		"an unknown member": {change(`"name"`, `"trusted":true,"name"`), "trusted"},
		"a member twice":    {change(`"name":"bob"`, `"name":"bob","name":"eve"`), "name"},
		"a part of a key":   {change(zeros, zeros[1:]), "/contacts/0/fingerprint is"},
		"upper case":        {change(zeros, "A"+zeros[1:]), "/contacts/0/fingerprint is"},
		"no name":           {change("bob", ""), "/contacts/0/name is"},
		"control character": {change("bob", `b\u001bob`), "/contacts/0/name is"},
		"invisible":         {change("bob", `b\u200bob`), "/contacts/0/name is"},
		"a long name":       {change("bob", strings.Repeat("b", 65)), "/contacts/0/name has 65 characters"},
		"you":               {change("bob", "You"), "/contacts/0/name is"},
		"a name twice":      {change("]}", ","+strings.NewReplacer("bob", "BOB", zeros, "1"+zeros[1:]).Replace(second)+"]}"), "/contacts/1/name is that of /contacts/0"},
		"a key twice":       {change("]}", ","+strings.Replace(second, "bob", "eve", 1)+"]}"), "/contacts/1/fingerprint is that of /contacts/0"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			file := filepath.Join(dir, contactsFile)
			if err := os.WriteFile(file, []byte(tt.content), 0o600); err != nil {
				t.Fatal(err)
			}
			a := homeOf(t, map[string]string{"COCOS_HOME": dir})
			err := a.readHome(contactsFile, &contacts{})
			if tt.want == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), file) {
				t.Errorf("error %v; want %q and the file's name in it", err, tt.want)
			}
			if err := a.addContact(contact{Name: "carol", Fingerprint: "sha256:1" + zeros[1:]}, true); err == nil {
				t.Error("written over")
			}
			if b, err := os.ReadFile(file); err != nil || string(b) != tt.content {
				t.Errorf("the file is now %q, %v", b, err)
			}
		})
	}
}

// statOf is a file of some user.
type statOf struct {
	fs.FileInfo
	sys any
}

func (s statOf) Sys() any { return s.sys }

// Whoever owns the folder can put other keys into the address book.
func TestHomeOfSomebodyElse(t *testing.T) {
	for name, tt := range map[string]struct {
		sys any
		ok  bool
	}{
		"own":       {&syscall.Stat_t{Uid: 1000}, true},
		"root's":    {&syscall.Stat_t{Uid: 0}, true},
		"another's": {&syscall.Stat_t{Uid: 1001}, false},
		"unknown":   {nil, false},
	} {
		if got := ownedBy(statOf{sys: tt.sys}, 1000); got != tt.ok {
			t.Errorf("%s: %t; want %t", name, got, tt.ok)
		}
	}
	if os.Geteuid() != 0 {
		t.Log("not root: a folder can't be given to somebody else here")
		return
	}
	dir := t.TempDir()
	file := filepath.Join(dir, contactsFile)
	if err := os.WriteFile(file, []byte(`{"version":1,"contacts":[]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	a := homeOf(t, map[string]string{"COCOS_HOME": dir})
	if err := a.readHome(contactsFile, &contacts{}); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{dir, file} {
		if err := os.Chown(name, 65534, -1); err != nil {
			t.Fatal(err)
		}
		if err := a.readHome(contactsFile, &contacts{}); err == nil || !strings.Contains(err.Error(), name+" belongs to another user") {
			t.Errorf("%s of another user: %v", name, err)
		}
		if err := os.Chown(name, 0, -1); err != nil {
			t.Fatal(err)
		}
	}
}

// Commands that write at the same time lose nothing, and of two that say
// different things of one name one is refused.
func TestHomeTogether(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "home")
	var (
		all     sync.WaitGroup
		refused = make(chan error, 40)
	)
	for i := range 20 {
		all.Go(func() {
			a := homeOf(t, map[string]string{"COCOS_HOME": dir})
			if err := a.addContact(contact{Name: fmt.Sprintf("c%d", i), Fingerprint: fmt.Sprintf("sha256:%064x", i)}, false); err != nil {
				t.Error(err)
			}
			refused <- a.addContact(contact{Name: "shared", Fingerprint: fmt.Sprintf("sha256:%064x", 100+i)}, false)
		})
	}
	all.Wait()
	close(refused)
	n := 0
	for err := range refused {
		var p *problem
		switch {
		case err == nil:
			n++
		case !errors.As(err, &p) || p.reason != reasonContact:
			t.Error(err)
		}
	}
	var book contacts
	if err := homeOf(t, map[string]string{"COCOS_HOME": dir}).readHome(contactsFile, &book); err != nil || len(book.Contacts) != 21 || n != 1 {
		t.Errorf("%d contacts, %d with the shared name, %v", len(book.Contacts), n, err)
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 2 { // the file and its lock
		t.Errorf("left behind: %v, %v", left, err)
	}
}
