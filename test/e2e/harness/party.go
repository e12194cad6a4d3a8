package harness

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

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

// NewPerson is NewParty for somebody who has to do with no Host.
func NewPerson(t testing.TB, name string) *Party {
	t.Helper()
	bin, err := built()
	if err != nil {
		t.Fatal(err)
	}
	return (&Host{t: t, bin: bin}).NewParty(name)
}

func (p *Party) env() []string { return []string{"COCOS_HOME=" + filepath.Join(p.Dir, "home")} }

// CLI runs cocos-cli as this person.
func (p *Party) CLI(args ...string) (stdout, stderr string, err error) {
	return p.h.cli(p.env(), args...)
}

// Follow starts cocos-cli as this person and returns its standard output as it
// comes, and what waits for its end; the test's end is that, too.
func (p *Party) Follow(args ...string) (stdout io.Reader, wait func() error) {
	p.h.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), RunLimit)
	cmd := exec.CommandContext(ctx, filepath.Join(p.h.bin, "cocos-cli"), args...)
	cmd.Env = append(os.Environ(), p.env()...)
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		cancel()
		p.h.t.Fatal(err)
	}
	wait = sync.OnceValue(func() error {
		if err := cmd.Wait(); err != nil {
			return fmt.Errorf("cocos-cli %s: %w\n%s", strings.Join(args, " "), err, said.String())
		}
		return nil
	})
	p.h.t.Cleanup(func() { cancel(); _ = wait() })
	return out, wait
}

// Interruptible is Follow for a command that goes on until it is interrupted: end
// does that, and says how it ended.
func (p *Party) Interruptible(args ...string) (stdout io.Reader, end func() error) {
	p.h.t.Helper()
	r, w := io.Pipe()
	cmd := exec.Command(filepath.Join(p.h.bin, "cocos-cli"), args...)
	cmd.Env = append(os.Environ(), p.env()...)
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = w, &said
	if err := cmd.Start(); err != nil {
		p.h.t.Fatal(err)
	}
	end = sync.OnceValue(func() error {
		_ = cmd.Process.Signal(os.Interrupt)
		err := cmd.Wait()
		w.Close()
		if err != nil {
			return fmt.Errorf("cocos-cli %s: %w\n%s", strings.Join(args, " "), err, said.String())
		}
		return nil
	})
	p.h.t.Cleanup(func() { _ = end() })
	return r, end
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
