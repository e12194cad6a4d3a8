// Package sim is the simulated TEE: SEV-SNP's reports in their genuine format,
// signed under a root that a host has made for itself.
//
// It lets everything that stands on evidence run where there is no TEE. It
// protects nothing: whoever runs the host has the keys, and can sign what it
// likes.
//
// Invariants:
//   - It has evidence of its own type, roots of its own and an appraisal of its
//     own. No key, certificate or list of roots is shared with attest/snp, whose
//     format alone it uses: neither takes the other's evidence for its own.
//   - Nothing is accepted without a policy that says so in attest.SimConsent's
//     words and names the root by its digest. The certificates that come with
//     evidence prove themselves against that digest or not at all.
//   - What it makes says SIMULATED: the names of its certificates, the family id
//     of its reports, every Result.
package sim

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"time"

	"github.com/ultravioletrs/cocos/attest"
	"github.com/ultravioletrs/cocos/attest/snp"
)

// Names in an authority's folder, which has mode 0700. RootFile is what a host
// gives to those who accept its simulation.
const (
	RootFile   = "root.pem"
	SignerFile = "signer.pem"
	KeyFile    = "signer.key" // mode 0600
)

// Names of the certificates begin with Mark, and so do the reports' family ids.
const (
	Mark       = "SIMULATED"
	rootName   = Mark + " TEE root: protects nothing"
	signerName = Mark + " TEE report signer: protects nothing"
)

// lifetime of the certificates.
const lifetime = 10 * 365 * 24 * time.Hour

// Authority signs simulated reports. Use LoadOrCreate.
type Authority struct {
	root, signer []byte // DER
	key          *ecdsa.PrivateKey
	reportID     [32]byte
}

// LoadOrCreate opens the folder of an authority or makes one: a root, whose
// private key is thrown away once it has signed the signer's certificate, and
// the signer. Several processes may do so at once and get the same one.
func LoadOrCreate(dir string) (*Authority, error) {
	a, err := load(dir)
	if errors.Is(err, fs.ErrNotExist) {
		if err = create(dir, time.Now()); err == nil {
			a, err = load(dir)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("simulated TEE's keys in %s: %w", dir, err)
	}
	_, _ = rand.Read(a.reportID[:]) // never fails
	return a, nil
}

// create makes the folder whole and puts it in its place at once.
func create(dir string, now time.Time) error {
	rootKey, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		return err
	}
	key, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		return err
	}
	rootTemplate := template(rootName, 1, now)
	rootTemplate.IsCA, rootTemplate.MaxPathLenZero = true, true
	rootTemplate.KeyUsage = x509.KeyUsageCertSign
	root, err := x509.CreateCertificate(rand.Reader, rootTemplate, rootTemplate, rootKey.Public(), rootKey)
	if err != nil {
		return err
	}
	parent, err := x509.ParseCertificate(root)
	if err != nil {
		return err
	}
	signer, err := x509.CreateCertificate(rand.Reader, template(signerName, 2, now), parent, key.Public(), rootKey)
	if err != nil {
		return err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	tmp, err := os.MkdirTemp(filepath.Dir(dir), filepath.Base(dir)+".new") // mode 0700
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp) // once it has its name there is nothing left here
	for _, f := range []struct {
		name, block string
		der         []byte
		mode        os.FileMode
	}{{RootFile, "CERTIFICATE", root, 0o644}, {SignerFile, "CERTIFICATE", signer, 0o644}, {KeyFile, "PRIVATE KEY", der, 0o600}} {
		b := pem.EncodeToMemory(&pem.Block{Type: f.block, Bytes: f.der})
		if err := os.WriteFile(filepath.Join(tmp, f.name), b, f.mode); err != nil {
			return err
		}
	}
	if err := os.Rename(tmp, dir); err != nil && !errors.Is(err, fs.ErrExist) {
		return err // ErrExist: another process was faster
	}
	return nil
}

func template(name string, serial int64, now time.Time) *x509.Certificate {
	return &x509.Certificate{
		SerialNumber:          big.NewInt(serial),
		Subject:               pkix.Name{CommonName: name},
		NotBefore:             now.Add(-time.Hour).UTC(),
		NotAfter:              now.Add(lifetime).UTC(),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		BasicConstraintsValid: true,
	}
}

