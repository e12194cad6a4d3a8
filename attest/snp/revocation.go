package snp

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"math/big"
	"time"
)

// maxCRL bounds a revocation list, in bytes; AMD's have about one thousand.
const maxCRL = 1 << 20

// window is a span of time; a zero end is open.
type window struct{ from, to time.Time }

// within narrows w.
func (w window) within(from, to time.Time) window {
	if from.After(w.from) {
		w.from = from
	}
	if w.to.IsZero() || to.Before(w.to) {
		w.to = to
	}
	return w
}

func (w window) contains(t time.Time) bool { return !t.Before(w.from) && !t.After(w.to) }

func (w window) String() string {
	return w.from.UTC().Format(time.RFC3339) + " to " + w.to.UTC().Format(time.RFC3339)
}

// revocation judges parent, and key where it is a VLEK, by AMD's lists among
// ders. (No list has VCEKs: 57230, 1.7. An old one ends with its TCB version.)
// It returns the time for which the list that it went by is good. A list of
// whatever age that names the certificate revokes it.
func revocation(ders [][]byte, root, parent *x509.Certificate, k *key, at time.Time) (window, error) {
	if len(ders) > maxCertificates {
		return window{}, fmt.Errorf("%d revocation lists; at most %d are looked at", len(ders), maxCertificates)
	}
	var best window
	problem := fmt.Errorf("no revocation list of %s", root.Subject.CommonName)
	for _, der := range ders {
		if len(der) > maxCRL {
			problem = fmt.Errorf("a revocation list of %d bytes; at most %d are taken", len(der), maxCRL)
			continue
		}
		list, err := x509.ParseRevocationList(der)
		if err != nil || !bytes.Equal(list.RawIssuer, root.RawSubject) {
			continue // another vendor's, or another line's
		}
		if err := checkList(list, root); err != nil {
			problem = err
			continue
		}
		for _, entry := range list.RevokedCertificateEntries {
			if name, hit := names(entry.SerialNumber, parent, k); hit {
				return window{}, fmt.Errorf("%s's certificate (serial number %x) is revoked since %s",
					name, entry.SerialNumber, entry.RevocationTime.UTC().Format(time.RFC3339))
			}
		}
		w := window{list.ThisUpdate, list.NextUpdate}
		if !w.contains(at) {
			problem = fmt.Errorf("a revocation list good from %s, at %s", w, at.UTC().Format(time.RFC3339))
			continue
		}
		if w.to.After(best.to) {
			best = w
		}
	}
	if best.to.IsZero() {
		return window{}, problem
	}
	return best, nil
}

func checkList(list *x509.RevocationList, root *x509.Certificate) error {
	if err := list.CheckSignatureFrom(root); err != nil {
		return fmt.Errorf("a revocation list not signed by %s: %w", root.Subject.CommonName, err)
	}
	for _, x := range list.Extensions {
		if x.Critical {
			return fmt.Errorf("a revocation list with the unknown critical extension %v", x.Id)
		}
	}
	if list.NextUpdate.IsZero() {
		return errors.New("a revocation list that does not say until when it is good")
	}
	return nil
}

// names tells which certificate the serial number is of. Numbers of VLEKs that
// are zero are no names: AMD gives that one to every key.
func names(serial *big.Int, parent *x509.Certificate, k *key) (string, bool) {
	if serial.Cmp(parent.SerialNumber) == 0 {
		return parent.Subject.CommonName, true
	}
	own := k.certificate.SerialNumber
	return k.certificate.Subject.CommonName, k.signer == VLEK && own.Sign() != 0 && serial.Cmp(own) == 0
}
