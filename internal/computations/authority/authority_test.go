package authority

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

const hostID = "01936f7a-0000-7000-8000-000000000001"

// clock is a time that tests set.
type clock struct {
	mu sync.Mutex
	at time.Time
}

func (c *clock) now() time.Time { c.mu.Lock(); defer c.mu.Unlock(); return c.at }
func (c *clock) pass(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
}

func open(t *testing.T) (*Authority, *clock, string) {
	t.Helper()
	dir, c := t.TempDir(), &clock{at: time.Now()}
	a, err := Open(Config{Dir: dir, Now: c.now})
	if err != nil {
		t.Fatal(err)
	}
	return a, c, filepath.Join(dir, File)
}

func p256(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func request(t *testing.T, key crypto.Signer, template *x509.CertificateRequest) []byte {
	t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, template, key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func parse(t *testing.T, text []byte) *x509.Certificate {
	t.Helper()
	c, err := x509.ParseCertificate(block(text, "CERTIFICATE"))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestAuthorityStays: it is made once, for its owner's eyes only, and the same
// for everybody who opens it at the same time.
func TestAuthorityStays(t *testing.T) {
	dir := t.TempDir()
	prints := make(chan string, 8)
	for range cap(prints) {
		go func() {
			a, err := Open(Config{Dir: dir})
			if err != nil {
				t.Error(err)
				prints <- ""
				return
			}
			prints <- a.Fingerprint()
		}()
	}
	first := <-prints
	for range cap(prints) - 1 {
		if next := <-prints; next != first {
			t.Errorf("two authorities in one folder: %s, %s", first, next)
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Fatalf("%v, %v", entries, err)
	}
	if info, err := entries[0].Info(); err != nil || info.Mode() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	root := parse(t, read1(t, filepath.Join(dir, File)))
	if key, ok := root.PublicKey.(*ecdsa.PublicKey); !ok || key.Curve != elliptic.P256() || !root.IsCA || !root.MaxPathLenZero ||
		root.KeyUsage != x509.KeyUsageCertSign|x509.KeyUsageCRLSign {
		t.Errorf("the root: %+v", root)
	}
}

func read1(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestHostCertificate is all that one says.
func TestHostCertificate(t *testing.T) {
	a, c, _ := open(t)
	key := p256(t)
	before := c.now()
	got, err := a.SignHost(hostID, request(t, key, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "somebody else", Organization: []string{"Cocos service"}}}))
	if err != nil {
		t.Fatal(err)
	}
	cert := parse(t, got.PEM)
	if _, err := cert.Verify(x509.VerifyOptions{Roots: a.Pool(), CurrentTime: before, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
		t.Error(err)
	}
	if id, ok := HostOf(cert); !ok || id != hostID {
		t.Errorf("it names the host %q", id)
	}
	if cert.Subject.CommonName != hostID || len(cert.DNSNames)+len(cert.IPAddresses)+len(cert.EmailAddresses) > 0 || cert.IsCA || !cert.BasicConstraintsValid ||
		len(cert.ExtKeyUsage) != 1 || cert.ExtKeyUsage[0] != x509.ExtKeyUsageClientAuth || cert.KeyUsage != x509.KeyUsageDigitalSignature {
		t.Errorf("%+v", cert)
	}
	if !key.PublicKey.Equal(cert.PublicKey) {
		t.Error("it is of another key")
	}
	if n := cert.SerialNumber.BitLen(); n != 127 || got.Serial != SerialOf(cert) || len(got.Serial) != 32 {
		t.Errorf("serial %s of %d bits, told as %s", cert.SerialNumber, n, got.Serial)
	}
	if !cert.NotAfter.Equal(before.Add(HostLife).Truncate(time.Second)) || !got.Expires.Equal(cert.NotAfter) {
		t.Errorf("until %v, told as %v", cert.NotAfter, got.Expires)
	}
	again, err := a.SignHost(hostID, request(t, key, &x509.CertificateRequest{}))
	if err != nil || again.Serial == got.Serial {
		t.Errorf("the same serial twice: %s, %v", again.Serial, err)
	}
}

// TestRequestsRefused: each is right in all but one thing.
func TestRequestsRefused(t *testing.T) {
	a, _, _ := open(t)
	good := request(t, p256(t), &x509.CertificateRequest{})
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p521, err := ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	flip := func(b []byte, at int) []byte {
		c := append([]byte{}, b...)
		c[at] ^= 1
		return c
	}
	ca, err := asn1.Marshal(struct {
		IsCA bool `asn1:"optional"`
	}{true})
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		request []byte
		says    string // empty: it is taken
	}{
		"P-256":          {good, ""},
		"P-384":          {request(t, p384, &x509.CertificateRequest{}), ""},
		"Ed25519":        {request(t, ed, &x509.CertificateRequest{}), ""},
		"nothing":        {nil, "has 0 bytes"},
		"too long":       {append(good, make([]byte, maxRequest)...), "of at most 16384"},
		"more behind it": {append(append([]byte{}, good...), 0), "can't be read"},
		"cut off":        {good[:len(good)-1], "can't be read"},
		"a certificate":  {a.cert.Raw, "can't be read"},
		"PEM":            {pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: good}), "can't be read"},
		"not its key's":  {flip(good, len(good)-1), "is not signed by its own key"},
		"P-521":          {request(t, p521, &x509.CertificateRequest{}), "use P-256 or P-384"},
		"RSA":            {request(t, rsaKey, &x509.CertificateRequest{}), "use ECDSA or Ed25519"},
		"a name":         {request(t, p256(t), &x509.CertificateRequest{DNSNames: []string{"service.example.org"}}), "asks for extensions"},
		"an authority": {request(t, p256(t), &x509.CertificateRequest{ExtraExtensions: []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 19}, Critical: true, Value: ca}}}),
			"asks for extensions"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := a.SignHost(hostID, c.request)
			var refused *RequestError
			switch {
			case c.says == "" && err != nil:
				t.Error(err)
			case c.says != "" && (!errors.As(err, &refused) || !strings.Contains(err.Error(), c.says) || got.PEM != nil):
				t.Errorf("%v; expected %q in it", err, c.says)
			}
		})
	}
}

