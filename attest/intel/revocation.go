package intel

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"time"
)

// Bounds of revocation lists.
const (
	maxCRLs = 32
	maxCRL  = 8 << 20 // bytes of all; that of the Platform CA grows with revoked keys
)

// lists are revocation lists that parsed, by order of appearance.
type lists []*x509.RevocationList

// readLists passes over what is none.
func readLists(ders [][]byte) (lists, error) {
	if len(ders) > maxCRLs {
		return nil, fmt.Errorf("%d revocation lists; at most %d are looked at", len(ders), maxCRLs)
	}
	var ls lists
	var size int
	for _, der := range ders {
		if size += len(der); size > maxCRL {
			return nil, fmt.Errorf("the revocation lists have more than %d bytes together", maxCRL)
		}
		if l, err := x509.ParseRevocationList(der); err == nil {
			ls = append(ls, l)
		}
	}
	return ls, nil
}

// clear judges certificates, all issued by issuer, by issuer's lists. It returns
// the time for which the list that it went by is good. A list of whatever age
// that names a certificate revokes it.
func (ls lists) clear(issuer *x509.Certificate, at time.Time, certs ...*x509.Certificate) (Window, error) {
	var best Window
	problem := fmt.Errorf("no revocation list of %s", issuer.Subject.CommonName)
	for _, l := range ls {
		if !bytes.Equal(l.RawIssuer, issuer.RawSubject) {
			continue // another authority's
		}
		if err := checkList(l, issuer); err != nil {
			problem = err
			continue
		}
		if err := names(l, certs); err != nil {
			return Window{}, err
		}
		w := Window{l.ThisUpdate, l.NextUpdate}
		if !w.contains(at) {
			problem = fmt.Errorf("a revocation list of %s good from %s, at %s", issuer.Subject.CommonName, w, at.UTC().Format(time.RFC3339))
			continue
		}
		if w.To.After(best.To) {
			best = w
		}
	}
	if best.To.IsZero() {
		return Window{}, problem
	}
	return best, nil
}

func checkList(l *x509.RevocationList, issuer *x509.Certificate) error {
	if err := l.CheckSignatureFrom(issuer); err != nil {
		return fmt.Errorf("a revocation list not signed by %s: %w", issuer.Subject.CommonName, err)
	}
	for _, x := range l.Extensions {
		if x.Critical {
			return fmt.Errorf("a revocation list with the unknown critical extension %v", x.Id)
		}
	}
	if l.NextUpdate.IsZero() {
		return errors.New("a revocation list that does not say until when it is good")
	}
	return nil
}

func names(l *x509.RevocationList, certs []*x509.Certificate) error {
	for _, entry := range l.RevokedCertificateEntries {
		for _, c := range certs {
			if entry.SerialNumber.Cmp(c.SerialNumber) == 0 {
				return fmt.Errorf("the certificate of %q (serial number %x) is revoked since %s",
					c.Subject.CommonName, entry.SerialNumber, entry.RevocationTime.UTC().Format(time.RFC3339))
			}
		}
	}
	return nil
}
