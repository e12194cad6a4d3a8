package manager

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	managerv1 "github.com/ultravioletrs/cocos/api/manager/v1"
)

// Enrolment is what joining a server by a token takes.
type Enrolment struct {
	// Address is the server's HOST:PORT.
	Address string
	// Token is good once.
	Token string
	// Authorities vouch for the server, PEM; empty, as Fingerprint: those that
	// this system trusts.
	Authorities []byte
	// Fingerprint, "sha256:" and 64 digits, is that of the server's authority or
	// of its certificate.
	Fingerprint string
	// InstanceID and Version are those of the Manager.
	InstanceID, Version string
	Timeout             time.Duration
	Clock               Clock
	// Into is where the files go; each is replaced as a whole.
	Into Enrolled
}

// Joined says as what a host joined.
type Joined struct {
	ID, Name string
	Expires  time.Time
	// Authorities tells whether Into.Authorities was written.
	Authorities bool
}

// Enrol joins a server: the key is made here and never leaves this host. Nothing
// is written before the server has agreed; it is tried before that anything can be.
func Enrol(ctx context.Context, e Enrolment) (Joined, error) {
	pinned, err := parseFingerprint(e.Fingerprint)
	if err != nil {
		return Joined{}, err
	}
	key, keyText, err := newKey()
	if err != nil {
		return Joined{}, fmt.Errorf("making a key: %w", err)
	}
	for _, name := range []string{e.Into.Key, e.Into.Certificate, e.Into.Authorities} {
		if err := tryFolder(filepath.Dir(name)); err != nil {
			return Joined{}, fmt.Errorf("%s can't be written: %w; nothing was sent, and the token is still good", name, err)
		}
	}
	der, err := certificateRequest(key)
	if err != nil {
		return Joined{}, err
	}
	answer, shown, err := e.ask(ctx, der, pinned)
	if err != nil {
		return Joined{}, err
	}
	cert, err := checkIssued(answer.GetCertificate(), key, e.Clock.Now())
	if err != nil {
		return Joined{}, err
	}
	out := Joined{ID: answer.GetHostId(), Name: answer.GetHostName(), Expires: cert.NotAfter}
	trusted := e.trusted(answer.GetAuthorities(), pinned, shown)
	if out.Authorities = trusted != nil; out.Authorities {
		err = replaceFile(e.Into.Authorities, trusted)
	} else if err = os.Remove(e.Into.Authorities); errors.Is(err, os.ErrNotExist) {
		err = nil // of an earlier server
	}
	// The certificate comes last: with it the host has joined.
	err = errors.Join(err, replaceFile(e.Into.Key, keyText), replaceFile(e.Into.Certificate, answer.GetCertificate()))
	if err != nil {
		return Joined{}, fmt.Errorf("writing what the server sent: %w; the token is used up: ask for another one", err)
	}
	return out, nil
}

// tryFolder makes a folder and tells whether files can be made in it.
func tryFolder(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	return writable(dir)
}

