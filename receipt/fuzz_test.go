package receipt_test

import (
	"context"
	"testing"

	"github.com/ultravioletrs/cocos/attest"
	"github.com/ultravioletrs/cocos/receipt"
)

// What can be read is written as it was read, and no statement but the genuine
// one holds.
func check(t *testing.T, b []byte, genuine *receipt.Receipt, o receipt.Options) {
	r, err := receipt.Parse(b)
	if err != nil {
		return
	}
	if r.Text() == "" {
		t.Error("there is no text")
	}
	if again, err := r.Bytes(); err == nil { // else it is too large, with its indents
		if q, err := receipt.Parse(again); err != nil || !q.Same(r) {
			t.Errorf("written and read again it is another: %v", err)
		}
	}
	if r.Same(genuine) {
		return
	}
	if _, err := receipt.Verify(context.Background(), b, o); err == nil {
		t.Error("a forged receipt holds")
	}
}

func FuzzParse(f *testing.F) {
	w := newWorld(f)
	good := w.make(w.request())
	genuine, err := receipt.Parse(good)
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte(`{"version":1,"envelope":{"payloadType":"application/vnd.in-toto+json","payload":"e30=","signatures":[{"keyid":"","sig":""}]},"evidence":{"type":"tdx","report":""}}`))
	f.Add([]byte(`{}`))
	f.Fuzz(func(t *testing.T, b []byte) { check(t, b, genuine, w.options()) })
}

// FuzzStatement has the rest of the receipt right.
func FuzzStatement(f *testing.F) {
	w := newWorld(f)
	good := w.make(w.request())
	genuine, err := receipt.Parse(good)
	if err != nil {
		f.Fatal(err)
	}
	around := open(f, good)
	around.Evidence = attest.Evidence{Type: attest.Sim, Report: around.Evidence.Report}
	f.Add(around.Envelope.Payload)
	f.Fuzz(func(t *testing.T, payload []byte) {
		c := *around
		c.Envelope.Payload = payload
		check(t, c.raw(t), genuine, w.options())
	})
}
