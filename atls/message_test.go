package atls

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/ultravioletrs/cocos/attest"
)

func sampleHello() hello {
	return hello{role: client, flags: flagDemands | flagCached, nonce: [nonceSize]byte{1, 2, 3}}
}

func sampleEvidence() evidence {
	return evidence{instance: []byte("key"), proof: proof{path: 2, siblings: []hash{{1}, {2}}}, report: []byte(`{"type":"sim"}`)}
}

func sampleCached() evidence {
	return evidence{instance: []byte("key"), cached: true, signature: []byte("signature"), report: []byte(`{"type":"sim"}`)}
}

// parsers of bodies, each writing again what it read.
var parsers = map[string]func([]byte) ([]byte, error){
	"hello": func(b []byte) ([]byte, error) {
		h, err := parseHello(b)
		return h.bytes(), err
	},
	"evidence": func(b []byte) ([]byte, error) {
		e, err := parseEvidence(b)
		return e.bytes(), err
	},
	"verdict": func(b []byte) ([]byte, error) {
		v, err := parseVerdict(b)
		return []byte{byte(v)}, err
	},
}

var samples = map[string][][]byte{
	"hello":    {sampleHello().bytes()},
	"evidence": {sampleEvidence().bytes(), sampleCached().bytes()},
	"verdict":  {{byte(accepted)}, {byte(refused)}, {byte(failed)}, {byte(busy)}},
}

// A body that is whole is read; one that is cut anywhere, or longer by a byte,
// is not.
func TestBodiesAreReadWhole(t *testing.T) {
	for name, parse := range parsers {
		for _, body := range samples[name] {
			if again, err := parse(body); err != nil || !bytes.Equal(again, body) {
				t.Errorf("%s %x: %x, %v", name, body, again, err)
			}
			for n := range body {
				if _, err := parse(body[:n]); err == nil {
					t.Errorf("%s of %d bytes was read from %d", name, len(body), n)
				}
			}
			if _, err := parse(append(bytes.Clone(body), 0)); err == nil {
				t.Errorf("%s was read with a byte after it", name)
			}
		}
	}
}

// Each body is right in all but one thing.
func TestBodiesThatAreRefused(t *testing.T) {
	at := func(b []byte, i int, to ...byte) []byte {
		b = bytes.Clone(b)
		copy(b[i:], to)
		return b
	}
	hi, ev, ca := sampleHello().bytes(), sampleEvidence().bytes(), sampleCached().bytes()
	deep := sampleEvidence()
	deep.proof = proof{siblings: make([]hash, maxDepth+1)}
	long := sampleEvidence()
	long.report = make([]byte, maxEvidence+1)
	noKey := sampleEvidence()
	noKey.instance = nil
	bigKey := sampleEvidence()
	bigKey.instance = make([]byte, maxKey+1)
	bigSignature := sampleCached()
	bigSignature.signature = make([]byte, maxSignature+1)
	noSignature := sampleCached()
	noSignature.signature = nil
	noReport := sampleEvidence()
	noReport.report = nil
	for name, tt := range map[string]struct {
		parser string
		body   []byte
		want   string
	}{
		"an older version":   {"hello", at(hi, 1, 0), "version 0"},
		"a later version":    {"hello", at(hi, 1, 2), "version 2"},
		"a later, longer":    {"hello", append(at(hi, 1, 2), 1, 2, 3), "version 2"},
		"no role":            {"hello", at(hi, 2, 0), "role 0"},
		"an unknown role":    {"hello", at(hi, 2, 3), "role 3"},
		"an unknown flag":    {"hello", at(hi, 3, flagDemands|8), "flags 0x08"},
		"cached of nothing":  {"hello", at(hi, 3, flagCached), "demands none"},
		"no key":             {"evidence", noKey.bytes(), "instance key has 0 bytes"},
		"a huge key":         {"evidence", bigKey.bytes(), "instance key has 2049 bytes"},
		"no binding":         {"evidence", at(ev, 5, 0), "binding 0"},
		"an unknown binding": {"evidence", at(ev, 5, 3), "binding 3"},
		"a path too long":    {"evidence", at(ev, 6, 0, 0, 0, 4), "more than 2 steps"},
		"a deep proof":       {"evidence", deep.bytes(), "11 hashes"},
		"no report":          {"evidence", noReport.bytes(), "report has 0 bytes"},
		"a huge report":      {"evidence", long.bytes(), "report has 524289 bytes"},
		"no signature":       {"evidence", noSignature.bytes(), "signature has 0 bytes"},
		"a huge signature":   {"evidence", bigSignature.bytes(), "signature has 1025 bytes"},
		"a proof's binding":  {"evidence", at(ca, 5, boundByProof), "evidence: "},
		"no verdict":         {"verdict", []byte{0}, "not known"},
		"an unknown verdict": {"verdict", []byte{5}, "not known"},
	} {
		if _, err := parsers[tt.parser](tt.body); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v; want an error with %q", name, err, tt.want)
		}
	}
}