// ask sends the request. shown is what the server proved to be.
func (e Enrolment) ask(ctx context.Context, der, pinned []byte) (*managerv1.EnrolResponse, tls.ConnectionState, error) {
	cfg, err := e.tls(pinned)
	if err != nil {
		return nil, tls.ConnectionState{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, e.Timeout)
	defer cancel()
	creds := &watchedTLS{TransportCredentials: credentials.NewTLS(cfg)}
	conn, err := grpc.NewClient("passthrough:///"+e.Address, grpc.WithTransportCredentials(creds), grpc.WithDisableServiceConfig())
	if err != nil {
		return nil, tls.ConnectionState{}, fmt.Errorf("connecting to %s: %w", e.Address, err)
	}
	defer conn.Close()
	var p peer.Peer
	answer, err := managerv1.NewEnrolServiceClient(conn).Enrol(ctx, &managerv1.EnrolRequest{
		Token: e.Token, CertificateRequest: der,
		Hello: &managerv1.Hello{ProtocolVersion: ProtocolVersion, InstanceId: e.InstanceID, Version: e.Version},
	}, grpc.Peer(&p))
	if err != nil {
		if failure := creds.failure(); failure != nil {
			return nil, tls.ConnectionState{}, fmt.Errorf("%s is not the server that you mean, or something is between: %w%s", e.Address, failure, trustHint(failure))
		}
		return nil, tls.ConnectionState{}, fmt.Errorf("joining %s: %s (%v)", e.Address, status.Convert(err).Message(), status.Code(err))
	}
	info, ok := p.AuthInfo.(credentials.TLSInfo)
	if !ok {
		return nil, tls.ConnectionState{}, errors.New("the connection had no TLS")
	}
	return answer, info.State, nil
}

func trustHint(err error) string {
	var authority x509.UnknownAuthorityError
	if errors.As(err, &authority) {
		return "; give the service's --fingerprint, or its authorities by --ca"
	}
	return ""
}

func (e Enrolment) tls(pinned []byte) (*tls.Config, error) {
	cfg := &tls.Config{MinVersion: tls.VersionTLS13, Time: e.Clock.Now}
	switch {
	case pinned != nil && len(e.Authorities) > 0:
		return nil, errors.New("--ca and --fingerprint say the same in two ways; give one of them")
	case pinned != nil:
		cfg.InsecureSkipVerify = true // VerifyConnection does it
		cfg.VerifyConnection = func(s tls.ConnectionState) error {
			_, err := e.findPinned(s, pinned)
			return err
		}
	case len(e.Authorities) > 0:
		certs, err := parseCertificates(e.Authorities)
		if err != nil {
			return nil, fmt.Errorf("--ca: the file %w", err)
		}
		cfg.RootCAs = x509.NewCertPool()
		for _, c := range certs {
			cfg.RootCAs.AddCert(c)
		}
	}
	return cfg, nil
}

// findPinned finds the certificate of that fingerprint among those shown, and
// verifies the server's from there. The server's own counts as it is.
func (e Enrolment) findPinned(s tls.ConnectionState, pinned []byte) (*x509.Certificate, error) {
	for _, c := range s.PeerCertificates {
		sum := sha256.Sum256(c.Raw)
		if string(sum[:]) != string(pinned) {
			continue
		}
		roots := x509.NewCertPool()
		roots.AddCert(c)
		return c, e.vouch(roots, s)
	}
	last := sha256.Sum256(s.PeerCertificates[len(s.PeerCertificates)-1].Raw)
	return nil, fmt.Errorf("none of its %d certificates has the fingerprint that you gave; the last one's is sha256:%x", len(s.PeerCertificates), last)
}

// vouch tells whether roots make the server's certificate good for the name by
// which it was called. (A connection's own ServerName is empty for an address.)
func (e Enrolment) vouch(roots *x509.CertPool, s tls.ConnectionState) error {
	host, _, err := net.SplitHostPort(e.Address)
	if err != nil || host == "" {
		return fmt.Errorf("%q is not HOST:PORT", e.Address)
	}
	between := x509.NewCertPool()
	for _, c := range s.PeerCertificates[1:] {
		between.AddCert(c)
	}
	_, err = s.PeerCertificates[0].Verify(x509.VerifyOptions{DNSName: host, Roots: roots, Intermediates: between, CurrentTime: e.Clock.Now()})
	return err
}

// trusted is what the Manager will know the server by, PEM: what the server says,
// if that makes this very connection good, else what did; nil: this system's
// authorities.
func (e Enrolment) trusted(said, pinned []byte, s tls.ConnectionState) []byte {
	if certs, err := parseCertificates(said); err == nil {
		roots := x509.NewCertPool()
		for _, c := range certs {
			roots.AddCert(c)
		}
		if e.vouch(roots, s) == nil {
			return said
		}
	}
	if pinned != nil {
		if c, err := e.findPinned(s, pinned); err == nil {
			return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
		}
	}
	if len(e.Authorities) > 0 {
		return e.Authorities
	}
	return nil
}

func parseFingerprint(text string) ([]byte, error) {
	if text == "" {
		return nil, nil
	}
	digits, ok := strings.CutPrefix(text, "sha256:")
	b, err := hex.DecodeString(digits)
	if !ok || err != nil || len(b) != sha256.Size {
		return nil, fmt.Errorf("--fingerprint %q is not one; expected sha256: and 64 hexadecimal digits, as the service shows it", text)
	}
	return b, nil
}
