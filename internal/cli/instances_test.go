package cli

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ultravioletrs/cocos/attest"
	"github.com/ultravioletrs/cocos/keys"
	"github.com/ultravioletrs/cocos/manifest"
)

func vmOf(t *testing.T, digest byte) instance {
	t.Helper()
	k, err := keys.Generate(keys.Ed25519)
	if err != nil {
		t.Fatal(err)
	}
	return instance{Manifest: manifest.Digest{digest}, Computation: "test", Key: k.Public(), TEE: attest.Sim, Since: time.Unix(0, 0).UTC()}
}

func TestOneInstanceOfEachManifest(t *testing.T) {
	a := homeOf(t, map[string]string{"COCOS_HOME": filepath.Join(t.TempDir(), "home")})
	first, second, other := vmOf(t, 1), vmOf(t, 1), vmOf(t, 2)
	third := vmOf(t, 1)
	guard := func(consent bool) *instanceGuard { return &instanceGuard{app: a, consent: consent} }
	consenting := guard(true)
	for i, tt := range []struct {
		by     *instanceGuard
		vm     instance
		passes bool
	}{
		{guard(false), first, true},
		{guard(false), first, true},
		{guard(false), second, false},
		{guard(false), other, true},
		{guard(false), first, true},
		// Consent is for one VM, not for each that the command meets.
		{consenting, second, true},
		{consenting, second, true},
		{consenting, third, false},
		{consenting, first, false},
		// It took the place of the first.
		{guard(false), second, true},
		{guard(false), first, false},
		{guard(true), second, true},
		{guard(false), other, true},
	} {
		err := tt.by.admit(tt.vm)
		var refused *secondInstance
		if tt.passes && err != nil || !tt.passes && !errors.As(err, &refused) {
			t.Errorf("%d: %v; want it to pass: %t", i, err, tt.passes)
		}
	}
}

// Of commands that meet different VMs at the same time, one gets its way.
func TestInstancesTogether(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "home")
	var (
		all    sync.WaitGroup
		mu     sync.Mutex
		passed int
	)
	for range 16 {
		vm := vmOf(t, 1)
		all.Go(func() {
			g := &instanceGuard{app: homeOf(t, map[string]string{"COCOS_HOME": dir})}
			err := g.admit(vm)
			var refused *secondInstance
			if err != nil && !errors.As(err, &refused) {
				t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				passed++
			}
		})
	}
	all.Wait()
	if passed != 1 {
		t.Errorf("%d VMs passed", passed)
	}
}

// Each file is right in all but one thing; nobody passes by a file that says
// nothing clear.
func TestInstancesFileRefused(t *testing.T) {
	known, next := vmOf(t, 1), vmOf(t, 2)
	dir := t.TempDir()
	a := homeOf(t, map[string]string{"COCOS_HOME": dir})
	if err := a.rememberInstance(known, false); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, instancesFile)
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	right := string(b)
	entry := right[strings.Index(right, "[")+1 : strings.LastIndex(right, "]")]
	for name, tt := range map[string]struct{ from, to, want string }{
		"all right":     {"", "", ""},
		"no manifest":   {known.Manifest.String(), manifest.Digest{}.String(), "/instances/0/manifest_digest is missing"},
		"half a digest": {known.Manifest.String(), "01", "is not as this program writes it"},
		"no key":        {known.Key.String(), "", "is not as this program writes it"},
		"key left out":  {`"instance_key": "` + known.Key.String() + `",`, "", "/instances/0/instance_key is missing"},
		"rubbish":       {known.Key.String(), "AAAA", "is not as this program writes it"},
		"twice":         {entry, entry + "," + entry, "/instances/1/manifest_digest is that of /instances/0"},
		"version":       {`"version": 1`, `"version": 2`, "/version is 2"},
		"unknown":       {`"version": 1`, `"version": 1, "any": true`, "any"},
	} {
		t.Run(name, func(t *testing.T) {
			if !strings.Contains(right, tt.from) {
				t.Fatalf("%q is not in %s", tt.from, right)
			}
			if err := os.WriteFile(file, []byte(strings.Replace(right, tt.from, tt.to, 1)), 0o600); err != nil {
				t.Fatal(err)
			}
			err := (&instanceGuard{app: a}).admit(next)
			if tt.want == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), file) {
				t.Errorf("error %v; want %q and the file's name in it", err, tt.want)
			}
		})
	}
}

func TestSimulatedMarksEveryObject(t *testing.T) {
	for in, want := range map[string]string{
		`{}`:                 `{"simulated":true}`,
		`{"a":1}`:            `{"a":1,"simulated":true}`,
		`{"simulated":true}`: `{"simulated":true}`,
		`{"a":{"simulated":true},"b":"\"simulated\":true"}`: `{"a":{"simulated":true},"b":"\"simulated\":true","simulated":true}`,
	} {
		o := &output{}
		if got := string(o.marked([]byte(in + "\n"))); got != in+"\n" {
			t.Errorf("not simulated: %s became %s", in, got)
		}
		o.simulated.Store(true)
		if got := string(o.marked([]byte(in + "\n"))); got != want+"\n" {
			t.Errorf("%s became %s, want %s", in, got, want)
		}
	}
}
