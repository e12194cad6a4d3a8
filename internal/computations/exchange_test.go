package computations_test

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	c "github.com/ultravioletrs/cocos/internal/computations"
)

// What is exported from one service makes the same draft in another, for the same
// people and with the same assets.
func TestExportAndImport(t *testing.T) {
	p, q := newPlay(t), newPlay(t)
	d := p.draft()
	d.Approvers = []c.ID{p.bob.User}
	d.Algorithm.Limits.Processes = 3
	d.Outputs.ResultMax = 5
	d.Image = strings.Repeat("ab", 32)
	p.ok(empty(p.EditDraft(p.ctx, p.alice.Identity, p.id, 1, d)))
	p.ok(p.Supply(p.ctx, p.bob.Identity, p.id, c.Supply{Key: p.bob.keyID}))
	raw, err := p.ExportComputation(p.ctx, p.carol.Identity, p.id)
	p.ok(err)
	for _, secret := range []c.ID{p.id, p.ws.ID, p.bob.User, p.bob.keyID, p.dataset.ID} {
		if bytes.Contains(raw, []byte(secret)) {
			t.Errorf("the export has an ID of this service in it:\n%s", raw)
		}
	}
	made, err := q.ImportComputation(q.ctx, q.carol.Identity, q.ws.ID, raw)
	q.ok(err)
	want := q.draft()
	want.Approvers, want.Algorithm.Limits, want.Outputs, want.Image = []c.ID{q.bob.User}, d.Algorithm.Limits, d.Outputs, d.Image
	if fmt.Sprintf("%+v", made.Draft) != fmt.Sprintf("%+v", want) || made.Creator != q.carol.User {
		t.Errorf("imported\n%+v\nwant\n%+v", made.Draft, want)
	}
	q.ok(empty(q.Freeze(q.ctx, q.carol.Identity, made.ID, made.Revision)))
	again, err := q.ExportComputation(q.ctx, q.carol.Identity, made.ID)
	q.ok(err)
	if !bytes.Equal(again, raw) {
		t.Errorf("exported again\n%s\nwant\n%s", again, raw)
	}
	// An asset that isn't there leaves its slot to its provider.
	q.ok(q.RetireAsset(q.ctx, q.bob.Identity, q.dataset.ID))
	made, err = q.ImportComputation(q.ctx, q.carol.Identity, q.ws.ID, raw)
	q.ok(err)
	if s := made.Draft.Datasets[0]; s.Asset != "" || s.Provider != q.bob.User {
		t.Errorf("the slot is %+v", s)
	}
}

func TestRefusedImports(t *testing.T) {
	p := newPlay(t)
	raw, err := p.ExportComputation(p.ctx, p.alice.Identity, p.id)
	p.ok(err)
	text := string(raw)
	swap := func(old, new string) string {
		if !strings.Contains(text, old) {
			t.Fatalf("no %q in %s", old, text)
		}
		return strings.Replace(text, old, new, 1)
	}
	for name, tt := range map[string]struct{ in, want string }{
		"nothing":          {"", "is not valid JSON"},
		"something else":   {"[]", "not of the type"},
		"cut":              {text[:len(text)/2], "is not valid JSON"},
		"another format":   {swap("cocos/computation", "cocos/policy"), "format: is \"cocos/policy\""},
		"another version":  {swap(`"version": 1`, `"version": 2`), "version: is 2"},
		"no version":       {swap(`"version": 1,`, ``), "version: is 0"},
		"an unknown field": {swap(`"version": 1`, `"version": 1, "owner": "x"`), "owner: is not a known field"},
		"unknown, inside":  {swap(`"args"`, `"argv": [], "args"`), "algorithm/argv: is not a known field"},
		"a field twice":    {swap(`"version": 1`, `"version": 1, "version": 1`), "version: is given twice"},
		"a wrong type":     {swap(`"attested_tls": true`, `"attested_tls": "yes"`), "attested_tls: is not of the type"},
		"two things":       {text + text, "is not valid JSON"},
		"a stranger":       {swap("bob@example.org", "mallory@example.org"), "datasets/0/provider: mallory@example.org is no member"},
		"a duration":       {swap(`"1h0m0s"`, `"an hour"`), "ttl: is \"an hour\""},
		"a long life":      {swap(`"1h0m0s"`, `"10000h"`), "ttl: is"},
		"a dataset's name": {swap(`"iris.csv"`, `"../iris"`), "datasets/0/name"},
		"a TEE":            {swap(`"sim"`, `"enclave"`), "tee: is"},
		"many datasets":    {swap(`"datasets": [`, `"datasets": [`+strings.Repeat(`{"name": "x"}, `, 256)), "datasets: are 257; at most 256"},
		"a digest":         {swap(`"sha256": "`, `"sha256": "0`), "sha256"},
		"too much":         {text + strings.Repeat(" ", 1<<20), "at most"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := p.ImportComputation(p.ctx, p.alice.Identity, p.ws.ID, []byte(tt.in))
			refused(t, err, c.Invalid, tt.want)
		})
	}
	// Somebody who is here, and not in that workspace, is a stranger to it.
	other := p.workspace(p.carol)
	_, err = p.ImportComputation(p.ctx, p.carol.Identity, other.ID, raw)
	refused(t, err, c.Invalid, "bob@example.org is no member of this workspace")
	if len(faultsOf(err)) != 2 { // bob and dave; carol is its administrator
		t.Errorf("not all at once: %v", err)
	}
}