// operators writes an authority of an operator's own, changed.
func operators(t *testing.T, change func(c *x509.Certificate)) (cert, key []byte) {
	t.Helper()
	own := p256(t)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "ours"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		KeyUsage: x509.KeyUsageCertSign, IsCA: true, BasicConstraintsValid: true}
	if change != nil {
		change(template)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, own.Public(), own)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(own)
	if err != nil {
		t.Fatal(err)
	}
	return encode(der), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})
}

func write(t *testing.T, name string, b []byte, mode os.FileMode) {
	t.Helper()
	if err := os.WriteFile(name, b, mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(name, mode); err != nil {
		t.Fatal(err)
	}
}

// TestOperatorsAuthority: what lies in the folder is taken or refused, and nothing is
// made in its place.
func TestOperatorsAuthority(t *testing.T) {
	cert, key := operators(t, nil)
	_, other := operators(t, nil)
	changed := func(f func(*x509.Certificate)) []byte { c, k := operators(t, f); return slices.Concat(k, c) }
	for name, c := range map[string]struct {
		text []byte
		mode os.FileMode
		says string
	}{
		"good":                {slices.Concat(key, cert), 0o600, ""},
		"certificate first":   {slices.Concat(cert, key), 0o600, ""},
		"no key":              {cert, 0o600, "holds no private key"},
		"no certificate":      {key, 0o600, "holds no certificate"},
		"another key":         {slices.Concat(other, cert), 0o600, "a key that is not its certificate's"},
		"for all to read":     {slices.Concat(key, cert), 0o640, "chmod 0600"},
		"empty":               {nil, 0o600, "holds no private key"},
		"too long":            {slices.Concat(key, cert, make([]byte, 64<<10)), 0o600, "is not a file of at most"},
		"not of an authority": {changed(func(c *x509.Certificate) { c.IsCA, c.KeyUsage = false, 0 }), 0o600, "not the certificate of an authority"},
		"must not sign":       {changed(func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageDigitalSignature }), 0o600, "must not sign"},
		"expired":             {changed(func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }), 0o600, "expired on"},
		"not yet":             {changed(func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Hour) }), 0o600, "not valid before"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			write(t, filepath.Join(dir, File), c.text, c.mode)
			_, err := Open(Config{Dir: dir})
			switch {
			case c.says == "" && err != nil:
				t.Error(err)
			case c.says != "" && (err == nil || !strings.Contains(err.Error(), c.says)):
				t.Errorf("%v; expected %q in it", err, c.says)
			}
			if now := read1(t, filepath.Join(dir, File)); !bytes.Equal(now, c.text) {
				t.Error("it was replaced")
			}
		})
	}
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, File), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(Config{Dir: dir}); err == nil || !strings.Contains(err.Error(), "is not a file") {
		t.Errorf("a folder in its place: %v", err)
	}
}

// TestDamagedAuthorityIsNotReplaced: a new one would lock every host out.
func TestDamagedAuthorityIsNotReplaced(t *testing.T) {
	_, _, name := open(t)
	b := read1(t, name)
	write(t, name, b[:len(b)/2], 0o600)
	if _, err := Open(Config{Dir: filepath.Dir(name)}); err == nil {
		t.Error("half a file is an authority")
	}
	if now := read1(t, name); len(now) != len(b)/2 {
		t.Error("it was replaced")
	}
}

