package harness

import (
	"encoding/json"
	"os"
	"path/filepath"

	"github.com/ultravioletrs/cocos/keys"
	"github.com/ultravioletrs/cocos/manifest"
)

// Party is a person with a machine of their own: key, address book, policy.
type Party struct {
	Name string
	// Dir is theirs; KeyFile their private key in it.
	Dir, KeyFile string
	Key          keys.Public

	h *Host
}

// NewParty makes a key pair for somebody.
func (h *Host) NewParty(name string) *Party {
	h.t.Helper()
	p := &Party{Name: name, Dir: h.t.TempDir(), h: h}
	base := filepath.Join(p.Dir, name)
	p.KeyFile = base + ".pem"
	p.MustCLI("keys", "--out", base)
	b, err := os.ReadFile(base + ".pub.pem")
	if err == nil {
		p.Key, err = keys.ParsePublicPEM(b)
	}
	if err != nil {
		h.t.Fatal(err)
	}
	return p
}

// CLI runs cocos-cli as this person.
func (p *Party) CLI(args ...string) (stdout, stderr string, err error) {
	return p.h.cli([]string{"COCOS_HOME=" + filepath.Join(p.Dir, "home")}, args...)
}

// MustCLI is CLI that must succeed.
func (p *Party) MustCLI(args ...string) (stdout, stderr string) {
	p.h.t.Helper()
	stdout, stderr, err := p.CLI(args...)
	if err != nil {
		p.h.t.Fatalf("%s: %v", p.Name, err)
	}
	return stdout, stderr
}

// Knows notes that o's key is o's.
func (p *Party) Knows(o *Party) {
	p.h.t.Helper()
	p.MustCLI("contacts", "add", o.Name, "--fingerprint", o.Key.Fingerprint())
}

// File writes a file of this person's.
func (p *Party) File(name string, content []byte) (path string) {
	p.h.t.Helper()
	path = filepath.Join(p.Dir, name)
	if err := os.WriteFile(path, content, 0o600); err != nil {
		p.h.t.Fatal(err)
	}
	return path
}

// Approve signs a manifest.
func (p *Party) Approve(m manifest.Frozen) (a manifest.Approval) {
	p.h.t.Helper()
	out, _ := p.MustCLI("manifest", "approve", p.File(m.ID+".json", m.Raw), "--key", p.KeyFile)
	if err := json.Unmarshal([]byte(out), &a); err != nil {
		p.h.t.Fatalf("%s's approval: %v: %s", p.Name, err, out)
	}
	return a
}
