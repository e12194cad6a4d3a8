package intel

import (
	"fmt"

	"github.com/ultravioletrs/cocos/attest"
)

// What Intel's provisioning service calls the authorities of platforms' keys.
const (
	CAProcessor = "processor"
	CAPlatform  = "platform"
)

// Platform names what Intel's service is asked about, and policies list.
type Platform struct {
	// FMSPC is the kind of the platform.
	FMSPC [6]byte
	// PPID names the one platform.
	PPID [16]byte
	// CA is CAProcessor or CAPlatform: whose revocation list is the platform's.
	CA string
}

// PlatformOf tells of which platform a quote says it is, by the certificate in
// it or beside it. These are the words of whoever sent it: good for choosing
// what to fetch, for nothing else.
func PlatformOf(e attest.Evidence) (Platform, error) {
	q, err := ParseQuote(e.Report)
	if err != nil {
		return Platform{}, fmt.Errorf("reading the quote: it %w", err)
	}
	own, all, err := certificatesOf(&q.Signature, e.Endorsements)
	if err != nil {
		return Platform{}, fmt.Errorf("reading the quote: %w", err)
	}
	p, err := findPCK(&q.Signature, own, all)
	if err != nil {
		return Platform{}, fmt.Errorf("reading the quote: %w", err)
	}
	issuer := p.certificate.Issuer.CommonName
	ca, ok := authorities[issuer]
	if !ok {
		return Platform{}, fmt.Errorf("reading the quote: the platform's certificate is issued by %q; expected %q or %q", issuer, nameProcessor, namePlatform)
	}
	return Platform{FMSPC: p.fmspc, PPID: p.ppid, CA: ca}, nil
}
