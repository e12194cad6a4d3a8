package manager

import (
	"bytes"
	"context"
	"crypto/sha512"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/ultravioletrs/cocos/internal/spool/events"
	"github.com/ultravioletrs/cocos/internal/vm"
	"github.com/ultravioletrs/cocos/manifest"
)

// teeHost is testHost with a TEE.
func teeHost(kind vm.TEEKind) Host {
	h := testHost("qemu", "kernel", "initrd")
	if kind != "" {
		h.Machine.TEE = &vm.TEE{Kind: kind}
	}
	return h
}

// TestTEEOfAManifest: every TEE that a manifest can ask for against every kind
// that a host can have. Only the very kind that vouches will do.
func TestTEEOfAManifest(t *testing.T) {
	served := map[vm.TEEKind]manifest.TEE{vm.SEVSNP: manifest.TEESNP, vm.TDX: manifest.TEETDX, vm.Simulated: manifest.TEESim}
	for _, kind := range []vm.TEEKind{"", vm.SEV, vm.SEVES, vm.SEVSNP, vm.TDX, vm.SGX, vm.Simulated} {
		for _, tee := range manifest.TEEs() {
			for _, attested := range []bool{false, true} {
				if attested && tee == manifest.TEENone {
					continue // no manifest says so
				}
				m := testManifest()
				m.TEE, m.AttestedTLS = tee, attested
				f := freeze(t, m)
				v, faults := judge(RunRequest{RunID: goodID, Manifest: f.Raw}, teeHost(kind), testNow)
				if good := tee == manifest.TEENone || tee == served[kind]; good != (len(faults) == 0) {
					t.Errorf("host %q, manifest %q, attested TLS %v: %s", kind, tee, attested, FaultsError(faults))
				}
				for _, fault := range faults {
					if fault.Reason != Unsupported || fault.Field != "manifest/tee" || fault.Hint == "" || !strings.Contains(fault.Message, string(tee)) {
						t.Errorf("host %q, manifest %q: %+v", kind, tee, fault)
					}
				}
				if len(faults) == 0 && v.frozen.Digest != f.Digest {
					t.Errorf("host %q, manifest %q: another manifest's verdict", kind, tee)
				}
			}
		}
	}
}

// TestHostData: a host for one manifest takes that one alone.
func TestHostData(t *testing.T) {
	m := testManifest()
	m.TEE = manifest.TEESNP
	f := freeze(t, m)
	host := teeHost(vm.SEVSNP)
	host.HostData = slices.Clone(f.Digest[:])
	r := RunRequest{RunID: goodID, Manifest: f.Raw}
	if _, faults := judge(r, host, testNow); len(faults) > 0 {
		t.Error(FaultsError(faults))
	}
	host.HostData[31] ^= 1
	_, faults := judge(r, host, testNow)
	if len(faults) != 1 || faults[0].Field != "manifest" || faults[0].Reason != Unsupported || !strings.Contains(faults[0].Message, "MANAGER_QEMU_HOST_DATA") {
		t.Errorf("%+v", faults)
	}
}

// TestCertificatesWithAttestedTLS: each of the three is refused by itself, and
// none where the manifest asks for plain TLS.
func TestCertificatesWithAttestedTLS(t *testing.T) {
	for field, c := range map[string]AgentConfig{
		"agent_config/server_cert":     {ServerCert: []byte("x")},
		"agent_config/server_key":      {ServerKey: []byte("x")},
		"agent_config/client_ca_certs": {ClientCACerts: []byte("x")},
	} {
		for _, attested := range []bool{true, false} {
			m := testManifest()
			m.TEE, m.AttestedTLS = manifest.TEESim, attested
			_, faults := judge(RunRequest{RunID: goodID, Manifest: freeze(t, m).Raw, Agent: c}, teeHost(vm.Simulated), testNow)
			refused := slices.ContainsFunc(faults, func(f Fault) bool {
				return f.Field == field && f.Reason == Invalid && strings.Contains(f.Message, "asks for attested TLS")
			})
			if refused != attested {
				t.Errorf("%s, attested TLS %v: %s", field, attested, FaultsError(faults))
			}
		}
	}
}

