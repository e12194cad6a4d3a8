package manager

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	managerv1 "github.com/ultravioletrs/cocos/api/manager/v1"
	"github.com/ultravioletrs/cocos/internal/computations/authority"
)

// Enrolled names the files of a host that joined its server by a token. The key
// is made here and stays; the certificate is replaced when it is renewed.
type Enrolled struct {
	Key, Certificate string
	// Authorities is who vouches for the server; empty: nothing is kept of that.
	Authorities string
}

const (
	// renewPause is between attempts to renew.
	renewPause = time.Hour
	// renewTimeout bounds one.
	renewTimeout = time.Minute
	// longestWait bounds a wait for the time to renew: the file may be replaced by
	// hand.
	longestWait = 24 * time.Hour
)

// renewals keeps the certificate from expiring for as long as the connection
// lasts. VMs and the stream don't notice: the new one is shown at the next
// connection, and the server takes the old one until then. What can't be renewed
// here is left alone: a certificate from elsewhere, a server without enrolment.
func (l *link) renewals(ctx context.Context, conn grpc.ClientConnInterface) {
	e := l.cfg.Enrolled
	if e == nil {
		return
	}
	for ctx.Err() == nil {
		cert, err := e.read()
		if err != nil {
			l.log.Error("the certificate can't be looked at, and is not renewed", "error", err)
			return
		}
		if _, ours := authority.HostOf(cert); !ours {
			return
		}
		wait := min(dueIn(cert, l.clock.Now()), longestWait)
		if wait <= 0 {
			err := l.renew(ctx, managerv1.NewEnrolServiceClient(conn), cert)
			switch {
			case err == nil:
				l.log.Info("the certificate for the computations server was renewed", "file", e.Certificate)
				continue
			case ctx.Err() != nil:
				return
			case status.Code(err) == codes.Unimplemented:
				l.log.Warn("this server renews no certificates; enrol again before it expires", "expires", utc(cert.NotAfter))
				return
			}
			l.log.Error("the certificate for the computations server could not be renewed; trying again", "in", renewPause.String(), "expires", utc(cert.NotAfter), "error", err)
			wait = renewPause
		}
		select {
		case <-l.clock.After(wait):
		case <-ctx.Done():
		}
	}
}

// dueIn is how long it takes until a third of the certificate's life is left.
func dueIn(c *x509.Certificate, now time.Time) time.Duration {
	return c.NotAfter.Add(-c.NotAfter.Sub(c.NotBefore) / 3).Sub(now)
}

func (l *link) renew(ctx context.Context, api managerv1.EnrolServiceClient, old *x509.Certificate) error {
	ctx, cancel := context.WithTimeout(ctx, renewTimeout)
	defer cancel()
	e := l.cfg.Enrolled
	text, err := os.ReadFile(e.Key)
	if err != nil {
		return err
	}
	key, err := parseKey(text)
	if err != nil {
		return fmt.Errorf("%s: %w", e.Key, err)
	}
	der, err := certificateRequest(key)
	if err != nil {
		return err
	}
	answer, err := api.Renew(ctx, &managerv1.RenewRequest{CertificateRequest: der})
	if err != nil {
		return err
	}
	fresh, err := checkIssued(answer.GetCertificate(), key, l.clock.Now())
	if err != nil {
		return err
	}
	was, _ := authority.HostOf(old)
	if is, _ := authority.HostOf(fresh); is != was {
		return fmt.Errorf("the server sent a certificate of the host %q to %q", is, was)
	}
	if a := answer.GetAuthorities(); e.Authorities != "" && len(a) > 0 {
		if _, err := parseCertificates(a); err != nil {
			return fmt.Errorf("the server's authorities: %w", err)
		}
		if err := replaceFile(e.Authorities, a); err != nil {
			return err
		}
	}
	return replaceFile(e.Certificate, answer.GetCertificate())
}

func (e *Enrolled) read() (*x509.Certificate, error) {
	text, err := os.ReadFile(e.Certificate)
	if err != nil {
		return nil, err
	}
	certs, err := parseCertificates(text)
	if err != nil {
		return nil, fmt.Errorf("%s %w", e.Certificate, err)
	}
	return certs[0], nil
}

func newKey() (*ecdsa.PrivateKey, []byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	return key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), err
}

func parseKey(text []byte) (crypto.Signer, error) {
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, errors.New("is not PEM")
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, err
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, errors.New("is a key that can't sign")
	}
	return signer, nil
}

// certificateRequest proves that we have the key, and asks for nothing else.
func certificateRequest(key crypto.Signer) ([]byte, error) {
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return nil, fmt.Errorf("making a certificate request: %w", err)
	}
	return der, nil
}

// checkIssued refuses a certificate that this Manager could not show.
func checkIssued(text []byte, key crypto.Signer, now time.Time) (*x509.Certificate, error) {
	certs, err := parseCertificates(text)
	if err != nil {
		return nil, fmt.Errorf("the server's answer: the certificate %w", err)
	}
	c := certs[0]
	public, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool })
	switch {
	case !ok || !public.Equal(c.PublicKey):
		return nil, errors.New("the server sent a certificate of another key")
	case now.After(c.NotAfter), now.Before(c.NotBefore):
		return nil, fmt.Errorf("the server sent a certificate that is valid from %s to %s: this host's clock or the server's is wrong", utc(c.NotBefore), utc(c.NotAfter))
	}
	if _, ok := authority.HostOf(c); !ok {
		return nil, errors.New("the server sent a certificate that is no host's")
	}
	return c, nil
}

// replaceFile puts a whole file into the place of another, after a crash, too.
func replaceFile(name string, content []byte) error {
	if old, err := os.ReadFile(name); err == nil && bytes.Equal(old, content) {
		return nil
	}
	f, err := os.OpenFile(name+newSuffix, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err := errors.Join(err, f.Chmod(0o600), f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(name+newSuffix, name); err != nil {
		return err
	}
	return syncPath(filepath.Dir(name))
}
