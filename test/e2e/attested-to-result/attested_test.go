// Package attested shows that participants who know each other and the image
// alone get from a VM with the simulated TEE to a result with a receipt; and that
// their clients refuse everything that a host, or whoever is on the way, puts in
// its place, before they send anything.
package attested

import (
	"bytes"
	"crypto/sha256"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ultravioletrs/cocos/attest"
	"github.com/ultravioletrs/cocos/attest/sim"
	"github.com/ultravioletrs/cocos/hal"
	"github.com/ultravioletrs/cocos/internal/vm"
	"github.com/ultravioletrs/cocos/keys"
	"github.com/ultravioletrs/cocos/manifest"
	"github.com/ultravioletrs/cocos/test/e2e/harness"
)

const simulated = "SIMULATED"

// world is one host with two participants, and what they brought.
type world struct {
	*harness.Host
	alice, bob, mallory *harness.Party
	// kernel and initrd are the host's own copies.
	kernel, initrd  string
	algorithm, data string
}

func newWorld(t *testing.T) *world {
	t.Helper()
	dir := t.TempDir()
	w := &world{kernel: filepath.Join(dir, hal.KernelFile), initrd: filepath.Join(dir, hal.InitrdFile)}
	for _, name := range []string{w.kernel, w.initrd} {
		write(t, name, read(t, harness.Image(t, filepath.Base(name))))
	}
	w.Host = harness.Start(t,
		harness.Env("MANAGER_QEMU_ENABLE_SIM=true"),
		harness.Env("MANAGER_QEMU_DISK_IMG_KERNEL_FILE="+w.kernel),
		harness.Env("MANAGER_QEMU_DISK_IMG_ROOTFS_FILE="+w.initrd))
	w.alice, w.bob, w.mallory = w.NewParty("alice"), w.NewParty("bob"), w.NewParty("mallory")
	w.alice.Knows(w.bob)
	w.bob.Knows(w.alice)
	w.algorithm, w.data = harness.Algorithm(t), w.bob.File("data.txt", []byte("nobody else's business"))
	return w
}