// TestLaunchField: each VM carries its own manifest's digest, and the host's
// machine is as it was.
func TestLaunchField(t *testing.T) {
	f := freeze(t, testManifest())
	long := sha512.Sum384(f.Raw)
	for kind, want := range map[vm.TEEKind][]byte{
		vm.SEVSNP: f.Digest[:], vm.Simulated: f.Digest[:], vm.TDX: long[:], vm.SEV: nil, vm.SEVES: nil, vm.SGX: nil,
	} {
		host := fullHost(t, kind)
		spec, err := host.spec(goodID, verdict{frozen: f, agent: vm.AgentConfig{Port: 7002, Address: host.GuestAddress, Gateway: host.GuestGateway}}, 6100, nil)
		if err != nil {
			t.Errorf("%s: %v", kind, err)
			continue
		}
		if !bytes.Equal(spec.Machine.TEE.LaunchField, want) || host.Machine.TEE.LaunchField != nil {
			t.Errorf("%s: %x, want %x; the host's: %x", kind, spec.Machine.TEE.LaunchField, want, host.Machine.TEE.LaunchField)
		}
		argv, err := SampleCommand(host, "/state")
		if err != nil || len(argv) == 0 {
			t.Errorf("%s: %v", kind, err)
		}
	}
}

// fullHost is a host of a kind whose machine QEMU could take.
func fullHost(t *testing.T, kind vm.TEEKind) Host {
	t.Helper()
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	h := testHost("/qemu", file, file)
	h.Forward = Forward{Addr: netip.MustParseAddr("127.0.0.1"), First: 6100, Last: 6101}
	m := &h.Machine
	m.TEE = &vm.TEE{Kind: kind, ID: "tee0", CBitPos: 51, ReducedPhysBits: 1, EPCMiB: 64, Root: "/state/sim"}
	m.Accel, m.CPU, m.MaxVCPUs = vm.AccelKVM, "EPYC-v4", m.VCPUs
	m.Memory.Slots, m.Memory.MaxMiB = 0, 0
	if kind.Encrypts() {
		m.Boot.BIOS = file
	}
	switch kind {
	case vm.SEV:
		m.TEE.Policy = 1
	case vm.SEVES:
		m.TEE.Policy = 5
	case vm.SEVSNP:
		m.TEE.Policy = 0x30000
	case vm.TDX, vm.SGX:
		m.CPU = "host"
	}
	return h
}

// TestTEEsOfAHost: only what vouches is offered to the server.
func TestTEEsOfAHost(t *testing.T) {
	for kind, want := range map[vm.TEEKind][]string{
		"": nil, vm.SEV: nil, vm.SEVES: nil, vm.SGX: nil, vm.SEVSNP: {"sev-snp"}, vm.TDX: {"tdx"}, vm.Simulated: {"sim"},
	} {
		if got := teeHost(kind).TEEs(); !slices.Equal(got, want) {
			t.Errorf("%q: %q, want %q", kind, got, want)
		}
	}
}

// TestHashesOfAVM: the table lies in the VM's folder, as it is.
func TestHashesOfAVM(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	s, err := openState(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	table := bytes.Repeat([]byte{7}, 176)
	spec := vm.Spec{RunID: goodID, Machine: vm.Machine{Boot: vm.Boot{HashTable: &vm.HashTable{Address: 1, Content: table}}}}
	if err := s.create(spec, events.Event{Time: testNow, Kind: vm.EventAccepted}, func(string) {}); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(vm.DirOf(dir, goodID).Hashes())
	if err != nil || !bytes.Equal(got, table) {
		t.Errorf("%x, %v", got, err)
	}
}

// TestHelloTellsOfTEEs: what the host launches and what was found go to the
// server with the greeting.
func TestHelloTellsOfTEEs(t *testing.T) {
	l := newLab(t, nil)
	l.change = func(c *Config) {
		c.Host.Machine.TEE = &vm.TEE{Kind: vm.Simulated, Root: "/sim"}
		c.Findings = func(context.Context) []Finding {
			return []Finding{{Name: "sev", Verdict: "info", Found: "no", Needed: "yes", Mend: "buy one"}}
		}
	}
	l.inside()
	hello, err := l.server.Hello(l.ctx, 1)
	if err != nil {
		t.Fatal(err)
	}
	f := hello.GetFindings()
	if !slices.Equal(hello.GetTees(), []string{"sim"}) || len(f) != 1 || f[0].GetName() != "sev" || f[0].GetVerdict() != "info" || f[0].GetFound() != "no" || f[0].GetNeeded() != "yes" || f[0].GetMend() != "buy one" {
		t.Errorf("%v", hello)
	}
}
