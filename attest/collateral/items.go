package collateral

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/ultravioletrs/cocos/attest"
	"github.com/ultravioletrs/cocos/attest/intel"
	"github.com/ultravioletrs/cocos/attest/snp"
)

// service is a vendor's, with limits and an address of its own.
type service int

const (
	serviceAMD service = iota
	serviceIntel
	serviceIntelRoot // where the root's list lies, which is another host
	services
)

// item is one thing that an appraisal may need, and where it is found.
type item struct {
	// what it is, for people.
	what string
	// file in a cache directory, which Files reads as well.
	file string
	from service
	// path and query at the service.
	path string
	// wrap makes the file of an answer; nil: it is the answer.
	wrap func(body []byte, h http.Header) ([]byte, error)
	// check wants a file's content to be what was asked for, as far as that shows
	// before an appraisal.
	check func(attest.Endorsements) error
	// forever: what it says does not change, so that it is not asked for again.
	forever bool
	// or is where else it may be, if the service does not know it.
	or *item
}

// wanted lists what e's vendor may be asked for. It goes by untrusted words.
func wanted(e attest.Evidence) ([]item, error) {
	switch e.Type {
	case attest.SNP:
		return wantedSNP(e)
	case attest.TDX, attest.SGX:
		return wantedIntel(e)
	}
	return nil, nil
}

func wantedSNP(e attest.Evidence) ([]item, error) {
	r, err := snp.Parse(e.Report)
	if err != nil {
		return nil, fmt.Errorf("the report %w", err)
	}
	lines := []snp.Line{snp.Milan, snp.Genoa} // an old report does not say, and no other line makes those
	known := false
	if line, err := snp.LineOf(e); err == nil {
		lines, known = []snp.Line{line}, true
	}
	var items []item
	if r.Signer == snp.VCEK && !hasKey(e) {
		var first, last *item
		for _, line := range lines {
			it, err := vcek(e, r, line)
			if err != nil {
				return nil, err
			}
			if first == nil {
				first = &it
			} else {
				last.or = &it
			}
			last = &it
		}
		items = append(items, *first)
	}
	if !known && len(items) == 0 {
		return nil, errors.New("the report does not say of which product line it is, and no certificate does")
	}
	for _, line := range lines {
		items = append(items, amdCRL(line))
	}
	return items, nil
}

// hasKey tells whether the certificate of the report's key is there.
func hasKey(e attest.Evidence) bool {
	for _, der := range e.Endorsements.Certificates {
		if c, err := x509.ParseCertificate(der); err == nil && snp.VerifySignature(e.Report, c) == nil {
			return true
		}
	}
	return false
}

func vcek(e attest.Evidence, r *snp.Report, line snp.Line) (item, error) {
	path, err := snp.VCEKPath(r, line)
	if err != nil {
		return item{}, err
	}
	return item{
		what: "the certificate of the chip's key", from: serviceAMD, path: path, forever: true,
		file: fmt.Sprintf("vcek-%s-%x-%x.der", line, r.ChipID[:], r.ReportedTCB[:]),
		check: func(got attest.Endorsements) error {
			for _, der := range got.Certificates {
				if c, err := x509.ParseCertificate(der); err == nil && snp.VerifySignature(e.Report, c) == nil {
					return nil
				}
			}
			return errors.New("it is not the certificate of the key that signed the report")
		},
	}, nil
}

func amdCRL(line snp.Line) item {
	return item{
		what: "AMD's revocation list for " + string(line), from: serviceAMD, path: snp.CRLPath(line),
		file: fmt.Sprintf("crl-%s.der", line), check: oneCRL,
	}
}

