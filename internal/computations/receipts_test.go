package computations_test

import (
	"bytes"
	"path/filepath"
	"testing"
	"time"

	"github.com/ultravioletrs/cocos/attest/sim"
	c "github.com/ultravioletrs/cocos/internal/computations"
	"github.com/ultravioletrs/cocos/keys"
	"github.com/ultravioletrs/cocos/manifest"
	"github.com/ultravioletrs/cocos/receipt"
)

// receiptOf makes a receipt as an agent of the simulated TEE does.
func (p *play) receiptOf(run c.ID, instance keys.Private, m *manifest.Frozen) []byte {
	p.t.Helper()
	a, err := sim.LoadOrCreate(filepath.Join(p.t.TempDir(), "sim"))
	p.ok(err)
	var given []manifest.Approval
	for _, each := range p.view(p.alice).Approvals {
		given = append(given, each.Approval)
	}
	zero := 0
	raw, err := receipt.Make(p.ctx, receipt.Request{
		Attester: a.Attester([48]byte(bytes.Repeat([]byte{7}, 48)), m.Digest), Instance: instance, Manifest: *m, Approvals: given, Run: string(run),
		Outcome: receipt.Succeeded, ExitStatus: &zero, Result: &receipt.Result{SHA256: manifest.Sum([]byte("r")), Size: 1},
		Started: time.Unix(1_800_000_000, 0), Finished: time.Unix(1_800_000_060, 0),
	})
	p.ok(err)
	return raw
}

func TestReceipts(t *testing.T) {
	p := newPlay(t)
	erin := p.withKey(p.person("erin"))
	p.join(p.ws, p.alice, erin, c.RoleMember)
	p.ok(p.SetParts(p.ctx, p.alice.Identity, p.id, erin.User, []c.Part{c.PartConsumer}))
	p.freeze()
	p.approve(p.bob, p.carol, p.dave, erin)
	m := p.view(p.alice).Frozen
	other := newPlay(t)
	other.ready()
	run := p.run()
	_, err := p.Receipt(p.ctx, p.carol.Identity, run.ID)
	refused(t, err, c.NotFound, "no receipt")
	instance := newKey(t)
	good := p.receiptOf(run.ID, instance, m)
	submit := func(who *person, raw []byte) error { return p.SubmitReceipt(p.ctx, who.Identity, run.ID, raw) }
	for name, tt := range map[string]struct {
		raw []byte
		why string
	}{
		"nothing":             {nil, "can't be read"},
		"a result":            {[]byte("PK\x03\x04"), "can't be read"},
		"cut":                 {good[:len(good)/2], "can't be read"},
		"an unknown member":   {bytes.Replace(good, []byte(`"version": 1`), []byte(`"version": 1, "x": 1`), 1), "not a known member"},
		"another version":     {bytes.Replace(good, []byte(`"version": 1`), []byte(`"version": 2`), 1), "version"},
		"of another manifest": {p.receiptOf(run.ID, instance, other.view(other.alice).Frozen), "is of the manifest"},
		"of another run":      {p.receiptOf(c.NewID(), instance, m), "is of the run"},
		"too large":           {append(bytes.Clone(good), bytes.Repeat([]byte(" "), receipt.MaxSize)...), "at most"},
	} {
		t.Run(name, func(t *testing.T) { refused(t, submit(p.carol, tt.raw), c.Invalid, tt.why) })
	}
	refused(t, submit(p.bob, bytes.Repeat([]byte("x"), receipt.MaxSize+1)), c.Denied, "consumer")
	p.ok(submit(p.carol, good))
	p.ok(submit(p.carol, good))
	got, err := p.Receipt(p.ctx, erin.Identity, run.ID)
	p.ok(err)
	if !bytes.Equal(got.Raw, good) || got.By != p.carol.User || !got.Simulated || !got.Succeeded {
		t.Errorf("kept %+v", got)
	}
	// Another consumer's is the same one, or there is something to talk about.
	p.ok(submit(erin, append(bytes.Clone(good), '\n')))
	if same, err := p.Receipt(p.ctx, erin.Identity, run.ID); err != nil || same.By != p.carol.User {
		t.Errorf("replaced by the same: %+v, %v", same, err)
	}
	second := p.receiptOf(run.ID, newKey(t), m)
	refused(t, submit(erin, second), c.Conflict, "a different receipt")
	refused(t, submit(p.carol, second), c.Conflict, "a different receipt") // others may have hers by now
	if kept, err := p.Receipt(p.ctx, erin.Identity, run.ID); err != nil || !bytes.Equal(kept.Raw, good) {
		t.Errorf("replaced: %+v, %v", kept, err)
	}
	for _, who := range []*person{p.alice, p.bob, p.dave} {
		_, err := p.Receipt(p.ctx, who.Identity, run.ID)
		refused(t, err, c.Denied, "consumer")
	}
}
