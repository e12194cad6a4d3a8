package sim

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/ultravioletrs/cocos/attest"
	"github.com/ultravioletrs/cocos/attest/snp"
)

// Bounds of what comes with evidence.
const (
	maxCertificates = 8
	maxCertificate  = 8 << 10 // bytes
)

// Appraise judges evidence of the simulated TEE by the policy's section for it,
// for dates at. A nil section refuses. Every Result says Simulated.
func Appraise(_ context.Context, e attest.Evidence, want attest.Expected, p *attest.SimPolicy, at time.Time) (attest.Result, error) {
	if at.IsZero() {
		return attest.Result{}, errors.New("appraising simulated evidence: no time is given by which dates would be judged")
	}
	r := attest.Result{Type: attest.Sim, Simulated: true, At: at}
	judge(&r, e, want, p, at)
	if len(r.Failed()) > 0 {
		r.NotBefore, r.NotAfter = time.Time{}, time.Time{}
	}
	err := r.Conclude()
	return r, err
}

// judge adds the claims, up to one that leaves nothing to look further at.
func judge(r *attest.Result, e attest.Evidence, want attest.Expected, p *attest.SimPolicy, at time.Time) {
	if !r.Add(e.Type == attest.Sim, "sim.type", string(attest.Sim), fmt.Sprintf("%q", e.Type)) {
		return
	}
	if p == nil {
		r.Add(false, "sim.consent", attest.SimConsent, "a policy without a section that accepts simulation")
		return
	}
	r.Add(p.Accept == attest.SimConsent, "sim.consent", attest.SimConsent, fmt.Sprintf("%q", p.Accept))
	report, err := snp.Parse(e.Report)
	if !r.Add(err == nil, "sim.report", fmt.Sprintf("an SNP report of %d bytes", snp.ReportSize), found(err, "one")) {
		return
	}
	signer := chain(r, e.Endorsements.Certificates, p.Roots, at)
	if signer == nil {
		return
	}
	err = snp.VerifySignature(e.Report, signer)
	r.Add(err == nil, "sim.signature", "by the signer's key over the whole report", found(err, "it"))
	content(r, report, want, p)
}

// content judges what the report says.
func content(r *attest.Result, report *snp.Report, want attest.Expected, p *attest.SimPolicy) {
	family := strings.TrimRight(string(report.FamilyID[:]), "\x00")
	r.Add(family == Mark, "sim.family_id", Mark, fmt.Sprintf("%q", family))
	r.Add(report.Signer == snp.VCEK, "sim.signer", "key 0", fmt.Sprintf("key %d", report.Signer))
	r.Add(report.Policy == policyBits, "sim.guest_policy", fmt.Sprintf("%#x", policyBits), policyText(report.Policy))
	r.Add(report.VMPL == 0, "sim.vmpl", "0", fmt.Sprint(report.VMPL))
	r.Add(bytes.Count(report.ReportIDMA[:], []byte{0xff}) == len(report.ReportIDMA), "sim.report_id_ma",
		"no migration agent", hex.EncodeToString(report.ReportIDMA[:]))
	listed(r, "sim.measurement", p.Measurements, report.Measurement[:])
	r.Add(report.ReportData == want.ReportData, "sim.report_data", hex.EncodeToString(want.ReportData[:]), hex.EncodeToString(report.ReportData[:]))
	if want.Launch != nil {
		listed(r, "sim.host_data", []attest.Hex{want.Launch.SHA256[:]}, report.HostData[:])
	} else {
		listed(r, "sim.host_data", p.HostData, report.HostData[:])
	}
}

func policyText(bits uint64) string {
	s := fmt.Sprintf("%#x", bits)
	if bits&debugBit != 0 {
		s += " (debugging is allowed)"
	}
	return s
}

func listed(r *attest.Result, name string, accepted []attest.Hex, got []byte) {
	expected := make([]string, len(accepted))
	for i, v := range accepted {
		expected[i] = v.String()
	}
	text := strings.Join(expected, " or ")
	if text == "" {
		text = "a value that the policy lists; it lists none"
	}
	ok := slices.ContainsFunc(accepted, func(v attest.Hex) bool { return bytes.Equal(v, got) })
	r.Add(ok, name, text, hex.EncodeToString(got))
}

func found(err error, ok string) string {
	if err != nil {
		return err.Error()
	}
	return ok
}

