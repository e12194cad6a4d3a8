package collateral

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"fmt"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ultravioletrs/cocos/attest"
	"github.com/ultravioletrs/cocos/attest/intel/inteltest"
	"github.com/ultravioletrs/cocos/attest/snp"
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// chip is an SEV-SNP platform: what signs its reports, and its list.
type chip struct {
	report, vcek, list []byte
}

// now is a time at which everything here is good.
var now = inteltest.Now

var chips = sync.OnceValue(func() chip {
	key := must(ecdsa.GenerateKey(elliptic.P384(), rand.Reader))
	template := &x509.Certificate{
		SerialNumber: big.NewInt(5), Subject: pkix.Name{CommonName: "SEV-VCEK"}, NotBefore: now.AddDate(-1, 0, 0), NotAfter: now.AddDate(1, 0, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCRLSign,
	}
	der := must(x509.CreateCertificate(rand.Reader, template, template, key.Public(), key))
	issuer := must(x509.ParseCertificate(der))
	r := &snp.Report{Version: 3, SignatureAlgo: snp.SignatureECDSAP384, CPUIDFamily: 0x19, CPUIDModel: 1, ReportedTCB: snp.TCB{4, 2, 0, 0, 0, 0, 27, 219}}
	r.ChipID[0] = 0xc1
	b := snp.Marshal(r)
	if err := snp.Sign(b, key); err != nil {
		panic(err)
	}
	list := must(x509.CreateRevocationList(rand.Reader, &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: now.AddDate(0, 0, -1), NextUpdate: now.AddDate(0, 0, 30)}, issuer, key))
	return chip{b, der, list}
})

func (c chip) evidence() attest.Evidence { return attest.Evidence{Type: attest.SNP, Report: c.report} }

// platforms are Intel's, by type, with everything that its service says.
var platforms = sync.OnceValue(func() map[attest.Type]attest.Evidence {
	return map[attest.Type]attest.Evidence{
		attest.TDX: inteltest.New(attest.TDX, make([]byte, 584)).Evidence(attest.TDX),
		attest.SGX: inteltest.New(attest.SGX, make([]byte, 384)).Evidence(attest.SGX),
	}
})

func bare(e attest.Evidence) attest.Evidence {
	e.Endorsements = attest.Endorsements{}
	return e
}

// vendors plays both services, and counts.
type vendors struct {
	*httptest.Server
	mu      sync.Mutex
	asked   []string
	answers map[string]http.HandlerFunc // by path; in the place of the right ones
}

func newVendors(t *testing.T, start func(http.Handler) *httptest.Server) *vendors {
	t.Helper()
	v := &vendors{answers: map[string]http.HandlerFunc{}}
	v.Server = start(v)
	t.Cleanup(v.Close)
	return v
}

const (
	vcekPath = "/vcek/v1/Milan/"
	crlPath  = "/vcek/v1/Milan/crl"
)

func (v *vendors) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	v.mu.Lock()
	v.asked = append(v.asked, r.URL.RequestURI())
	own := v.answers[r.URL.Path]
	v.mu.Unlock()
	if own != nil {
		own(w, r)
		return
	}
	v.right(w, r)
}

func (v *vendors) right(w http.ResponseWriter, r *http.Request) {
	c, t := chips(), attest.TDX
	if strings.HasPrefix(r.URL.Path, "/sgx/") {
		t = attest.SGX
	}
	e := platforms()[t].Endorsements
	switch path := r.URL.Path; {
	case path == crlPath:
		w.Write(c.list)
	case strings.HasPrefix(path, vcekPath):
		w.Write(c.vcek)
	case strings.HasSuffix(path, "/certification/v4/tcb") && r.URL.Query().Get("fmspc") == "b0c06f000000":
		w.Header().Set("TCB-Info-Issuer-Chain", url.PathEscape(string(e.TCBInfoChain)))
		w.Write(e.TCBInfo)
	case strings.HasSuffix(path, "/certification/v4/qe/identity"):
		w.Header().Set("SGX-Enclave-Identity-Issuer-Chain", url.PathEscape(string(e.QEIdentityChain)))
		w.Write(e.QEIdentity)
	case path == "/sgx/certification/v4/pckcrl" && r.URL.Query().Get("ca") == "platform":
		w.Write(e.CRLs[1])
	case path == pathRootCRL: // as caching services send it
		fmt.Fprint(w, hex.EncodeToString(e.CRLs[0]))
	default:
		http.NotFound(w, r)
	}
}

func (v *vendors) answer(path string, h http.HandlerFunc) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.answers[path] = h
}

func (v *vendors) count(part string) int {
	v.mu.Lock()
	defer v.mu.Unlock()
	n := 0
	for _, a := range v.asked {
		if strings.Contains(a, part) {
			n++
		}
	}
	return n
}

// clock is one that only sleeping moves.
type clock struct {
	mu     sync.Mutex
	t      time.Time
	sleeps []time.Duration
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clock) sleep(ctx context.Context, d time.Duration) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t, c.sleeps = c.t.Add(d), append(c.sleeps, d)
	return ctx.Err()
}

// source asks v, by a clock of its own.
func (v *vendors) source(dir string, c *clock) attest.EndorsementSource {
	return Fetch(FetchConfig{Dir: dir, AMD: v.URL, Intel: v.URL, Client: v.Client(), Now: c.now, Sleep: c.sleep})
}

func plain(h http.Handler) *httptest.Server { return httptest.NewServer(h) }
