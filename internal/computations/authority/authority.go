// Package authority is the service's own certificate authority: hosts get client
// certificates from it, and where nothing else is set up the service gets its
// server certificate from it.
//
// Its key is made at the first start, or is the operator's, and lies in a file
// that nobody else can read; one that others can read is refused. Invariants:
//
//   - What a certificate says is decided here alone. Of a request the public key
//     is taken, once the request proves that the asker has its private key; a
//     request that asks for more is refused.
//   - A certificate is for one use: one for a host is no server's, and neither
//     signs others. Its serial is 128 random bits, by which its row is found, so
//     that revoking a host is forgetting nothing: who is not in the database, or
//     is revoked there, is nobody.
//   - No certificate outlives the authority.
package authority

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"time"
)

// File is the authority in a data directory: key and certificate, PEM.
const File = "authority.pem"

const (
	// rootLife is how long an authority made here lasts.
	rootLife = 10 * 365 * 24 * time.Hour
	// backdate is for clocks that are behind this one.
	backdate = time.Hour
	// maxFile bounds a file of keys and certificates, in bytes.
	maxFile = 64 << 10
)

// Config says where the authority is.
type Config struct {
	// Dir holds File, which is made where it is missing. An operator's own is taken
	// there, too.
	Dir string
	// Now is the clock; nil: time.Now.
	Now func() time.Time
}

// Authority signs certificates. It is safe for concurrent use.
type Authority struct {
	cert *x509.Certificate
	key  crypto.Signer
	now  func() time.Time
}

// Open reads the authority, or makes one in Dir.
func Open(c Config) (*Authority, error) {
	if c.Now == nil {
		c.Now = time.Now
	}
	name := filepath.Join(c.Dir, File)
	a, err := read(name, c.Now)
	if !errors.Is(err, fs.ErrNotExist) {
		return a, err
	}
	if err := makeRoot(name, c.Now()); err != nil {
		return nil, fmt.Errorf("making the certificate authority: %w", err)
	}
	return read(name, c.Now)
}

// makeRoot leaves a whole file, or none. Where another process was faster, its
// file stays.
func makeRoot(name string, now time.Time) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	serial := newSerial()
	template := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: fmt.Sprintf("Cocos service %x", serial.Bytes()[:4]), Organization: []string{"Cocos"}},
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.Add(rootLife),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true, // it signs no other authority
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return err
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	text := append(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}), encode(der)...)
	f, err := os.CreateTemp(filepath.Dir(name), File+".*") // its mode is 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(text)
	err = errors.Join(err, f.Sync(), f.Close())
	if err != nil {
		return err
	}
	if err := os.Link(f.Name(), name); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}

// newSerial is 128 random bits, of which the first is set so that all serials
// have one length.
func newSerial() *big.Int {
	b := make([]byte, 16)
	_, _ = rand.Read(b) // never fails
	b[0] = b[0]&0x7f | 0x40
	return new(big.Int).SetBytes(b)
}

func encode(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// read refuses what could not, or must not, sign.
func read(name string, now func() time.Time) (*Authority, error) {
	key, err := readKey(name)
	if err != nil {
		return nil, fmt.Errorf("reading the authority's key: %w", err)
	}
	text, err := readFile(name)
	if err != nil {
		return nil, fmt.Errorf("reading the authority's certificate: %w", err)
	}
	der := block(text, "CERTIFICATE")
	if der == nil {
		return nil, fmt.Errorf("%s holds no certificate; expected PEM", name)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	public, ok := cert.PublicKey.(interface{ Equal(crypto.PublicKey) bool })
	at := now()
	switch {
	case !ok || !public.Equal(key.Public()):
		return nil, fmt.Errorf("%s has a key that is not its certificate's", name)
	case !cert.BasicConstraintsValid || !cert.IsCA:
		return nil, fmt.Errorf("%s is not the certificate of an authority (CA: true)", name)
	case cert.KeyUsage != 0 && cert.KeyUsage&x509.KeyUsageCertSign == 0:
		return nil, fmt.Errorf("%s must not sign certificates, by its key usage", name)
	case at.After(cert.NotAfter):
		return nil, fmt.Errorf("%s expired on %s: every host has to enrol again with a new authority", name, cert.NotAfter.UTC().Format(time.RFC3339))
	case at.Before(cert.NotBefore):
		return nil, fmt.Errorf("%s is not valid before %s: look at this machine's clock", name, cert.NotBefore.UTC().Format(time.RFC3339))
	}
	return &Authority{cert: cert, key: key, now: now}, nil
}

func readKey(name string) (crypto.Signer, error) {
	info, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return nil, fmt.Errorf("%s has mode %04o: others may read the key, and sign what they like; if nobody did: chmod 0600 %s", name, mode, name)
	}
	text, err := readFile(name)
	if err != nil {
		return nil, err
	}
	der := block(text, "PRIVATE KEY")
	if der == nil {
		return nil, fmt.Errorf("%s holds no private key; expected PEM of PKCS #8", name)
	}
	key, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("%s holds a key that can't sign", name)
	}
	return signer, nil
}

func readFile(name string) ([]byte, error) {
	info, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > maxFile {
		return nil, fmt.Errorf("%s is not a file of at most %d bytes", name, maxFile)
	}
	return os.ReadFile(name)
}

// block finds the first PEM block of a type; nil if there is none.
func block(text []byte, kind string) []byte {
	for {
		var b *pem.Block
		if b, text = pem.Decode(text); b == nil {
			return nil
		}
		if b.Type == kind {
			return b.Bytes
		}
	}
}

// PEM is the authority's certificate.
func (a *Authority) PEM() []byte { return encode(a.cert.Raw) }

// Pool is the authority's certificate, to verify others with.
func (a *Authority) Pool() *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(a.cert)
	return p
}

// Fingerprint names the authority's certificate: its SHA-256, as `cocos-manager
// enroll --fingerprint` takes it.
func (a *Authority) Fingerprint() string { return Fingerprint(a.cert.Raw) }

// Fingerprint names a certificate in DER.
func Fingerprint(der []byte) string {
	sum := sha256.Sum256(der)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// sign completes a template: serial, dates and what no certificate from here may do.
func (a *Authority) sign(template *x509.Certificate, public crypto.PublicKey, life time.Duration) (*x509.Certificate, error) {
	now := a.now()
	template.SerialNumber = newSerial()
	template.NotBefore = now.Add(-backdate)
	if template.NotBefore.Before(a.cert.NotBefore) {
		template.NotBefore = a.cert.NotBefore
	}
	template.NotAfter = now.Add(life)
	if template.NotAfter.After(a.cert.NotAfter) {
		template.NotAfter = a.cert.NotAfter
	}
	if !template.NotAfter.After(now) {
		return nil, fmt.Errorf("the certificate authority expired on %s", a.cert.NotAfter.UTC().Format(time.RFC3339))
	}
	template.BasicConstraintsValid = true
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, public, a.key)
	if err != nil {
		return nil, fmt.Errorf("signing a certificate: %w", err)
	}
	return x509.ParseCertificate(der)
}
