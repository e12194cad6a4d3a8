package collateral

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ultravioletrs/cocos/attest"
)

func endorse(t *testing.T, s attest.EndorsementSource, e attest.Evidence) attest.Endorsements {
	t.Helper()
	got, err := s.Endorse(t.Context(), e)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func TestFetchAMD(t *testing.T) {
	v := newVendors(t, httptest.NewTLSServer)
	c := &clock{t: now}
	dir := filepath.Join(t.TempDir(), "cache")
	s := v.source(dir, c)
	for range 3 {
		got := endorse(t, s, chips().evidence())
		if len(got.Certificates) != 1 || len(got.CRLs) != 1 || !bytes.Equal(got.Certificates[0], chips().vcek) || !bytes.Equal(got.CRLs[0], chips().list) {
			t.Errorf("%+v", got)
		}
	}
	want := []string{"/vcek/v1/Milan/c1" + strings.Repeat("0", 126) + "?blSPL=04&teeSPL=02&snpSPL=27&ucodeSPL=219", crlPath}
	if strings.Join(v.asked, " ") != strings.Join(want, " ") {
		t.Errorf("asked %q", v.asked)
	}
	if len(c.sleeps) != 1 || c.sleeps[0] != amdInterval {
		t.Errorf("slept %v; want once for the service's rate", c.sleeps)
	}
	// The certificate that comes with the evidence need not be asked for.
	e := chips().evidence()
	e.Endorsements.Certificates = [][]byte{[]byte("x"), chips().vcek}
	if got := endorse(t, v.source(t.TempDir(), c), e); len(got.Certificates) != 0 || v.count(vcekPath+"c1") != 1 {
		t.Errorf("%+v, asked %q", got, v.asked)
	}
	// Without a network, what was fetched serves.
	if got := endorse(t, Dir(dir), chips().evidence()); len(got.Certificates) != 1 || len(got.CRLs) != 1 {
		t.Errorf("%+v", got)
	}
}

func TestFetchIntel(t *testing.T) {
	v := newVendors(t, plain)
	c := &clock{t: now}
	dir := t.TempDir()
	for _, kind := range []attest.Type{attest.TDX, attest.SGX} {
		e := platforms()[kind]
		for range 2 {
			got := endorse(t, v.source(dir, c), bare(e))
			if !bytes.Equal(got.TCBInfo, e.Endorsements.TCBInfo) || !bytes.Equal(got.TCBInfoChain, e.Endorsements.TCBInfoChain) ||
				!bytes.Equal(got.QEIdentity, e.Endorsements.QEIdentity) || !bytes.Equal(got.QEIdentityChain, e.Endorsements.QEIdentityChain) || len(got.CRLs) != 2 {
				t.Errorf("%s: %+v", kind, got)
			}
		}
		if n := v.count("/" + string(kind) + "/certification/v4/tcb?"); n != 1 {
			t.Errorf("%s: TCB info was asked for %d times", kind, n)
		}
		if got := endorse(t, Dir(dir), bare(e)); len(got.TCBInfo) == 0 || len(got.QEIdentity) == 0 || len(got.CRLs) != 2 {
			t.Errorf("%s: from the cache: %+v", kind, got)
		}
	}
	if len(c.sleeps) != 0 {
		t.Errorf("slept %v; Intel's service has no such rate", c.sleeps)
	}
	// A file of the cache is one that Files reads.
	if got, err := Files(filepath.Join(dir, "tcb-tdx-b0c06f000000.json")); err != nil || len(got.TCBInfoChain) == 0 {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestPlaces(t *testing.T) {
	got := Places(chips().evidence())
	if len(got) != 2 || !strings.HasPrefix(got[0], "https://kdsintf.amd.com/vcek/v1/Milan/c1") || got[1] != "https://kdsintf.amd.com/vcek/v1/Milan/crl" {
		t.Errorf("%q", got)
	}
	got = Places(platforms()[attest.TDX])
	want := []string{
		"https://api.trustedservices.intel.com/tdx/certification/v4/tcb?fmspc=b0c06f000000",
		"https://api.trustedservices.intel.com/tdx/certification/v4/qe/identity",
		"https://api.trustedservices.intel.com/sgx/certification/v4/pckcrl?ca=platform&encoding=der",
		"https://certificates.trustedservices.intel.com/IntelSGXRootCA.der",
	}
	if strings.Join(got, " ") != strings.Join(want, " ") {
		t.Errorf("%q", got)
	}
	if got := Places(attest.Evidence{Type: attest.SNP}); got != nil {
		t.Errorf("%q", got)
	}
}

// Many at once make the requests of one.
func TestFetchAtOnce(t *testing.T) {
	v := newVendors(t, plain)
	s := v.source(t.TempDir(), &clock{t: now})
	var all sync.WaitGroup
	for range 16 {
		for _, e := range []attest.Evidence{chips().evidence(), bare(platforms()[attest.TDX])} {
			all.Go(func() {
				if _, err := s.Endorse(t.Context(), e); err != nil {
					t.Error(err)
				}
			})
		}
	}
	all.Wait()
	if len(v.asked) != 6 {
		t.Errorf("asked %q; want 2 of AMD and 4 of Intel", v.asked)
	}
}

func TestExpiry(t *testing.T) {
	v := newVendors(t, plain)
	c := &clock{t: now}
	dir := t.TempDir()
	endorse(t, v.source(dir, c), chips().evidence())
	for _, tt := range []struct {
		after time.Duration
		lists int // asked for so far
	}{{time.Hour, 1}, {maxAge + time.Minute, 2}, {40 * 24 * time.Hour, 3}} {
		c.t = now.Add(tt.after)
		endorse(t, v.source(dir, c), chips().evidence())
		if n := v.count(crlPath); n != tt.lists {
			t.Errorf("after %v: the list was asked for %d times; want %d", tt.after, n, tt.lists)
		}
	}
	if n := v.count("blSPL"); n != 1 {
		t.Errorf("the chip's certificate, which does not change, was asked for %d times", n)
	}
	// A service that is away: what is still good serves, beside the error.
	c.t = now.Add(2 * maxAge)
	v.answer(crlPath, func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", http.StatusBadGateway) })
	old := t.TempDir()
	if err := os.CopyFS(old, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(filepath.Join(old, "crl-Milan.der"), now, now); err != nil {
		t.Fatal(err)
	}
	got, err := v.source(old, c).Endorse(t.Context(), chips().evidence())
	if err == nil || !strings.Contains(err.Error(), "502") || len(got.CRLs) != 1 {
		t.Errorf("%d lists, %v", len(got.CRLs), err)
	}
	c.t = now.AddDate(0, 2, 0) // past the list's end
	if got, err := v.source(old, c).Endorse(t.Context(), chips().evidence()); err == nil || len(got.CRLs) != 0 {
		t.Errorf("%d lists, %v", len(got.CRLs), err)
	}
}

func TestRates(t *testing.T) {
	busy := func(times int, header string) http.HandlerFunc {
		var mu sync.Mutex
		return func(w http.ResponseWriter, _ *http.Request) {
			mu.Lock()
			defer mu.Unlock()
			if times--; times >= 0 {
				w.Header().Set("Retry-After", header)
				w.WriteHeader(http.StatusTooManyRequests)
				return
			}
			w.Write(chips().list)
		}
	}
	e := chips().evidence()
	e.Endorsements.Certificates = [][]byte{chips().vcek} // so that the list alone is asked for
	for name, tt := range map[string]struct {
		times  int
		header string
		sleeps []time.Duration
		want   string // of the error
	}{
		"once":           {1, "25", []time.Duration{25 * time.Second}, ""},
		"a date":         {1, now.Add(40 * time.Second).UTC().Format(http.TimeFormat), []time.Duration{40 * time.Second}, ""},
		"no word":        {1, "", []time.Duration{amdInterval}, ""},
		"less than ours": {1, "2", []time.Duration{amdInterval}, ""},
		"too long":       {1, "3600", nil, "left alone for 1h0m0s"},
		"always":         {9, "11", []time.Duration{11 * time.Second, 11 * time.Second}, "429"},
	} {
		v := newVendors(t, plain)
		v.answer(crlPath, busy(tt.times, tt.header))
		c := &clock{t: now}
		_, err := v.source(t.TempDir(), c).Endorse(t.Context(), e)
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v", name, err)
		}
		if len(c.sleeps) != len(tt.sleeps) {
			t.Errorf("%s: slept %v; want %v", name, c.sleeps, tt.sleeps)
			continue
		}
		for i, d := range tt.sleeps {
			if got := c.sleeps[i]; got < d-time.Second || got > d {
				t.Errorf("%s: slept %v; want %v", name, got, d)
			}
		}
	}
	// Another process, with the same cache, waits for its turn.
	v, dir := newVendors(t, plain), t.TempDir()
	first, second := &clock{t: now}, &clock{t: now.Add(3 * time.Second)}
	endorse(t, v.source(dir, first), e)
	if err := os.Remove(filepath.Join(dir, "crl-Milan.der")); err != nil {
		t.Fatal(err)
	}
	endorse(t, v.source(dir, second), e)
	if len(second.sleeps) != 1 || second.sleeps[0] != 7*time.Second {
		t.Errorf("slept %v; want 7 s", second.sleeps)
	}
	// One that is not to wait any longer does not.
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("enough"))
	if _, err := v.source(t.TempDir(), first).Endorse(ctx, e); err == nil {
		t.Error("a cancelled request succeeded")
	}
}

func TestBadAnswers(t *testing.T) {
	text := func(s string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(s)) }
	}
	tdx := platforms()[attest.TDX]
	const tcb, qe = "/tdx/certification/v4/tcb", "/tdx/certification/v4/qe/identity"
	for name, tt := range map[string]struct {
		path   string
		answer http.HandlerFunc
		want   string
	}{
		"nothing":             {crlPath, text(""), "it is empty"},
		"a page":              {crlPath, text("<html>"), "it is none of"},
		"a list for the chip": {vcekPath + "c1" + strings.Repeat("0", 126), text(string(chips().list)), "not the certificate of the key"},
		"a chip for the list": {crlPath, text(string(chips().vcek)), "no revocation list"},
		"too large":           {crlPath, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(make([]byte, maxFile+1)) }, "more than"},
		"an error":            {crlPath, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) }, "500"},
		"no such":             {crlPath, http.NotFound, "does not have it"},
		"cut short": {crlPath, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "99")
			_, _ = w.Write([]byte("x"))
		}, "unexpected EOF"},
		"redirected elsewhere": {crlPath, func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://192.0.2.1/crl", http.StatusFound)
		}, "neither https nor on this machine"},
		"TCB info, no chain":   {tcb, text(string(tdx.Endorsements.TCBInfo)), "TCB-Info-Issuer-Chain"},
		"TCB info, no JSON":    {tcb, text("x"), "not one JSON object"},
		"TCB info, unsigned":   {tcb, text(`{"tcbInfo":{}}`), "lacks tcbInfo or signature"},
		"identity as TCB info": {tcb, text(string(tdx.Endorsements.QEIdentity)), "lacks tcbInfo or signature"},
		"no identity":          {qe, text(`[]`), "not one JSON object"},
	} {
		v := newVendors(t, plain)
		v.answer(tt.path, tt.answer)
		dir := t.TempDir()
		s := Fetch(FetchConfig{Dir: dir, AMD: v.URL, Intel: v.URL, Now: (&clock{t: now}).now, Sleep: (&clock{t: now}).sleep})
		var problems []error
		for _, e := range []attest.Evidence{chips().evidence(), bare(tdx)} {
			_, err := s.Endorse(t.Context(), e)
			problems = append(problems, err)
		}
		if err := errors.Join(problems...); err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), v.URL) && tt.want != "neither https nor on this machine" {
			t.Errorf("%s: %v", name, err)
		}
		// Nothing bad is kept.
		files, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			if strings.HasPrefix(f.Name(), ".new") {
				t.Errorf("%s: left %s", name, f.Name())
			}
			if _, err := Files(filepath.Join(dir, f.Name())); err != nil && f.Name() != ".asked-amd" {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}

