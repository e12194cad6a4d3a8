package shim

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"testing"

	"github.com/ultravioletrs/cocos/internal/egress"
	"github.com/ultravioletrs/cocos/internal/vm"
	"github.com/ultravioletrs/cocos/keys"
	"github.com/ultravioletrs/cocos/manifest"
)

// sourceManifest takes its dataset from url.
func sourceManifest(t *testing.T, url string) []byte {
	t.Helper()
	k, err := keys.Generate(keys.Ed25519)
	if err != nil {
		t.Fatal(err)
	}
	owner := k.Public()
	f, err := manifest.Freeze(manifest.Manifest{
		Version: manifest.Version, ID: "test", Name: "Test", Nonce: manifest.Nonce{1}, TEE: manifest.TEENone,
		Algorithm: manifest.Algorithm{Type: manifest.Python, SHA256: manifest.Digest{1}, Size: 10, Provider: owner},
		Datasets:  []manifest.Dataset{{Name: "data.csv", Provider: owner, SHA256: sha256.Sum256([]byte("x")), Size: 1, Source: manifest.Source{URL: url}}},
		Consumers: []keys.Public{owner},
	})
	if err != nil {
		t.Fatal(err)
	}
	return f.Raw
}

// TestEgress: the guest reaches the server of its manifest while its VM lives, and no
// other one.
func TestEgress(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	server := l.Addr().String()
	dir, spec := newVM(t, "button")
	spec.Manifest = sourceManifest(t, "http://"+server+"/data.csv")
	spec.Egress = &vm.Egress{Allow: []string{server}}
	writeSpec(t, dir, spec)
	f := startShim(t, dir, nil).follow()
	f.until(vm.EventBooting)
	guest := egress.Dialer{Host: func(ctx context.Context) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", guestSocket(dir, vm.EgressPort))
	}}
	c, err := guest.DialContext(t.Context(), "tcp", server)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	far, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer far.Close()
	if _, err := io.WriteString(far, "data"); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(io.LimitReader(c, 4)); err != nil || !bytes.Equal(got, []byte("data")) {
		t.Errorf("%q, %v", got, err)
	}
	if _, err := guest.DialContext(t.Context(), "tcp", "127.0.0.1:1"); !errors.Is(err, egress.Unnamed) {
		t.Errorf("another server: %v", err)
	}
	control(t, dir, "exit 0")
	f.until(vm.EventExited)
	if _, err := far.Read(make([]byte, 1)); err == nil {
		t.Error("the connection outlives the VM")
	}
}

// TestNoEgress: nobody listens where the operator lets no guest out, or the manifest
// names no server.
func TestNoEgress(t *testing.T) {
	for name, change := range map[string]func(*vm.Spec){
		"not allowed": func(s *vm.Spec) { s.Manifest = sourceManifest(t, "https://data.example.org/data.csv") },
		"no server": func(s *vm.Spec) {
			s.Manifest, s.Egress = bytes.Replace(sourceManifest(t, "https://data.example.org/data.csv"), []byte(`,"source":{"url":"https://data.example.org/data.csv"}`), nil, 1), &vm.Egress{}
		},
	} {
		dir, spec := newVM(t, "button")
		change(&spec)
		writeSpec(t, dir, spec)
		f := startShim(t, dir, nil).follow()
		f.until(vm.EventBooting)
		if _, err := os.Stat(guestSocket(dir, vm.EgressPort)); !os.IsNotExist(err) {
			t.Errorf("%s: the port is open: %v", name, err)
		}
		control(t, dir, "exit 0")
		f.until(vm.EventExited)
	}
}

// TestEgressThatCannotBe ends the VM before it starts.
func TestEgressThatCannotBe(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*vm.Spec)
		want   string
	}{
		"no manifest":     {func(s *vm.Spec) { s.Manifest = []byte("{}") }, "letting the guest out: manifest"},
		"no such network": {func(s *vm.Spec) { s.Egress.Allow = []string{"10.0.0.1/8"} }, "egress.allow"},
	} {
		dir, spec := newVM(t, "button")
		spec.Manifest, spec.Egress = sourceManifest(t, "https://data.example.org/data.csv"), &vm.Egress{}
		c.change(&spec)
		writeSpec(t, dir, spec)
		f := startShim(t, dir, nil).follow()
		if e := f.until(vm.EventExited); !strings.Contains(e.GetMessage(), c.want) {
			t.Errorf("%s: %q", name, e.GetMessage())
		}
	}
}
