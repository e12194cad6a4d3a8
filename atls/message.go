package atls

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/go-json-experiment/json"

	"github.com/ultravioletrs/cocos/attest"
)

// version of the exchange.
const version = 1

const (
	nonceSize = 32
	// maxDepth of a tree, and so maxBatch leaves under one report.
	maxDepth = 10
	maxBatch = 1 << maxDepth
	// maxKey and maxSignature of an instance key, in bytes.
	maxKey       = 2048
	maxSignature = 1024
	// maxEvidence in bytes of JSON.
	maxEvidence = 512 << 10
)

// kind is the first byte of a message; its length follows, in four bytes, big
// endian, and then the body.
type kind byte

const (
	kindHello    kind = 1
	kindEvidence kind = 2
	kindVerdict  kind = 3
)

func (k kind) String() string {
	switch k {
	case kindHello:
		return "hello"
	case kindEvidence:
		return "evidence"
	case kindVerdict:
		return "verdict"
	}
	return fmt.Sprintf("of kind %d", byte(k))
}

// limit of a body, in bytes.
func (k kind) limit() int {
	switch k {
	case kindHello:
		return 256 // later versions may say more
	case kindEvidence:
		return maxEvidence + maxKey + maxSignature + maxDepth*len(hash{}) + 64
	case kindVerdict:
		return 1
	}
	return 0
}

const headerSize = 5

func writeMessage(w io.Writer, k kind, body []byte) error {
	b := append(make([]byte, 0, headerSize+len(body)), byte(k))
	b = binary.BigEndian.AppendUint32(b, uint32(len(body)))
	if _, err := w.Write(append(b, body...)); err != nil {
		return fmt.Errorf("sending the message %q: %w", k, err)
	}
	return nil
}

// readMessage takes one of the kinds. Memory grows with what has arrived, not
// with what is announced.
func readMessage(r io.Reader, kinds ...kind) (kind, []byte, error) {
	var header [headerSize]byte
	if _, err := io.ReadFull(r, header[:]); err != nil {
		return 0, nil, fmt.Errorf("awaiting the message %q: %w", kinds[0], err)
	}
	k, size := kind(header[0]), binary.BigEndian.Uint32(header[1:])
	known := false
	for _, want := range kinds {
		known = known || k == want
	}
	switch {
	case !known:
		return 0, nil, fmt.Errorf("the peer sends a message %s; expected %q", k, kinds[0])
	case size > uint32(k.limit()):
		return 0, nil, fmt.Errorf("the peer announces a message %q of %d bytes; at most %d are taken", k, size, k.limit())
	}
	var body bytes.Buffer
	if _, err := io.CopyN(&body, r, int64(size)); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return 0, nil, fmt.Errorf("reading the message %q: %w", k, err)
	}
	return k, body.Bytes(), nil
}

// Flags of hello.
const (
	flagDemands = 1 << iota // wants the peer's evidence
	flagGives               // will give its own
	flagCached              // takes evidence that is older than the connection
	flagsKnown  = flagDemands | flagGives | flagCached
)

// hello is what a side says first.
type hello struct {
	role  role
	flags byte
	nonce [nonceSize]byte
}

func (h hello) has(flag byte) bool { return h.flags&flag != 0 }

func (h hello) bytes() []byte {
	b := binary.BigEndian.AppendUint16(nil, version)
	b = append(b, byte(h.role), h.flags)
	return append(b, h.nonce[:]...)
}

func parseHello(b []byte) (h hello, err error) {
	r := reader{b: b}
	if v := r.uint16(); r.err == nil && v != version {
		return h, fmt.Errorf("hello: the peer speaks version %d of attested TLS, and this program version %d", v, version)
	}
	h.role, h.flags = role(r.byte()), r.byte()
	copy(h.nonce[:], r.take(nonceSize))
	if err := r.end(); err != nil {
		return hello{}, fmt.Errorf("hello: %w", err)
	}
	switch {
	case h.role != client && h.role != server:
		return hello{}, fmt.Errorf("hello: role %d is not known", h.role)
	case h.flags&^flagsKnown != 0:
		return hello{}, fmt.Errorf("hello: flags %#02x are not known", h.flags&^flagsKnown)
	case h.has(flagCached) && !h.has(flagDemands):
		return hello{}, errors.New("hello: it takes cached evidence, and demands none")
	}
	return h, nil
}

// evidence carries a report, and what leads from it to the connection: a proof,
// or a signature by the instance key where the report is older.
type evidence struct {
	instance  []byte // DER SubjectPublicKeyInfo
	cached    bool
	proof     proof
	signature []byte
	report    []byte // JSON of an attest.Evidence
}

