package cli

import (
	"bytes"
	"encoding/json"
	"os"
	"strings"
	"testing"
	"time"

	agentv1 "github.com/ultravioletrs/cocos/api/agent/v1"
	"github.com/ultravioletrs/cocos/atls"
	"github.com/ultravioletrs/cocos/attest"
	"github.com/ultravioletrs/cocos/keys"
	"github.com/ultravioletrs/cocos/manifest"
	"github.com/ultravioletrs/cocos/receipt"
)

// attestedResult is a VM with good evidence whose run has ended, and what its
// receipt would say if nobody lied.
func attestedResult(t *testing.T) (*attestedUser, *fakeAgent, receipt.Request) {
	t.Helper()
	u := newAttestedUser(t, manifest.TEESim)
	f := u.freeze(func(m *manifest.Manifest) { m.TEE, m.AttestedTLS, m.Approvals = manifest.TEESim, true, nil })
	instance, err := keys.Generate(keys.Ed25519)
	if err != nil {
		t.Fatal(err)
	}
	a := withResult(t, u.user, 1000)
	a.stop()
	p, err := atls.NewProver(atls.ProverConfig{Attester: u.host.Attester(simMeasurement, u.digest), Manifest: u.digest, Instance: instance})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	a.serve(t, func(c *atls.ServerConfig) { c.Prover = p })
	zero := 0
	return u, a, receipt.Request{
		Attester: u.host.Attester(simMeasurement, u.digest), Instance: instance, Manifest: f, Run: "r",
		Outcome: receipt.Succeeded, ExitStatus: &zero, Result: &receipt.Result{SHA256: manifest.Sum(a.result), Size: int64(len(a.result))},
		Started: time.Now(), Finished: time.Now(),
	}
}

// A VM that was accepted is still not believed: without a receipt that holds and
// is this result's, nothing is fetched, stored or confirmed.
func TestResultIsRefusedWithoutItsReceipt(t *testing.T) {
	seven := 7
	for name, tt := range map[string]struct {
		ask    func(*receipt.Request, *attestedUser)
		send   func([]byte) []byte
		reason string
		field  string
	}{
		"none":          {nil, func([]byte) []byte { return nil }, "NO_RECEIPT", ""},
		"no receipt":    {nil, func([]byte) []byte { return []byte("{}") }, reasonReceipt, ""},
		"a bent one":    {nil, func(b []byte) []byte { return bytes.Replace(b, []byte(`"sig": "`), []byte(`"sig": "AAAA`), 1) }, reasonReceipt, "/envelope/signatures/0/sig"},
		"too large":     {nil, func(b []byte) []byte { return append(b, bytes.Repeat([]byte(" "), receipt.MaxSize)...) }, reasonReceipt, ""},
		"of another VM": {func(r *receipt.Request, _ *attestedUser) { r.Instance, _ = keys.Generate(keys.Ed25519) }, nil, reasonReceipt, "/predicate/instance"},
		"of another manifest": {func(r *receipt.Request, _ *attestedUser) {
			r.Manifest.Nonce = manifest.Nonce{9}
			r.Manifest, _ = manifest.Freeze(r.Manifest.Manifest)
		}, nil, reasonReceipt, "/predicate/manifest"},
		"of another image": {func(r *receipt.Request, u *attestedUser) {
			r.Attester = u.host.Attester([48]byte{8}, u.digest)
		}, nil, reasonRefused, "sim.measurement"},
		"launched for another manifest": {func(r *receipt.Request, u *attestedUser) {
			r.Attester = u.host.Attester(simMeasurement, [32]byte{8})
		}, nil, reasonRefused, "sim.host_data"},
		"of another result": {func(r *receipt.Request, _ *attestedUser) { r.Result.SHA256[0] ^= 1 }, nil, reasonReceipt, "/predicate/result"},
		"of another size":   {func(r *receipt.Request, _ *attestedUser) { r.Result.Size++ }, nil, reasonReceipt, "/predicate/result"},
		"of a failure": {func(r *receipt.Request, _ *attestedUser) {
			r.Outcome, r.Reason, r.ExitStatus = receipt.Failed, receipt.AlgorithmFailed, &seven
		}, nil, reasonReceipt, "/predicate/outcome"},
	} {
		t.Run(name, func(t *testing.T) {
			u, f, req := attestedResult(t)
			before := u.leftovers()
			if tt.ask != nil {
				tt.ask(&req, u)
			}
			raw, err := receipt.Make(t.Context(), req)
			if err != nil {
				t.Fatal(err)
			}
			if f.receipt = raw; tt.send != nil {
				f.receipt = tt.send(raw)
			}
			for _, where := range []string{"--out", "--archive"} {
				o := u.with(f, "result", where, u.path("got"), "--json")
				o.wants(t, ExitFailure)
				if message, reason, field, hint := o.failure(t); reason != tt.reason || field != tt.field || hint == "" {
					t.Errorf("%s: reason %q, field %q, hint %q: %s; want %q %q", where, reason, field, hint, message, tt.reason, tt.field)
				}
			}
			if f.count("Result") != 0 || f.count("ConfirmResult") != 0 {
				t.Errorf("the result was fetched %d times, and confirmed %d times", f.count("Result"), f.count("ConfirmResult"))
			}
			// The address of the VM that was accepted is remembered, nothing else.
			if got := strings.Join(u.leftovers(), " "); got != strings.Join(append([]string{"home"}, before...), " ") {
				t.Errorf("left behind: %s", got)
			}
		})
	}
}

// The bytes themselves are held against the receipt, too: what comes in the place
// of the announced result is not opened.
func TestResultThatIsNotTheReceipts(t *testing.T) {
	u, f, req := attestedResult(t)
	raw, err := receipt.Make(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	f.receipt = raw
	good := bytes.Clone(f.result)
	f.result[len(f.result)/2] ^= 1
	f.lie = func(info *agentv1.ResultInfo) {
		sum := manifest.Sum(good)
		info.Sha256 = sum[:]
	}
	u.with(f, "result", "--out", u.path("got")).wants(t, ExitFailure, "the agent announced "+manifest.Sum(good).String())
	for _, name := range []string{"got", "got" + receiptSuffix} {
		if _, err := os.Lstat(u.path(name)); err == nil {
			t.Errorf("%s is there", name)
		}
	}
	if f.confirmed != nil {
		t.Error("it was confirmed")
	}
	// Once it is right, all is there.
	f.result, f.lie = good, nil
	o := u.with(f, "result", "--out", u.path("got"), "--json")
	o.wants(t, ExitOK)
	var done fetched
	if err := json.Unmarshal([]byte(o.stdout), &done); err != nil || !done.ReceiptVerified || done.Receipt != u.path("got"+receiptSuffix) {
		t.Fatalf("printed %q (%v)", o.stdout, err)
	}
	kept, err := os.ReadFile(done.Receipt)
	if err != nil {
		t.Fatal(err)
	}
	r, err := receipt.Parse(kept)
	if err != nil || r.Statement.Predicate.Result.SHA256 != manifest.Sum(good) || r.Evidence.Type != attest.Sim {
		t.Errorf("kept %v, %v", r, err)
	}
}