// manifest has alice's algorithm, a dataset of provider's, and alice for the
// result; both approve.
func (w *world) manifest(t *testing.T, id string, provider keys.Public) manifest.Frozen {
	t.Helper()
	algorithm, data := read(t, w.algorithm), read(t, w.data)
	m, err := manifest.Freeze(manifest.Manifest{
		Version: manifest.Version, ID: id, Name: id, Nonce: manifest.Nonce{1}, TEE: manifest.TEESim, AttestedTLS: true,
		Algorithm: manifest.Algorithm{
			Type: manifest.Binary, Args: []string{"sum"}, Provider: w.alice.Key,
			SHA256: manifest.Sum(algorithm), Size: int64(len(algorithm)),
		},
		Datasets:  []manifest.Dataset{{Name: "data.txt", Provider: provider, SHA256: manifest.Sum(data), Size: int64(len(data))}},
		Consumers: []keys.Public{w.alice.Key},
		Approvals: []keys.Public{w.alice.Key, provider},
		Outputs:   manifest.Outputs{OperatorOutput: true},
	})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// policy accepts the image of this tree on a host with this root, and nothing
// else.
func policy(p *harness.Party, name, root string) string {
	out, _ := p.MustCLI("policy", "init", "--tee", "sim", "--image", filepath.Join(harness.Root(), "cmd", "manager", "img"),
		"--vcpus", "1", "--sim-root", root, "--accept-simulation", attest.SimConsent)
	return p.File(name, []byte(out))
}

// TestAttestedToResult does both, on the same VMs.
func TestAttestedToResult(t *testing.T) {
	w := newWorld(t)

	t.Run("a participant's key in another's place", func(t *testing.T) {
		m := w.manifest(t, "substituted", w.mallory.Key)
		_, _, err := w.alice.CLI("manifest", "approve", w.alice.File("substituted.json", m.Raw), "--key", w.alice.KeyFile)
		refused(t, err, "", w.mallory.Key.Fingerprint())
	})

	m := w.manifest(t, "approved", w.bob.Key)
	approvals := []manifest.Approval{w.alice.Approve(m), w.bob.Approve(m)}
	first := w.SubmitApproved(m, approvals...)
	first.Ready()
	root := filepath.Join(w.StateDir, vm.SimDir, sim.RootFile)
	alicePolicy, bobPolicy := policy(w.alice, "policy.json", root), policy(w.bob, "policy.json", root)
	session := func(p *harness.Party, m manifest.Frozen, address, policy string, args ...string) []string {
		return append(args, "--agent", address, "--policy", policy, "--key", p.KeyFile, "--manifest", p.File(m.ID+".json", m.Raw))
	}
	upload := func(policy, address string, more ...string) error {
		_, stderr, err := w.bob.CLI(append(session(w.bob, m, address, policy, "data", w.data), more...)...)
		if err == nil {
			t.Errorf("a dataset was sent:\n%s", stderr)
		}
		return err
	}

	t.Run("a production policy", func(t *testing.T) {
		refused(t, upload(production(t, w.bob), first.Address), "sim.consent", "the policy does not accept simulation")
	})
	t.Run("a forged chain enclosed", func(t *testing.T) {
		refused(t, upload(policy(w.bob, "elsewhere.json", otherRoot(t)), first.Address), "sim.chain", "the root of another host")
	})
	t.Run("another manifest than the VM's", func(t *testing.T) {
		other := w.manifest(t, "other", w.bob.Key)
		_, _, err := w.bob.CLI(session(w.bob, other, first.Address, bobPolicy, "data", w.data)...)
		refused(t, err, "sim.report_data, sim.host_data", "another manifest")
	})
	t.Run("a relay with a key of its own", func(t *testing.T) {
		refused(t, upload(bobPolicy, relay(t, first.Address)), "sim.report_data", "")
	})
	t.Run("plain TLS", func(t *testing.T) {
		refused(t, upload(bobPolicy, plainTLS(t)), "", "does not prove itself as the manifest asks")
		refused(t, upload(bobPolicy, first.Address, "--agent-key", first.Key), "", "--agent-key can't take the place of")
	})
	t.Run("evidence replayed", func(t *testing.T) { replayed(t, w.bob, m, first.Address, bobPolicy) })

	// Other VMs of the same manifest, with another kernel and initial RAM disk.
	for name, file := range map[string]string{"another kernel": w.kernel, "another initial RAM disk": w.initrd} {
		t.Run(name, func(t *testing.T) {
			whole := read(t, file)
			write(t, file, append(bytes.Clone(whole), 0, 0, 0, 0))
			defer write(t, file, whole)
			r := w.SubmitApproved(m, approvals...)
			r.Ready()
			refused(t, upload(bobPolicy, r.Address), "sim.measurement", "measurement")
			r.Stop()
		})
	}

	// Nothing was accepted so far: this VM is bob's first.
	_, stderr := w.bob.MustCLI(session(w.bob, m, first.Address, bobPolicy, "data", w.data)...)
	marked(t, stderr)
	t.Run("a second VM of the same manifest", func(t *testing.T) {
		r := w.SubmitApproved(m, approvals...)
		r.Ready()
		_, _, err := w.bob.CLI(session(w.bob, m, r.Address, bobPolicy, "state")...)
		refused(t, err, "", "this is a second VM of the same manifest")
		r.Stop()
	})

	_, stderr = w.alice.MustCLI(session(w.alice, m, first.Address, alicePolicy, "algo", w.algorithm)...)
	marked(t, stderr)
	dir := filepath.Join(w.alice.Dir, "result")
	_, stderr = w.alice.MustCLI(session(w.alice, m, first.Address, alicePolicy, "result", "--wait", "--out", dir)...)
	marked(t, stderr)
	if !strings.Contains(stderr, "receipt verified") {
		t.Errorf("nothing says that the receipt was verified:\n%s", stderr)
	}
	// Offline, and by somebody else who has the manifest and a policy.
	stdout, _ := w.bob.MustCLI("receipt", "verify", dir+".receipt.json", "--policy", bobPolicy,
		"--manifest", w.bob.File(m.ID+".json", m.Raw), "--result", dir)
	if !strings.HasPrefix(stdout, simulated) || !strings.Contains(stdout, "outcome      succeeded") {
		t.Errorf("the receipt says\n%s", stdout)
	}
	want := fmt.Sprintf("%x  datasets/data.txt\n", sha256.Sum256(read(t, w.data)))
	if got := string(read(t, filepath.Join(dir, "results", "sums.txt"))); got != want {
		t.Errorf("the algorithm saw\n%s\nuploaded was\n%s", got, want)
	}
	// Everybody approved that the operator reads what it prints.
	log, _, err := w.CLI("manager", "logs", first.ID, "--source", "agent")
	if err != nil || !strings.Contains(log, "stdout: summed") {
		t.Errorf("the operator reads %v\n%s", err, log)
	}
}

// refused wants an error that names the claims and says why.
func refused(t *testing.T, err error, claims, why string) {
	t.Helper()
	switch {
	case err == nil:
		t.Error("it was accepted")
	case claims != "" && !strings.Contains(err.Error(), "is refused: "+claims+"\n"):
		t.Errorf("refused, but not for %s alone: %v", claims, err)
	case !strings.Contains(err.Error(), why):
		t.Errorf("refused without %q: %v", why, err)
	}
}

func marked(t *testing.T, stderr string) {
	t.Helper()
	if !strings.Contains(stderr, simulated) {
		t.Errorf("nothing says %s:\n%s", simulated, stderr)
	}
}

// replayed fetches evidence and hands it in again, for what was asked for then
// and for something else.
func replayed(t *testing.T, p *harness.Party, m manifest.Frozen, address, policy string) {
	t.Helper()
	raw, certs := filepath.Join(p.Dir, "report.bin"), filepath.Join(p.Dir, "certs.pem")
	p.MustCLI("attestation", "get", "--agent", address, "--manifest", p.File(m.ID+".json", m.Raw), "--raw", raw, "--certs", certs)
	report := read(t, raw)
	data := append([]byte(nil), report[0x50:0x50+attest.ReportDataSize]...)
	verify := func() error {
		_, _, err := p.CLI("attestation", "verify", "--type", "sim", "--evidence", raw, "--certs", certs, "--policy", policy,
			"--manifest", p.File(m.ID+".json", m.Raw), "--report-data", fmt.Sprintf("%x", data))
		return err
	}
	if err := verify(); err != nil {
		t.Errorf("as it came: %v", err)
	}
	data[0] ^= 1
	if err := verify(); err == nil || !strings.Contains(err.Error(), "report_data") {
		t.Errorf("for another connection: %v", err)
	}
}

// production is a policy for a TEE that is none.
func production(t *testing.T, p *harness.Party) string {
	t.Helper()
	b, err := attest.Policy{Version: attest.PolicyVersion, SNP: &attest.SNPPolicy{
		Measurements: []attest.Hex{make([]byte, 48)}, Products: []string{"Milan"}, ChipIDs: []string{attest.AnyID},
		Signers: []string{"vcek"}, MinimumTCB: map[string]attest.SNPTCB{"Milan": {}}, Revocation: attest.CheckRequired,
	}}.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	return p.File("production.json", b)
}

// otherRoot is that of the simulated TEE of a host elsewhere.
func otherRoot(t *testing.T) string {
	t.Helper()
	a, err := sim.LoadOrCreate(filepath.Join(t.TempDir(), "sim"))
	if err != nil {
		t.Fatal(err)
	}
	der, _ := a.Root()
	name := filepath.Join(t.TempDir(), "root.pem")
	write(t, name, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	return name
}

func read(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func write(t *testing.T, name string, b []byte) {
	t.Helper()
	if err := os.WriteFile(name, b, 0o600); err != nil {
		t.Fatal(err)
	}
}