// Frames, with what comes in pieces, too early, too large, or not at all.
func TestFrames(t *testing.T) {
	var frame bytes.Buffer
	body := sampleEvidence().bytes()
	if err := writeMessage(&frame, kindEvidence, body); err != nil {
		t.Fatal(err)
	}
	whole := frame.Bytes()
	r := bytes.NewReader(append(bytes.Clone(whole), "PRI"...))
	k, got, err := readMessage(iotest.OneByteReader(r), kindEvidence, kindVerdict)
	if err != nil || k != kindEvidence || !bytes.Equal(got, body) {
		t.Fatalf("%v %x %v", k, got, err)
	}
	if rest, _ := io.ReadAll(r); string(rest) != "PRI" {
		t.Errorf("it read on into what follows: %q is left", rest)
	}
	for n := range whole {
		if _, _, err := readMessage(bytes.NewReader(whole[:n]), kindEvidence); err == nil || !errors.Is(err, io.ErrUnexpectedEOF) && n > 0 {
			t.Errorf("a frame cut at %d: %v", n, err)
		}
	}
	header := func(k kind, n uint32) []byte {
		return binary.BigEndian.AppendUint32([]byte{byte(k)}, n)
	}
	for name, tt := range map[string]struct {
		frame []byte
		want  string
	}{
		"another kind":   {append(header(kindHello, 36), sampleHello().bytes()...), `a message hello; expected "evidence"`},
		"no kind":        {header(0, 0), "of kind 0"},
		"an HTTP/2 byte": {[]byte("PRI * HTTP/2.0"), "of kind 80"},
		"too large":      {header(kindEvidence, uint32(kindEvidence.limit())+1), "at most"},
		"enormous":       {header(kindEvidence, 1<<32-1), "at most"},
		"announced only": {header(kindEvidence, uint32(kindEvidence.limit())), "unexpected EOF"},
	} {
		if _, _, err := readMessage(bytes.NewReader(tt.frame), kindEvidence); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v; want an error with %q", name, err, tt.want)
		}
	}
	// What fits the parts fits the whole.
	most := evidence{instance: make([]byte, maxKey), proof: proof{siblings: make([]hash, maxDepth)}, report: make([]byte, maxEvidence)}
	signed := evidence{instance: make([]byte, maxKey), cached: true, signature: make([]byte, maxSignature), report: make([]byte, maxEvidence)}
	for _, e := range []evidence{most, signed} {
		if n := len(e.bytes()); n > kindEvidence.limit() {
			t.Errorf("evidence of %d bytes is over the limit of %d", n, kindEvidence.limit())
		}
		if _, err := parseEvidence(e.bytes()); err != nil {
			t.Error(err)
		}
	}
}

// What is announced takes no memory.
func TestAnnouncementsTakeNoMemory(t *testing.T) {
	frame := binary.BigEndian.AppendUint32([]byte{byte(kindEvidence)}, maxEvidence)
	bytesPer := testing.Benchmark(func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			_, _, _ = readMessage(bytes.NewReader(frame), kindEvidence)
		}
	}).AllocedBytesPerOp()
	if bytesPer > 64<<10 {
		t.Errorf("a header alone takes %d bytes", bytesPer)
	}
}

func TestEvidenceTooLarge(t *testing.T) {
	if _, err := encode(attest.Evidence{Type: attest.Sim, Report: make([]byte, maxEvidence)}); err == nil || !strings.Contains(err.Error(), "at most") {
		t.Errorf("got %v", err)
	}
}

// FuzzMessages reads a stream as either side would. What is read is written
// again as it was, and judging it, by a verifier that accepts all, ends.
func FuzzMessages(f *testing.F) {
	for name, k := range map[string]kind{"hello": kindHello, "evidence": kindEvidence, "verdict": kindVerdict} {
		for _, body := range samples[name] {
			var frame bytes.Buffer
			_ = writeMessage(&frame, k, body)
			f.Add(frame.Bytes())
		}
	}
	anything := &Appraisal{Verifier: yes{}, Launch: approved, AcceptCached: true}
	f.Fuzz(func(t *testing.T, b []byte) {
		k, body, err := readMessage(bytes.NewReader(b), kindHello, kindEvidence, kindVerdict)
		if err != nil {
			return
		}
		again, err := parsers[k.String()](body)
		if err != nil {
			return
		}
		if !bytes.Equal(again, body) {
			t.Fatalf("%x reads as %x", body, again)
		}
		if k != kindEvidence {
			return
		}
		e, err := parseEvidence(body)
		if err != nil {
			t.Fatal(err)
		}
		if a, err := anything.judge(t.Context(), new(shared), e, hash{}); err == nil && a.Cached {
			t.Fatal("a signature was forged")
		}
	})
}