// How an evidence is bound to the connection.
const (
	boundByProof     = 1
	boundBySignature = 2
)

func (e evidence) bytes() []byte {
	b := make([]byte, 0, 64+len(e.instance)+len(e.signature)+len(e.proof.siblings)*len(hash{})+len(e.report))
	b = binary.BigEndian.AppendUint16(b, uint16(len(e.instance)))
	b = append(b, e.instance...)
	if e.cached {
		b = append(b, boundBySignature)
		b = binary.BigEndian.AppendUint16(b, uint16(len(e.signature)))
		b = append(b, e.signature...)
	} else {
		b = append(b, boundByProof)
		b = binary.BigEndian.AppendUint32(b, e.proof.path)
		b = append(b, byte(len(e.proof.siblings)))
		for _, s := range e.proof.siblings {
			b = append(b, s[:]...)
		}
	}
	b = binary.BigEndian.AppendUint32(b, uint32(len(e.report)))
	return append(b, e.report...)
}

func parseEvidence(b []byte) (evidence, error) {
	r := reader{b: b}
	e := evidence{instance: r.sized(int(r.uint16()), maxKey, "instance key")}
	switch bound := r.byte(); {
	case r.err != nil:
	case bound == boundByProof:
		e.proof.path = r.uint32()
		n := int(r.byte())
		switch {
		case r.err != nil:
		case n > maxDepth:
			r.err = fmt.Errorf("a proof of %d hashes; at most %d are taken", n, maxDepth)
		case e.proof.path>>n != 0:
			r.err = fmt.Errorf("the proof's path %#x has more than %d steps", e.proof.path, n)
		}
		for range min(n, maxDepth) {
			var s hash
			copy(s[:], r.take(len(s)))
			e.proof.siblings = append(e.proof.siblings, s)
		}
	case bound == boundBySignature:
		e.cached = true
		e.signature = r.sized(int(r.uint16()), maxSignature, "signature")
	default:
		r.err = fmt.Errorf("binding %d is not known", bound)
	}
	e.report = r.sized(int(r.uint32()), maxEvidence, "report")
	if err := r.end(); err != nil {
		return evidence{}, fmt.Errorf("evidence: %w", err)
	}
	return e, nil
}

// encode is the report's form in messages.
func encode(e attest.Evidence) ([]byte, error) {
	b, err := json.Marshal(e, json.Deterministic(true))
	switch {
	case err != nil:
		return nil, fmt.Errorf("encoding evidence: %w", err)
	case len(b) > maxEvidence:
		return nil, fmt.Errorf("evidence of %d bytes; at most %d are sent", len(b), maxEvidence)
	}
	return b, nil
}

// decode refuses members that are not known or given twice.
func decode(b []byte) (e attest.Evidence, err error) {
	if err := json.Unmarshal(b, &e, json.RejectUnknownMembers(true)); err != nil {
		return attest.Evidence{}, fmt.Errorf("evidence: %w", err)
	}
	return e, nil
}

// verdict is all that a side says of the other's evidence, or, in its place, of
// its own.
type verdict byte

const (
	accepted verdict = 1
	refused  verdict = 2
	failed   verdict = 3 // there is no evidence
	busy     verdict = 4 // too many wait for evidence
)

func parseVerdict(b []byte) (verdict, error) {
	if len(b) != 1 || b[0] < byte(accepted) || b[0] > byte(busy) {
		return 0, fmt.Errorf("verdict: %x is not known", b)
	}
	return verdict(b[0]), nil
}

// reader takes fields off a body and keeps the first error.
type reader struct {
	b   []byte
	err error
}

func (r *reader) take(n int) []byte {
	if r.err == nil && n > len(r.b) {
		r.err = fmt.Errorf("it ends %d bytes early", n-len(r.b))
	}
	if r.err != nil {
		return nil
	}
	b := r.b[:n:n]
	r.b = r.b[n:]
	return b
}

// sized takes a field of n bytes, none of which is an error, and so is a field
// that is longer than limit.
func (r *reader) sized(n, limit int, name string) []byte {
	if r.err == nil && (n == 0 || n > limit) {
		r.err = fmt.Errorf("the %s has %d bytes; expected 1 to %d", name, n, limit)
	}
	return r.take(n)
}

func (r *reader) byte() byte {
	if b := r.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (r *reader) uint16() uint16 {
	if b := r.take(2); b != nil {
		return binary.BigEndian.Uint16(b)
	}
	return 0
}

func (r *reader) uint32() uint32 {
	if b := r.take(4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

// end wants nothing left.
func (r *reader) end() error {
	if r.err == nil && len(r.b) > 0 {
		return fmt.Errorf("%d bytes too many", len(r.b))
	}
	return r.err
}