func wantedIntel(e attest.Evidence) ([]item, error) {
	p, err := intel.PlatformOf(e)
	if err != nil {
		return nil, err
	}
	kind := string(e.Type)
	base := "/" + kind + "/certification/v4"
	return []item{
		{
			what: "TCB info of the platform", from: serviceIntel, path: fmt.Sprintf("%s/tcb?fmspc=%x", base, p.FMSPC[:]),
			file: fmt.Sprintf("tcb-%s-%x.json", kind, p.FMSPC[:]), wrap: wrapTCBInfo,
			check: func(e attest.Endorsements) error { return there(len(e.TCBInfo) > 0, "TCB info") },
		},
		{
			what: "the quoting enclave's identity", from: serviceIntel, path: base + "/qe/identity",
			file: "qe-" + kind + ".json", wrap: wrapQEIdentity,
			check: func(e attest.Endorsements) error { return there(len(e.QEIdentity) > 0, "QE identity") },
		},
		{
			what: "the revocation list of Intel's " + p.CA + " CA", from: serviceIntel,
			path: "/sgx/certification/v4/pckcrl?ca=" + p.CA + "&encoding=der",
			file: "crl-pck-" + p.CA + ".der", check: oneCRL,
		},
		{what: "the revocation list of Intel's root", from: serviceIntelRoot, file: "crl-intel-root.der", check: oneCRL},
	}, nil
}

func there(ok bool, what string) error {
	if !ok {
		return fmt.Errorf("it is no %s", what)
	}
	return nil
}

func oneCRL(e attest.Endorsements) error { return there(len(e.CRLs) == 1, "revocation list") }

// Headers in which Intel's service sends the chains of what it signed. The older
// name of the first is that of its API's version 3.
var (
	headersTCBInfo    = []string{"TCB-Info-Issuer-Chain", "SGX-TCB-Info-Issuer-Chain"}
	headersQEIdentity = []string{"SGX-Enclave-Identity-Issuer-Chain"}
)

func wrapTCBInfo(body []byte, h http.Header) ([]byte, error) {
	object, signature, chain, err := takeApart(body, memberTCBInfo, h, headersTCBInfo)
	return marshal(bundle{TCBInfoChain: chain, TCBInfo: object, TCBInfoSignature: signature}, err)
}

func wrapQEIdentity(body []byte, h http.Header) ([]byte, error) {
	object, signature, chain, err := takeApart(body, memberQEIdentity, h, headersQEIdentity)
	return marshal(bundle{QEIdentityChain: chain, QEIdentity: object, QEIdentitySignature: signature}, err)
}

// takeApart reads an answer of Intel's service and the header beside it.
func takeApart(body []byte, member string, h http.Header, headers []string) (object, signature, chain string, err error) {
	var members map[string]jsontext.Value
	if err := json.Unmarshal(body, &members); err != nil {
		return "", "", "", fmt.Errorf("it is not one JSON object: %w", err)
	}
	if members[member] == nil || json.Unmarshal(members[memberSignature], &signature) != nil {
		return "", "", "", fmt.Errorf("it lacks %s or %s", member, memberSignature)
	}
	for _, name := range headers {
		if chain = h.Get(name); chain != "" {
			break
		}
	}
	// Escaped as in a path, where a plus sign is one.
	if chain, err = url.PathUnescape(chain); err != nil || !strings.Contains(chain, "-----BEGIN ") {
		return "", "", "", fmt.Errorf("its header %s is no chain of certificates", headers[0])
	}
	return string(members[member]), signature, chain, nil
}

func marshal(b bundle, err error) ([]byte, error) {
	if err != nil {
		return nil, err
	}
	return json.Marshal(b, json.Deterministic(true))
}

// until tells until when everything in e is good by its own words; zero: it does
// not say.
func until(e attest.Endorsements) time.Time {
	var end time.Time
	sooner := func(t time.Time) {
		if !t.IsZero() && (end.IsZero() || t.Before(end)) {
			end = t
		}
	}
	for _, der := range e.Certificates {
		if c, err := x509.ParseCertificate(der); err == nil {
			sooner(c.NotAfter)
		}
	}
	for _, der := range e.CRLs {
		if l, err := x509.ParseRevocationList(der); err == nil {
			sooner(l.NextUpdate)
		}
	}
	for _, statement := range [][]byte{e.TCBInfo, e.QEIdentity} {
		sooner(nextUpdate(statement))
	}
	return end
}

func nextUpdate(statement []byte) time.Time {
	var members map[string]jsontext.Value
	if len(statement) == 0 || json.Unmarshal(statement, &members) != nil {
		return time.Time{}
	}
	for _, name := range []string{memberTCBInfo, memberQEIdentity} {
		var dates struct {
			NextUpdate time.Time `json:"nextUpdate"`
		}
		if members[name] != nil && json.Unmarshal(members[name], &dates) == nil {
			return dates.NextUpdate
		}
	}
	return time.Time{}
}
