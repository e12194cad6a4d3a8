package atls

import (
	"bytes"
	"io"
	"strings"
	"testing"
)

// Both sides come to the same word on what each gives and demands.
func TestAgree(t *testing.T) {
	const d, g, c = flagDemands, flagGives, flagCached
	for _, tt := range []struct {
		client, server byte
		ok             bool
	}{
		{d, g, true},
		{d | c, g, true},
		{g, d, true},
		{d | g, d | g, true},
		{d | g | c, d | g | c, true},
		{0, 0, true}, // in no mode that comes this far
		{d, 0, false},
		{0, g, false},
		{0, d, false},
		{g, 0, false},
		{d, d, false},
		{g, g, false},
		{d, d | g, false},
		{d | g, g, false},
		{d | g, d, false},
		{g, d | g, false},
	} {
		a, b := hello{role: client, flags: tt.client}, hello{role: server, flags: tt.server}
		for _, err := range []error{agree(a, b), agree(b, a)} {
			if (err == nil) != tt.ok {
				t.Errorf("client %03b, server %03b: %v", tt.client, tt.server, err)
			}
		}
	}
	// One that says it is what this side is reflects what it hears.
	for _, r := range []role{client, server} {
		h := hello{role: r, flags: d | g}
		if err := agree(h, h); err == nil || !strings.Contains(err.Error(), "it is a "+r.String()) {
			t.Errorf("%s: %v", r, err)
		}
	}
}

// scripted hears what a test wrote, and keeps what it is told.
type scripted struct {
	io.Reader
	bytes.Buffer
}

func (s *scripted) Read(b []byte) (int, error) { return s.Reader.Read(b) }

func script(verdicts ...verdict) *scripted {
	var b bytes.Buffer
	for _, v := range verdicts {
		_ = writeMessage(&b, kindVerdict, []byte{byte(v)})
	}
	return &scripted{Reader: &b}
}

// An attester goes on with one answer alone.
func TestAnswersToEvidence(t *testing.T) {
	p := newProver(t, quick{}, 0)
	for v, want := range map[verdict]string{accepted: "", refused: "refuses", failed: "verdict 3", busy: "verdict 4"} {
		end := &transport{role: server, prover: p}
		var info Info
		err := end.give(t.Context(), script(v), hello{role: client, flags: flagDemands}, &info)
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) || (len(info.Instance) > 0) != (want == "") {
			t.Errorf("verdict %d: %v, %x", v, err, info.Instance)
		}
	}
}

// What stands in the place of evidence ends it, each with its own words; that it
// was accepted does too.
func TestAnswersInPlaceOfEvidence(t *testing.T) {
	for v, want := range map[verdict]string{accepted: "verdict 1", refused: "verdict 2", failed: "gave no evidence", busy: "too many"} {
		end := &transport{role: client, appraisal: &Appraisal{Verifier: yes{}, Launch: approved}, shared: new(shared)}
		var info Info
		err := end.take(t.Context(), script(v), hello{role: client}, hello{role: server}, &info)
		if err == nil || !strings.Contains(err.Error(), want) || info.Attestation != nil {
			t.Errorf("verdict %d: %v", v, err)
		}
	}
}

// An attester that can't says which of two things it is.
func TestNoEvidenceInWords(t *testing.T) {
	full := newProver(t, quick{}, 0)
	full.mu.Lock()
	full.working, full.next = true, &batch{leaves: make([]hash, maxBatch), done: make(chan struct{})}
	full.mu.Unlock()
	closed := newProver(t, quick{}, 0)
	closed.Close()
	for v, p := range map[verdict]*Prover{busy: full, failed: closed} {
		conn := script()
		if err := (&transport{role: server, prover: p}).give(t.Context(), conn, hello{role: client}, &Info{}); err == nil {
			t.Errorf("verdict %d: no error", v)
		}
		if want := []byte{byte(kindVerdict), 0, 0, 0, 1, byte(v)}; !bytes.Equal(conn.Bytes(), want) {
			t.Errorf("it says %x; want %x", conn.Bytes(), want)
		}
	}
}
