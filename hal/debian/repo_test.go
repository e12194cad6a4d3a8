package debian

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/clearsign"

	"github.com/ultravioletrs/cocos/hal/progress"
)

// repo is a Debian archive on loopback, signed with a key of its own. Tests
// change what it serves before they ask for it.
type repo struct {
	*httptest.Server
	mu    sync.Mutex
	files map[string][]byte // by path below the server's root
	hits  []string
	key   *openpgp.Entity
}

func newRepo(t *testing.T) *repo {
	t.Helper()
	r := &repo{files: map[string][]byte{}, key: newKey(t)}
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		r.mu.Lock()
		r.hits = append(r.hits, q.URL.Path)
		b, ok := r.files[q.URL.Path]
		r.mu.Unlock()
		if !ok {
			http.NotFound(w, q)
			return
		}
		http.ServeContent(w, q, "", time.Time{}, bytes.NewReader(b))
	}))
	t.Cleanup(r.Close)
	return r
}

func (r *repo) mirror() Mirror { return Mirror{r.URL + "/debian", r.URL + "/debian-security"} }

func (r *repo) set(path string, b []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.files[path] = b
}

func (r *repo) requests(substring string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := 0
	for _, h := range r.hits {
		if strings.Contains(h, substring) {
			n++
		}
	}
	return n
}

func newKey(t *testing.T) *openpgp.Entity {
	t.Helper()
	e, err := openpgp.NewEntity("Test archive", "", "test@example.org", nil)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func keyring(t *testing.T, e *openpgp.Entity) string {
	t.Helper()
	var b bytes.Buffer
	w, err := armor.Encode(&b, openpgp.PublicKeyType, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Serialize(w); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(t.TempDir(), "keyring.asc")
	if err := os.WriteFile(name, b.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	return name
}

// publish adds packages to the pool and writes signed indexes of all suites;
// the packages are in the first.
func (r *repo) publish(t *testing.T, codename string, pkgs ...testPackage) {
	t.Helper()
	var index strings.Builder
	for _, p := range pkgs {
		deb := p.deb(t)
		r.set("/debian/"+p.pkg().Path, deb)
		fmt.Fprintf(&index, "Package: %s\nVersion: %s\nArchitecture: all\nMaintainer: T <t@example.org>\nDepends: %s\nFilename: %s\nSize: %d\nSHA256: %x\nDescription: test\n\n",
			p.name, p.version, p.depends, p.pkg().Path, len(deb), sha256.Sum256(deb))
	}
	r.suite(t, "/debian/", "trixie", codename, index.String())
	r.suite(t, "/debian/", "trixie-updates", "trixie-updates", "")
	r.suite(t, "/debian-security/", "trixie-security", "trixie-security", "")
}

func (r *repo) suite(t *testing.T, base, suite, codename, index string) {
	t.Helper()
	release := fmt.Sprintf("Origin: Debian\nLabel: Debian\nSuite: %s\nCodename: %s\nDate: Sat, 21 Nov 2026 09:15:44 UTC\nArchitectures: all amd64\nComponents: main\nSHA256:\n %x %d main/binary-amd64/Packages\n",
		suite, codename, sha256.Sum256([]byte(index)), len(index))
	var b bytes.Buffer
	w, err := clearsign.Encode(&b, r.key.PrivateKey, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(w, release); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	dir := base + "dists/" + suite
	r.set(dir+"/InRelease", b.Bytes())
	r.set(dir+"/main/binary-amd64/Packages", []byte(index))
}

type testPackage struct{ name, version, depends string }

// pkg is what a lock says about the package.
func (p testPackage) pkg() Package {
	return Package{Name: p.name, Version: p.version, Arch: "all", Archive: ArchiveMain,
		Path: fmt.Sprintf("pool/main/%s_%s_all.deb", p.name, p.version)}
}

func (p testPackage) locked(t *testing.T) Package {
	deb := p.deb(t)
	q := p.pkg()
	q.Size, q.SHA256 = int64(len(deb)), fmt.Sprintf("%x", sha256.Sum256(deb))
	return q
}

func (p testPackage) deb(t *testing.T) []byte {
	return makeDeb(t, tar.Header{Name: "./usr/share/" + p.name, Mode: 0o644}, p.name+" "+p.version)
}

// makeDeb writes a package file (deb(5)) with one entry.
func makeDeb(t *testing.T, h tar.Header, data string) []byte {
	t.Helper()
	var body bytes.Buffer
	w := tar.NewWriter(&body)
	h.Size = int64(len(data))
	if err := w.WriteHeader(&h); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(w, data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	var empty bytes.Buffer
	if err := tar.NewWriter(&empty).Close(); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	out.WriteString("!<arch>\n")
	for _, m := range []struct {
		name string
		data []byte
	}{{"debian-binary", []byte("2.0\n")}, {"control.tar", empty.Bytes()}, {"data.tar", body.Bytes()}} {
		fmt.Fprintf(&out, "%-16s%-12d%-6d%-6d%-8o%-10d`\n", m.name, 0, 0, 0, 0o100644, len(m.data))
		out.Write(m.data)
		if len(m.data)%2 == 1 {
			out.WriteByte('\n')
		}
	}
	return out.Bytes()
}

func quiet() *progress.Log { return progress.New(io.Discard, false, time.Now) }

func newTestApt(t *testing.T, r *repo) *Apt {
	t.Helper()
	a := NewApt(filepath.Join(t.TempDir(), "apt"), "trixie", Suites("trixie"), r.mirror(), quiet())
	a.Keyring = keyring(t, r.key)
	return a
}

func wantError(t *testing.T, err error, parts ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error, want one with %q", parts)
	}
	for _, p := range parts {
		if !strings.Contains(err.Error(), p) {
			t.Errorf("error %q lacks %q", err, p)
		}
	}
}
