package sim

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ultravioletrs/cocos/attest"
	"github.com/ultravioletrs/cocos/attest/snp"
)

func newAuthority(t *testing.T) *Authority {
	t.Helper()
	a, err := LoadOrCreate(filepath.Join(t.TempDir(), "sim"))
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// subject is evidence, and everything it is judged by: all right until a test
// changes one thing.
type subject struct {
	authority *Authority
	evidence  attest.Evidence
	report    *snp.Report // signed anew when changed
	want      attest.Expected
	policy    *attest.SimPolicy
	at        time.Time
}

func right(t *testing.T) *subject {
	t.Helper()
	a := newAuthority(t)
	_, root := a.Root()
	launch := attest.LaunchDigestsOf([]byte("manifest"))
	s := &subject{
		authority: a,
		want:      attest.Expected{ReportData: attest.ReportData{1, 2, 3}, Launch: &launch},
		policy: &attest.SimPolicy{
			Accept: attest.SimConsent, Roots: []attest.Hex{root[:]}, Measurements: []attest.Hex{bytes.Repeat([]byte{7}, 48)},
		},
		at: time.Now(),
	}
	var err error
	if s.evidence, err = a.Report(s.want.ReportData, [48]byte(bytes.Repeat([]byte{7}, 48)), launch.SHA256); err != nil {
		t.Fatal(err)
	}
	if s.report, err = snp.Parse(s.evidence.Report); err != nil {
		t.Fatal(err)
	}
	return s
}

// resign signs s.report anew.
func (s *subject) resign(t *testing.T) {
	t.Helper()
	b := snp.Marshal(s.report)
	if err := snp.Sign(b, s.authority.key); err != nil {
		t.Fatal(err)
	}
	s.evidence.Report = b
}

func (s *subject) appraise() (attest.Result, error) {
	return Appraise(context.Background(), s.evidence, s.want, s.policy, s.at)
}

func TestAccepted(t *testing.T) {
	s := right(t)
	r, err := s.appraise()
	if err != nil || !r.Accepted || !r.Simulated || r.Type != attest.Sim {
		t.Fatalf("%+v, %v", r, err)
	}
	if !r.At.Equal(s.at) || r.NotBefore.After(s.at) || r.NotAfter.Before(s.at.Add(lifetime/2)) {
		t.Errorf("dates: %+v", r)
	}
	// Without a manifest the policy's own values count.
	s.policy.HostData = []attest.Hex{s.want.Launch.SHA256[:]}
	s.want.Launch = nil
	if _, err := s.appraise(); err != nil {
		t.Errorf("launch field from the policy: %v", err)
	}
}

func TestRefused(t *testing.T) {
	other := newAuthority(t)
	for name, tt := range map[string]struct {
		change func(t *testing.T, s *subject)
		claim  string // the only one that fails
	}{
		"AMD's evidence": {func(t *testing.T, s *subject) { s.evidence.Type = attest.SNP }, "sim.type"},
		"no type":        {func(t *testing.T, s *subject) { s.evidence.Type = "" }, "sim.type"},
		"no section":     {func(t *testing.T, s *subject) { s.policy = nil }, "sim.consent"},
		"no consent":     {func(t *testing.T, s *subject) { s.policy.Accept = "" }, "sim.consent"},
		"other words":    {func(t *testing.T, s *subject) { s.policy.Accept = "simulated evidence, which protects nothing" }, "sim.consent"},
		"a short report": {func(t *testing.T, s *subject) { s.evidence.Report = s.evidence.Report[1:] }, "sim.report"},
		"no report":      {func(t *testing.T, s *subject) { s.evidence.Report = nil }, "sim.report"},
		"no certificates": {func(t *testing.T, s *subject) {
			s.evidence.Endorsements.Certificates = nil
		}, "sim.chain"},
		"no root": {func(t *testing.T, s *subject) {
			s.evidence.Endorsements.Certificates = s.evidence.Endorsements.Certificates[:1]
		}, "sim.chain"},
		"no signer": {func(t *testing.T, s *subject) {
			s.evidence.Endorsements.Certificates = s.evidence.Endorsements.Certificates[1:]
		}, "sim.chain"},
		"two signers": {func(t *testing.T, s *subject) {
			s.evidence.Endorsements.Certificates = append(s.evidence.Endorsements.Certificates, other.signer)
		}, "sim.chain"},
		"too many certificates": {func(t *testing.T, s *subject) {
			for range maxCertificates {
				s.evidence.Endorsements.Certificates = append(s.evidence.Endorsements.Certificates, s.authority.root)
			}
		}, "sim.chain"},
		"a certificate that is none": {func(t *testing.T, s *subject) {
			s.evidence.Endorsements.Certificates = append(s.evidence.Endorsements.Certificates, []byte("x"))
		}, "sim.chain"},
		"a huge certificate": {func(t *testing.T, s *subject) {
			s.evidence.Endorsements.Certificates = append(s.evidence.Endorsements.Certificates, make([]byte, maxCertificate+1))
		}, "sim.chain"},
		"no roots in the policy": {func(t *testing.T, s *subject) { s.policy.Roots = nil }, "sim.chain"},
		"another host's root":    {func(t *testing.T, s *subject) { _, sum := other.Root(); s.policy.Roots = []attest.Hex{sum[:]} }, "sim.chain"},
		"a chain that it brings": {func(t *testing.T, s *subject) {
			s.authority = other
			s.resign(t)
			s.evidence.Endorsements.Certificates = [][]byte{other.signer, other.root}
		}, "sim.chain"},
		"another root's signer": {func(t *testing.T, s *subject) {
			s.authority = &Authority{root: s.authority.root, key: other.key}
			s.resign(t)
			s.evidence.Endorsements.Certificates = [][]byte{other.signer, s.authority.root}
		}, "sim.chain"},
		"another key": {func(t *testing.T, s *subject) { s.authority = other; s.resign(t) }, "sim.signature"},
		"too early":   {func(t *testing.T, s *subject) { s.at = s.at.Add(-2 * time.Hour) }, "sim.dates"},
		"too late":    {func(t *testing.T, s *subject) { s.at = s.at.Add(lifetime) }, "sim.dates"},
		"changed after signing": {func(t *testing.T, s *subject) {
			s.report.GuestSVN = 1
			keep := s.evidence.Report[snp.SignedSize:]
			s.evidence.Report = append(snp.Marshal(s.report)[:snp.SignedSize], keep...)
		}, "sim.signature"},
		"not marked":            {func(t *testing.T, s *subject) { s.report.FamilyID = [16]byte{}; s.resign(t) }, "sim.family_id"},
		"marked with more":      {func(t *testing.T, s *subject) { s.report.FamilyID[15] = 'x'; s.resign(t) }, "sim.family_id"},
		"the debug bit":         {func(t *testing.T, s *subject) { s.report.Policy |= debugBit; s.resign(t) }, "sim.guest_policy"},
		"another signer":        {func(t *testing.T, s *subject) { s.report.Signer = snp.VLEK; s.resign(t) }, "sim.signer"},
		"VMPL 1":                {func(t *testing.T, s *subject) { s.report.VMPL = 1; s.resign(t) }, "sim.vmpl"},
		"a migration agent":     {func(t *testing.T, s *subject) { s.report.ReportIDMA[0] = 0; s.resign(t) }, "sim.report_id_ma"},
		"another measurement":   {func(t *testing.T, s *subject) { s.report.Measurement[47] ^= 1; s.resign(t) }, "sim.measurement"},
		"no measurement listed": {func(t *testing.T, s *subject) { s.policy.Measurements = nil }, "sim.measurement"},
		"a measurement cut":     {func(t *testing.T, s *subject) { s.policy.Measurements[0] = s.policy.Measurements[0][:47] }, "sim.measurement"},
		"another report data":   {func(t *testing.T, s *subject) { s.want.ReportData[63] ^= 1 }, "sim.report_data"},
		"another manifest":      {func(t *testing.T, s *subject) { l := attest.LaunchDigestsOf([]byte("other")); s.want.Launch = &l }, "sim.host_data"},
		"no manifest at all":    {func(t *testing.T, s *subject) { s.want.Launch = nil }, "sim.host_data"},
		"a field only a policy has": {func(t *testing.T, s *subject) {
			s.policy.HostData = []attest.Hex{s.want.Launch.SHA256[:]}
			l := attest.LaunchDigestsOf([]byte("other"))
			s.want.Launch = &l
		}, "sim.host_data"},
		"a policy's field, another": {func(t *testing.T, s *subject) {
			s.want.Launch = nil
			s.policy.HostData = []attest.Hex{make([]byte, 32)}
		}, "sim.host_data"},
		"an empty field in a policy": {func(t *testing.T, s *subject) { s.want.Launch = nil; s.policy.HostData = []attest.Hex{{}} }, "sim.host_data"},
	} {
		t.Run(name, func(t *testing.T) {
			s := right(t)
			tt.change(t, s)
			r, err := s.appraise()
			var refusal *attest.Refusal
			if !errors.As(err, &refusal) || r.Accepted || refusal.Result.Accepted || !refusal.Result.Simulated {
				t.Fatalf("%+v, %v", r, err)
			}
			if f := refusal.Result.Failed(); len(f) != 1 || f[0].Name != tt.claim || f[0].Expected == "" || f[0].Found == "" {
				t.Errorf("failed claims %+v; want %s alone", f, tt.claim)
			}
			if !r.NotBefore.IsZero() || !r.NotAfter.IsZero() {
				t.Errorf("a refusal has dates: %+v", r)
			}
		})
	}
	s := right(t)
	s.at = time.Time{}
	if r, err := s.appraise(); err == nil || r.Accepted || !strings.Contains(err.Error(), "no time") {
		t.Errorf("without a time: %+v, %v", r, err)
	}
}

// A policy that names a root which is none of ours accepts nothing under it:
// not AMD's, whoever lists its digest.
func TestRootsOfOthersAreNotTaken(t *testing.T) {
	forge := func(t *testing.T, curve elliptic.Curve, root, signer string, ca bool) *subject {
		t.Helper()
		s := right(t)
		rootKey, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		key, err := ecdsa.GenerateKey(curve, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		parent := template(root, 1, time.Now())
		parent.IsCA, parent.KeyUsage = true, x509.KeyUsageCertSign
		child := template(signer, 2, time.Now())
		child.IsCA = ca
		rootDER, err := x509.CreateCertificate(rand.Reader, parent, parent, rootKey.Public(), rootKey)
		if err != nil {
			t.Fatal(err)
		}
		der, err := x509.CreateCertificate(rand.Reader, child, parent, key.Public(), rootKey)
		if err != nil {
			t.Fatal(err)
		}
		s.authority = &Authority{root: rootDER, signer: der, key: key}
		if curve == elliptic.P384() {
			s.resign(t)
		}
		_, sum := s.authority.Root()
		s.policy.Roots = []attest.Hex{sum[:]}
		s.evidence.Endorsements.Certificates = [][]byte{der, rootDER}
		return s
	}
	if _, err := forge(t, elliptic.P384(), rootName, signerName, false).appraise(); err != nil {
		t.Fatalf("the forgery is right in nothing: %v", err)
	}
	for name, s := range map[string]*subject{
		"a root of another name":   forge(t, elliptic.P384(), "ARK-Milan", signerName, false),
		"a signer of another name": forge(t, elliptic.P384(), rootName, "SEV-VCEK", false),
		"an authority as signer":   forge(t, elliptic.P384(), rootName, signerName, true),
		"a signer on P-256":        forge(t, elliptic.P256(), rootName, signerName, false),
	} {
		_, err := s.appraise()
		var refusal *attest.Refusal
		if !errors.As(err, &refusal) || len(refusal.Result.Failed()) != 1 || refusal.Result.Failed()[0].Name != "sim.chain" {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestAttester(t *testing.T) {
	s := right(t)
	a := s.authority.Attester(s.report.Measurement, s.report.HostData)
	if a.Type() != attest.Sim {
		t.Errorf("type %q", a.Type())
	}
	field, err := a.LaunchField(t.Context())
	if err != nil || !bytes.Equal(field, s.want.Launch.Field(attest.Sim)) {
		t.Errorf("launch field %x, %v", field, err)
	}
	if s.evidence, err = a.Attest(t.Context(), s.want.ReportData); err != nil {
		t.Fatal(err)
	}
	if _, err := s.appraise(); err != nil {
		t.Error(err)
	}
}

func TestFolder(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "sim")
	// Shims that start at once get one authority.
	var all sync.WaitGroup
	roots := make([][32]byte, 8)
	for i := range roots {
		all.Go(func() {
			a, err := LoadOrCreate(dir)
			if err != nil {
				t.Error(err)
				return
			}
			_, roots[i] = a.Root()
		})
	}
	all.Wait()
	for _, r := range roots[1:] {
		if r != roots[0] {
			t.Fatalf("different roots: %x", roots)
		}
	}
	for name, mode := range map[string]os.FileMode{".": 0o700, KeyFile: 0o600, RootFile: 0o644, SignerFile: 0o644} {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Mode().Perm() != mode {
			t.Errorf("%s: %v, %v", name, info.Mode(), err)
		}
	}
	if left, err := os.ReadDir(filepath.Dir(dir)); err != nil || len(left) != 1 {
		t.Errorf("beside the folder: %v, %v", left, err)
	}
	b, err := os.ReadFile(filepath.Join(dir, RootFile))
	if err != nil || bytes.Contains(b, []byte("PRIVATE")) {
		t.Errorf("%s: %v", RootFile, err)
	}
}

func TestFolderRefuses(t *testing.T) {
	other := filepath.Join(t.TempDir(), "other")
	if _, err := LoadOrCreate(other); err != nil {
		t.Fatal(err)
	}
	replace := func(from, to string) func(t *testing.T, dir string) {
		return func(t *testing.T, dir string) {
			b, err := os.ReadFile(filepath.Join(other, from))
			if err == nil {
				err = os.WriteFile(filepath.Join(dir, to), b, 0o600)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	for name, tt := range map[string]struct {
		change func(t *testing.T, dir string)
		want   string
	}{
		"others read it":    {func(t *testing.T, dir string) { _ = os.Chmod(dir, 0o755) }, "mode 0755"},
		"a key missing":     {func(t *testing.T, dir string) { _ = os.Remove(filepath.Join(dir, KeyFile)) }, KeyFile},
		"a root missing":    {func(t *testing.T, dir string) { _ = os.Remove(filepath.Join(dir, RootFile)) }, RootFile},
		"nonsense":          {func(t *testing.T, dir string) { _ = os.WriteFile(filepath.Join(dir, KeyFile), []byte("x"), 0o600) }, "not one PEM block"},
		"another block":     {replace(RootFile, KeyFile), "not one PEM block"},
		"another key":       {replace(KeyFile, KeyFile), "not the key of"},
		"another signer":    {replace(SignerFile, SignerFile), "not signed by the root"},
		"another root":      {replace(RootFile, RootFile), "not signed by the root"},
		"a root for signer": {replace(RootFile, SignerFile), "authority's"},
		"a file":            {func(t *testing.T, dir string) { _ = os.RemoveAll(dir); _ = os.WriteFile(dir, nil, 0o600) }, ""},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "sim")
			if _, err := LoadOrCreate(dir); err != nil {
				t.Fatal(err)
			}
			tt.change(t, dir)
			_, err := LoadOrCreate(dir)
			if err == nil || !strings.Contains(err.Error(), dir) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v; want %q in it", err, tt.want)
			}
		})
	}
	if _, err := LoadOrCreate(filepath.Join(t.TempDir(), "none", "sim")); err == nil {
		t.Error("a folder in a folder that is not there was made")
	}
}

// The certificates can't be taken for a vendor's.
func TestCertificatesSayWhatTheyAre(t *testing.T) {
	a := newAuthority(t)
	for _, der := range [][]byte{a.root, a.signer} {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		if n := (pkix.Name{CommonName: c.Subject.CommonName}); !strings.Contains(n.String(), "SIMULATED") || c.SerialNumber.Cmp(big.NewInt(0)) <= 0 {
			t.Errorf("%v", c.Subject)
		}
	}
}