// load reads the folder. fs.ErrNotExist alone means that there is none.
func load(dir string) (*Authority, error) {
	info, err := os.Stat(dir)
	if err != nil {
		return nil, err
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("the folder has mode %#o; expected 0700, so that nobody else reads its key", info.Mode().Perm())
	}
	a := new(Authority)
	var key []byte
	for _, f := range []struct {
		name, block string
		to          *[]byte
	}{{RootFile, "CERTIFICATE", &a.root}, {SignerFile, "CERTIFICATE", &a.signer}, {KeyFile, "PRIVATE KEY", &key}} {
		b, err := os.ReadFile(filepath.Join(dir, f.name))
		if err != nil {
			return nil, damaged("%s can't be read: %v", f.name, err)
		}
		block, rest := pem.Decode(b)
		if block == nil || block.Type != f.block || len(rest) > 0 {
			return nil, damaged("%s is not one PEM block %q", f.name, f.block)
		}
		*f.to = block.Bytes
	}
	parsed, err := x509.ParsePKCS8PrivateKey(key)
	if err != nil {
		return nil, damaged("%s: %v", KeyFile, err)
	}
	var ok bool
	if a.key, ok = parsed.(*ecdsa.PrivateKey); !ok || a.key.Curve != elliptic.P384() {
		return nil, damaged("%s has a %T; expected an ECDSA P-384 key", KeyFile, parsed)
	}
	root, err := x509.ParseCertificate(a.root)
	if err != nil {
		return nil, damaged("%s: %v", RootFile, err)
	}
	signer, err := x509.ParseCertificate(a.signer)
	if err != nil {
		return nil, damaged("%s: %v", SignerFile, err)
	}
	if err := checkChain(signer, root); err != nil {
		return nil, damaged("%s: %v", SignerFile, err)
	}
	if pub, ok := signer.PublicKey.(interface{ Equal(crypto.PublicKey) bool }); !ok || !pub.Equal(a.key.Public()) {
		return nil, damaged("%s is not the key of %s", KeyFile, SignerFile)
	}
	return a, nil
}

func damaged(format string, args ...any) error {
	return fmt.Errorf("%s; remove the folder to have new ones made (policies that name the old root then refuse)", fmt.Sprintf(format, args...))
}

// Root returns the root certificate, DER, and its SHA-256: what a policy names.
func (a *Authority) Root() (der []byte, sum [sha256.Size]byte) {
	return a.root, sha256.Sum256(a.root)
}

// policyBits of a simulated guest (56860, table 9): simultaneous multithreading
// allowed, the bit that must be set, and nothing else.
const policyBits = 1<<16 | 1<<17

// debugBit of a guest policy.
const debugBit = 1 << 19

// Report makes evidence about a VM of this host.
func (a *Authority) Report(data attest.ReportData, measurement [48]byte, hostData [32]byte) (attest.Evidence, error) {
	r := &snp.Report{
		Version: 3, Policy: policyBits, SignatureAlgo: snp.SignatureECDSAP384, Signer: snp.VCEK,
		ReportData: data, Measurement: measurement, HostData: hostData, ReportID: a.reportID,
		CPUIDFamily: 0x19, CPUIDModel: 0x01, CPUIDStepping: 1,
	}
	copy(r.FamilyID[:], Mark)
	for i := range r.ReportIDMA {
		r.ReportIDMA[i] = 0xff // no migration agent
	}
	b := snp.Marshal(r)
	if err := snp.Sign(b, a.key); err != nil {
		return attest.Evidence{}, err
	}
	return attest.Evidence{
		Type: attest.Sim, Report: b,
		Endorsements: attest.Endorsements{Certificates: [][]byte{a.signer, a.root}},
	}, nil
}

// Attester speaks for one VM of this host.
func (a *Authority) Attester(measurement [48]byte, hostData [32]byte) attest.Attester {
	return &attester{a, measurement, hostData}
}

type attester struct {
	authority   *Authority
	measurement [48]byte
	hostData    [32]byte
}

// Type implements attest.Attester.
func (*attester) Type() attest.Type { return attest.Sim }

// Attest implements attest.Attester.
func (a *attester) Attest(_ context.Context, data attest.ReportData) (attest.Evidence, error) {
	return a.authority.Report(data, a.measurement, a.hostData)
}

// LaunchField implements attest.Attester.
func (a *attester) LaunchField(context.Context) ([]byte, error) { return a.hostData[:], nil }