// TestNothingOutlivesTheAuthority, and it signs nothing once it has expired.
func TestNothingOutlivesTheAuthority(t *testing.T) {
	cert, key := operators(t, nil)
	c := &clock{at: time.Now()}
	dir := t.TempDir()
	write(t, filepath.Join(dir, File), slices.Concat(key, cert), 0o600)
	a, err := Open(Config{Dir: dir, Now: c.now})
	if err != nil {
		t.Fatal(err)
	}
	r := request(t, p256(t), &x509.CertificateRequest{})
	got, err := a.SignHost(hostID, r)
	if err != nil || got.Expires.After(a.cert.NotAfter) {
		t.Errorf("until %v, the authority until %v: %v", got.Expires, a.cert.NotAfter, err)
	}
	c.pass(25 * time.Hour)
	if _, err := a.SignHost(hostID, r); err == nil || !strings.Contains(err.Error(), "expired") {
		t.Errorf("%v", err)
	}
}

// TestServerRenewsItself when a third of its life is left, and not before.
func TestServerRenewsItself(t *testing.T) {
	a, c, _ := open(t)
	s, err := a.Server("localhost", "127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	serial := func() string {
		t.Helper()
		got, err := s.Certificate(nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"localhost", "127.0.0.1"} {
			if _, err := got.Leaf.Verify(x509.VerifyOptions{Roots: a.Pool(), DNSName: name, CurrentTime: c.now()}); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		if len(got.Certificate) != 2 || Fingerprint(got.Certificate[1]) != a.Fingerprint() {
			t.Error("the authority is not shown")
		}
		return SerialOf(got.Leaf)
	}
	first := serial()
	c.pass(serverLife*2/3 - time.Minute)
	if serial() != first {
		t.Error("it was renewed early")
	}
	c.pass(2 * time.Minute)
	if serial() == first {
		t.Error("it was not renewed")
	}
	if _, err := a.Server(); err == nil {
		t.Error("a certificate for nobody")
	}
}

// TestWhoIsLetIn: a listener takes whoever shows no certificate, and of those who
// show one only hosts of this authority.
func TestWhoIsLetIn(t *testing.T) {
	a, c, _ := open(t)
	other, _, _ := open(t)
	server, err := a.Server("127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	pair := func(a *Authority) *tls.Certificate {
		t.Helper()
		key := p256(t)
		got, err := a.SignHost(hostID, request(t, key, &x509.CertificateRequest{}))
		if err != nil {
			t.Fatal(err)
		}
		return &tls.Certificate{Certificate: [][]byte{block(got.PEM, "CERTIFICATE")}, PrivateKey: key}
	}
	asServer, err := server.Certificate(nil)
	if err != nil {
		t.Fatal(err)
	}
	dial := func(client *tls.Certificate) (host string, err error) {
		t.Helper()
		l, err := tls.Listen("tcp", "127.0.0.1:0", a.TLS(server.Certificate))
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		seen := make(chan string, 1)
		go func() {
			defer close(seen)
			conn, err := l.Accept()
			if err != nil {
				return
			}
			defer conn.Close()
			if err := conn.(*tls.Conn).Handshake(); err != nil {
				return
			}
			id := "nobody"
			if certs := conn.(*tls.Conn).ConnectionState().PeerCertificates; len(certs) > 0 {
				id, _ = HostOf(certs[0])
			}
			seen <- id
		}()
		cfg := &tls.Config{RootCAs: a.Pool(), Time: c.now}
		if client != nil {
			cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return client, nil }
		}
		conn, err := tls.Dial("tcp", l.Addr().String(), cfg)
		if err != nil {
			return "", err
		}
		defer conn.Close()
		id, ok := <-seen
		if !ok {
			return "", fmt.Errorf("the server broke the handshake off")
		}
		return id, nil
	}
	host, expired := pair(a), pair(a)
	for name, c := range map[string]struct {
		client *tls.Certificate
		want   string // empty: refused
	}{
		"no certificate":         {nil, "nobody"},
		"a host":                 {host, hostID},
		"of another authority":   {pair(other), ""},
		"a server's certificate": {asServer, ""},
	} {
		if got, err := dial(c.client); got != c.want || (err == nil) != (c.want != "") {
			t.Errorf("%s: %q, %v; want %q", name, got, err, c.want)
		}
	}
	c.pass(HostLife + time.Minute)
	if got, err := dial(expired); err == nil {
		t.Errorf("expired: %q", got)
	}
}

// TestHostOf: what names no host is none.
func TestHostOf(t *testing.T) {
	a, _, _ := open(t)
	server, err := a.Server("localhost")
	if err != nil {
		t.Fatal(err)
	}
	got, err := server.Certificate(nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]*x509.Certificate{"the authority": a.cert, "a server": got.Leaf} {
		if id, ok := HostOf(c); ok {
			t.Errorf("%s is the host %q", name, id)
		}
	}
}