// chain returns the signer's certificate if it leads to a root that the policy
// names by its digest, and sets the dates at which that holds.
func chain(r *attest.Result, ders [][]byte, roots []attest.Hex, at time.Time) *x509.Certificate {
	names := make([]string, len(roots))
	for i, root := range roots {
		names[i] = root.String()
	}
	expected := "a signer under the root with SHA-256 " + strings.Join(names, " or ")
	if len(roots) == 0 {
		expected = "a signer under a root that the policy lists; it lists none"
	}
	signer, root, err := link(ders, roots)
	if !r.Add(err == nil, "sim.chain", expected, found(err, "one")) {
		return nil
	}
	r.NotBefore, r.NotAfter = later(signer.NotBefore, root.NotBefore), earlier(signer.NotAfter, root.NotAfter)
	r.Add(!at.Before(r.NotBefore) && !at.After(r.NotAfter), "sim.dates",
		fmt.Sprintf("%s to %s", r.NotBefore.Format(time.RFC3339), r.NotAfter.Format(time.RFC3339)), at.UTC().Format(time.RFC3339))
	return signer
}

// link finds root and signer among certificates.
func link(ders [][]byte, roots []attest.Hex) (signer, root *x509.Certificate, err error) {
	if len(ders) > maxCertificates {
		return nil, nil, fmt.Errorf("%d certificates; at most %d are looked at", len(ders), maxCertificates)
	}
	var others []*x509.Certificate
	for i, der := range ders {
		if len(der) > maxCertificate {
			return nil, nil, fmt.Errorf("certificate %d of %d bytes; at most %d are taken", i, len(der), maxCertificate)
		}
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, nil, fmt.Errorf("certificate %d: %v", i, err)
		}
		sum := sha256.Sum256(der)
		if slices.ContainsFunc(roots, func(r attest.Hex) bool { return bytes.Equal(r, sum[:]) }) {
			root = c
		} else {
			others = append(others, c)
		}
	}
	switch {
	case root == nil && len(ders) == 0:
		return nil, nil, errors.New("no certificates")
	case root == nil:
		last := sha256.Sum256(ders[len(ders)-1])
		return nil, nil, fmt.Errorf("%d certificates, none of them such a root (the last has SHA-256 %x)", len(ders), last)
	case len(others) != 1:
		return nil, nil, fmt.Errorf("%d certificates beside the root; expected the signer's alone", len(others))
	}
	if err := checked(others[0], root); err != nil {
		return nil, nil, err
	}
	return others[0], root, nil
}

// checkChain tells whether root signed signer, and both are this package's kind.
func checkChain(signer, root *x509.Certificate) error {
	for _, c := range []*x509.Certificate{root, signer} {
		if !strings.HasPrefix(c.Subject.CommonName, Mark) {
			return fmt.Errorf("the certificate of %q does not say %s", c.Subject.CommonName, Mark)
		}
		if key, ok := c.PublicKey.(*ecdsa.PublicKey); !ok || key.Curve != elliptic.P384() {
			return fmt.Errorf("the certificate of %q has a key that is not ECDSA P-384", c.Subject.CommonName)
		}
	}
	if signer.IsCA {
		return fmt.Errorf("the certificate of %q is an authority's", signer.Subject.CommonName)
	}
	if err := signer.CheckSignatureFrom(root); err != nil {
		return fmt.Errorf("the certificate of %q is not signed by the root: %v", signer.Subject.CommonName, err)
	}
	return nil
}

// known remembers chains that hold, which is the same for ever: a signature is
// checked once and not with each connection.
var known = struct {
	sync.Mutex
	chains map[[2][sha256.Size]byte]bool
}{chains: map[[2][sha256.Size]byte]bool{}}

const maxKnown = 256

func checked(signer, root *x509.Certificate) error {
	pair := [2][sha256.Size]byte{sha256.Sum256(signer.Raw), sha256.Sum256(root.Raw)}
	known.Lock()
	ok := known.chains[pair]
	known.Unlock()
	if ok {
		return nil
	}
	if err := checkChain(signer, root); err != nil {
		return err
	}
	known.Lock()
	defer known.Unlock()
	if len(known.chains) >= maxKnown {
		clear(known.chains)
	}
	known.chains[pair] = true
	return nil
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}