// A damaged cache is repaired by Fetch, and named by Dir.
func TestDamagedCache(t *testing.T) {
	v := newVendors(t, plain)
	c := &clock{t: now}
	dir := t.TempDir()
	e := chips().evidence()
	endorse(t, v.source(dir, c), e)
	for _, content := range []string{"", "x", string(chips().list[:40]), string(chips().vcek)} {
		name := filepath.Join(dir, "crl-Milan.der")
		if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := Dir(dir).Endorse(t.Context(), e); err == nil || !strings.Contains(err.Error(), name) || len(got.Certificates) != 1 {
			t.Errorf("%q: %v", content, err)
		}
		if got := endorse(t, v.source(dir, c), e); len(got.CRLs) != 1 {
			t.Errorf("%q: %+v", content, got)
		}
		if got := endorse(t, Dir(dir), e); len(got.CRLs) != 1 {
			t.Errorf("%q: %+v", content, got)
		}
	}
}

func TestWhatCannotBeFetched(t *testing.T) {
	v := newVendors(t, plain)
	c := &clock{t: now}
	hidden := chips().evidence()
	hidden.Report = append([]byte(nil), hidden.Report...)
	clear(hidden.Report[0x1a0:0x1e0])
	for name, tt := range map[string]struct {
		source attest.EndorsementSource
		e      attest.Evidence
		want   string
	}{
		"no cache":               {Fetch(FetchConfig{}), chips().evidence(), "no cache directory"},
		"no report":              {v.source(t.TempDir(), c), attest.Evidence{Type: attest.SNP}, "0 bytes"},
		"no quote":               {v.source(t.TempDir(), c), attest.Evidence{Type: attest.TDX}, "reading the quote"},
		"a hidden chip":          {v.source(t.TempDir(), c), hidden, "MASK_CHIP_ID"},
		"plain HTTP":             {Fetch(FetchConfig{Dir: t.TempDir(), AMD: "http://192.0.2.1"}), chips().evidence(), "neither https nor on this machine"},
		"a cache that is a file": {v.source("fetch_test.go", c), chips().evidence(), "keeping it in the cache"},
		"an empty folder":        {Dir(t.TempDir()), chips().evidence(), "has no vcek-Milan-c1"},
		"no folder for quotes":   {Dir("none"), bare(platforms()[attest.SGX]), "has no tcb-sgx-b0c06f000000.json, qe-sgx.json, crl-pck-platform.der, crl-intel-root.der"},
	} {
		if _, err := tt.source.Endorse(t.Context(), tt.e); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v; want %q", name, err, tt.want)
		}
	}
	for _, s := range []attest.EndorsementSource{v.source(t.TempDir(), c), Dir(t.TempDir())} {
		if got, err := s.Endorse(t.Context(), attest.Evidence{Type: attest.Sim}); err != nil || len(got.Certificates) > 0 {
			t.Errorf("the simulated TEE has no vendor: %+v, %v", got, err)
		}
	}
	// An old report does not say of which line it is: one after the other is asked.
	old := chips().evidence()
	old.Report = append([]byte{2}, old.Report[1:]...)
	clear(old.Report[0x188:0x18b])
	_, err := v.source(t.TempDir(), c).Endorse(t.Context(), old)
	if err == nil || v.count("/Genoa/crl") != 1 { // it has no list of the other line
		t.Errorf("asked %q, %v", v.asked, err)
	}
}
