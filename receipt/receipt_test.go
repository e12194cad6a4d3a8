package receipt_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/ultravioletrs/cocos/attest"
	"github.com/ultravioletrs/cocos/attest/sim"
	"github.com/ultravioletrs/cocos/keys"
	"github.com/ultravioletrs/cocos/manifest"
	"github.com/ultravioletrs/cocos/receipt"
)

func TestAReceiptHolds(t *testing.T) {
	w := newWorld(t)
	seven := 7
	for name, change := range map[string]func(*receipt.Request){
		"success": func(*receipt.Request) {},
		"exit status": func(r *receipt.Request) {
			r.Outcome, r.Reason, r.ExitStatus = receipt.Failed, receipt.AlgorithmFailed, &seven
		},
		"nothing could be packed": func(r *receipt.Request) {
			r.Outcome, r.Reason, r.ExitStatus, r.Result = receipt.Failed, receipt.AgentFailed, nil, nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			req := w.request()
			change(&req)
			raw := w.make(req)
			r, err := receipt.Verify(t.Context(), raw, w.options())
			if err != nil {
				t.Fatal(err)
			}
			if !r.Appraisal.Accepted || !r.Appraisal.Simulated || r.Appraisal.NotAfter.IsZero() {
				t.Errorf("the appraisal is %+v", r.Appraisal)
			}
			p := r.Statement.Predicate
			subject := r.Statement.Subject[0]
			if req.Outcome == receipt.Succeeded && (subject.Name != "SIMULATED result" || subject.Digest.SHA256 != req.Result.SHA256) ||
				req.Outcome == receipt.Failed && (subject.Name != "SIMULATED manifest" || subject.Digest.SHA256 != w.manifest.Digest) {
				t.Errorf("the subject is %+v", subject)
			}
			if p.Manifest != w.manifest.Digest || p.Run != req.Run || p.Outcome != req.Outcome || p.Reason != req.Reason ||
				!p.Instance.Equal(w.instance.Public()) || !p.Simulated || p.TEE != attest.Sim ||
				p.Measurement["measurement"].String() != attest.Hex(imageDigest[:]).String() ||
				p.Algorithm != w.manifest.Algorithm.SHA256 || len(p.Files) != 2 || p.Files[1].Name != "wheels" || len(p.Datasets) != 2 || p.Datasets[1].Name != "more" || len(p.Approvals) != 1 {
				t.Errorf("the predicate is %+v", p)
			}
			if text := r.Text(); !strings.HasPrefix(text, "SIMULATED: ") || !strings.Contains(text, "says the host's clock") || !strings.Contains(text, string(req.Outcome)) {
				t.Errorf("the text is\n%s", text)
			}
			again, err := r.Bytes()
			if err != nil || !bytes.Equal(again, raw) {
				t.Errorf("written again it differs: %v", err)
			}
		})
	}
}

// Two receipts of the same run commit to different report data: a host that
// guesses the result can't tell from the report whether it guessed right.
func TestReportDataTellsNothing(t *testing.T) {
	w := newWorld(t)
	first, second := open(t, w.make(w.request())), open(t, w.make(w.request()))
	if bytes.Equal(first.Envelope.Payload, second.Envelope.Payload) {
		t.Error("the same run has the same statement twice")
	}
	nonce := []byte(`"nonce":"`)
	if strip := func(b []byte) []byte {
		i := bytes.Index(b, nonce) + len(nonce)
		return append(bytes.Clone(b[:i]), b[i+64:]...)
	}; !bytes.Equal(strip(first.Envelope.Payload), strip(second.Envelope.Payload)) {
		t.Error("they differ in more than the nonce")
	}
}

// What the verifier is not given refuses.
func TestVerifyWantsEverything(t *testing.T) {
	w := newWorld(t)
	raw := w.make(w.request())
	other := w.freeze(2)
	for name, tt := range map[string]struct {
		change func(*receipt.Options)
		want   string
	}{
		"no verifier":                 {func(o *receipt.Options) { o.Verifier = nil }, "no verifier"},
		"no manifest":                 {func(o *receipt.Options) { o.Launch = attest.LaunchDigests{}; o.Manifest = nil }, "no manifest"},
		"half of the digests":         {func(o *receipt.Options) { o.Launch.SHA384, o.Manifest = [48]byte{}, nil }, "no manifest"},
		"digests of another manifest": {func(o *receipt.Options) { o.Launch = attest.LaunchDigestsOf(other.Raw) }, "not the one whose digests"},
		"another manifest":            {func(o *receipt.Options) { o.Launch, o.Manifest = attest.LaunchDigestsOf(other.Raw), &other }, "/predicate/manifest: expected " + other.Digest.String()},
		"another manifest's digests":  {func(o *receipt.Options) { o.Launch, o.Manifest = attest.LaunchDigestsOf(other.Raw), nil }, "/predicate/manifest: expected " + other.Digest.String()},
		"another instance":            {func(o *receipt.Options) { o.Instance = newKey(t).Public().SPKI() }, "/predicate/instance: expected sha256:"},
		"an instance that is no key":  {func(o *receipt.Options) { o.Instance = []byte{1} }, "/predicate/instance: expected another key"},
		"a policy without consent":    {func(o *receipt.Options) { o.Verifier = verifier{attest.SimPolicy{}} }, "sim.consent"},
		"another image": {func(o *receipt.Options) {
			p := w.policy
			p.Measurements = []attest.Hex{make([]byte, 48)}
			o.Verifier = verifier{p}
		}, "sim.measurement"},
		"another root": {func(o *receipt.Options) {
			p := w.policy
			p.Roots = []attest.Hex{make([]byte, 32)}
			o.Verifier = verifier{p}
		}, "sim.chain"},
		"before the evidence's window": {func(o *receipt.Options) { o.At = at.AddDate(-1, 0, 0) }, "sim.dates"},
		"after the evidence's window":  {func(o *receipt.Options) { o.At = at.AddDate(11, 0, 0) }, "sim.dates"},
		"a verifier that does not say": {func(o *receipt.Options) { o.Verifier = fixed{attest.Result{Type: attest.Sim, Simulated: true}} }, "evidence that the policy accepts"},
		"a verifier of another type": {func(o *receipt.Options) {
			o.Verifier = fixed{attest.Result{Type: attest.SNP, Simulated: true, Accepted: true}}
		}, `as the evidence of type "sev-snp"`},
		"a verifier that sees no sim": {func(o *receipt.Options) { o.Verifier = fixed{attest.Result{Type: attest.Sim, Accepted: true}} }, "/predicate/simulated: expected false"},
	} {
		t.Run(name, func(t *testing.T) {
			o := w.options()
			tt.change(&o)
			r, err := receipt.Verify(t.Context(), raw, o)
			if err == nil || r != nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v %v, want an error with %q", r, err, tt.want)
			}
		})
	}
	o := w.options()
	o.Instance, o.At = w.instance.Public().SPKI(), at.AddDate(9, 0, 0)
	if _, err := receipt.Verify(t.Context(), raw, o); err != nil {
		t.Errorf("its own instance, years later and within the window: %v", err)
	}
	o.Manifest = nil
	if _, err := receipt.Verify(t.Context(), raw, o); err != nil {
		t.Errorf("with the manifest's digests alone: %v", err)
	}
}

// A policy that accepts simulation beside a TEE does not make a simulation the
// receipt of a manifest that asks for the TEE.
func TestReceiptOfAnotherTEE(t *testing.T) {
	for tee, want := range map[manifest.TEE]string{
		manifest.TEESim:  "",
		manifest.TEENone: "", // any, then
		manifest.TEESNP:  `/predicate/tee: expected "sev-snp", the manifest's /tee, found "sim"`,
		manifest.TEETDX:  `/predicate/tee: expected "tdx"`,
		manifest.TEESGX:  `/predicate/tee: expected "sgx"`,
	} {
		w := newWorld(t)
		w.manifest = w.freezeFor(1, tee)
		_, err := receipt.Verify(t.Context(), w.make(w.request()), w.options())
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("a simulated receipt for /tee %q: %v; want %q", tee, err, want)
		}
	}
}

// What is not verified yet is shown all the same: nothing in it may write to a
// terminal what it likes.
func TestRegistersDoNotDisturbATerminal(t *testing.T) {
	w := newWorld(t)
	for name, ok := range map[string]bool{"measurement": true, "rtmr0": true, "": false, "a\nverified": false, "\x1b[2J": false, "A": false, "a b": false, "a, b": false} {
		f := open(t, w.make(w.request()))
		old, new := `"measurement":{"measurement":`, `"measurement":{`+strconv.Quote(name)+`:`
		if strings.HasPrefix(name, "\x1b") {
			new = `"measurement":{"\u001b[2J":`
		}
		f.Envelope.Payload = bytes.Replace(f.Envelope.Payload, []byte(old), []byte(new), 1)
		f.sign(t, w.instance)
		_, err := receipt.Parse(f.raw(t))
		if ok != (err == nil) || err != nil && (!strings.Contains(err.Error(), "/predicate/measurement") || strings.ContainsAny(err.Error(), "\x1b")) {
			t.Errorf("the register %q: %v", name, err)
		}
	}
}

// fixed says the same of everything.
type fixed struct{ result attest.Result }

func (f fixed) Verify(context.Context, attest.Evidence, attest.Expected) (attest.Result, error) {
	return f.result, nil
}

// Whatever part of a receipt somebody changes, alone or with all that he can
// sign himself, it is refused.
func TestTampering(t *testing.T) {
	w := newWorld(t)
	good := w.make(w.request())
	otherRun := open(t, w.make(w.request()))
	replace := func(old, new string) func(*testing.T, *wire) {
		return func(t *testing.T, f *wire) {
			t.Helper()
			changed := bytes.ReplaceAll(f.Envelope.Payload, []byte(old), []byte(new))
			if bytes.Equal(changed, f.Envelope.Payload) {
				t.Fatalf("%s does not occur in %s", old, f.Envelope.Payload)
			}
			f.Envelope.Payload = changed
		}
	}
	mallory := newKey(t)
	result, iris := manifest.Sum([]byte("result")).String(), manifest.Sum([]byte("iris")).String()
	model, lie := manifest.Sum([]byte("model")).String(), manifest.Sum([]byte("lie")).String()
	for name, tt := range map[string]struct {
		change func(*testing.T, *wire)
		want   string
	}{
		"nonce":                {replace(`"nonce":"`, `"nonce":"00000000`), "/predicate/nonce"},
		"run":                  {replace(`"run":"0b8a`, `"run":"0b8b`), "sig:"},
		"a run with an escape": {replace(`"run":"0b8a`, `"run":"\u001b[2J`), "/predicate/run is"},
		"manifest":             {replace(w.manifest.Digest.String(), lie), "sig:"},
		"instance":             {replace(w.instance.Public().String(), mallory.Public().String()), "keyid"},
		"tee":                  {replace(`"simulated":true,"tee":"sim"`, `"simulated":true,"tee":"sev-snp"`), "/predicate/simulated is true; expected false"},
		"no simulation":        {replace(`"simulated":true`, `"simulated":false`), "/predicate/simulated is false; expected true"},
		"a real TEE": {func(t *testing.T, f *wire) {
			replace(`"simulated":true,"tee":"sim"`, `"simulated":false,"tee":"sev-snp"`)(t, f)
			replace("SIMULATED ", "")(t, f)
		}, "sig:"},
		"subject's name":      {replace("SIMULATED result", "result"), "/subject is not, as the predicate says"},
		"subject's digest":    {replace(`"subject":[{"digest":{"sha256":"`+result, `"subject":[{"digest":{"sha256":"`+lie), "/subject is not, as the predicate says"},
		"result":              {replace(result, lie), "sig:"},
		"result's size":       {replace(`"size":6`, `"size":7`), "sig:"},
		"a size below zero":   {replace(`"size":6`, `"size":-6`), "/predicate/result/size"},
		"measurement":         {replace("0707", "0708"), "sig:"},
		"algorithm":           {replace(w.manifest.Algorithm.SHA256.String(), lie), "sig:"},
		"dataset's name":      {replace(`"iris"`, `"irix"`), "sig:"},
		"two of one name":     {replace(`"iris"`, `"more"`), "/predicate/datasets/1/name"},
		"file's name":         {replace(`"model"`, `"modem"`), "sig:"},
		"two files of a name": {replace(`"model"`, `"wheels"`), "/predicate/files/1/name"},
		"file's digest":       {replace(model, lie), "sig:"},
		"dataset's digest":    {replace(iris, lie), "sig:"},
		"approval's key":      {replace(w.approver.Public().Fingerprint(), mallory.Public().Fingerprint()), "sig:"},
		"outcome":             {replace(`"outcome":"succeeded"`, `"outcome":"failed"`), "/predicate/reason"},
		"an unknown outcome":  {replace(`"outcome":"succeeded"`, `"outcome":"fine"`), "/predicate/outcome"},
		"a reason":            {replace(`"outcome":"succeeded"`, `"outcome":"succeeded","reason":"agent-failed"`), "/predicate/reason"},
		"exit status":         {replace(`"exit_status":0`, `"exit_status":1`), "/predicate/exit_status"},
		"no exit status":      {replace(`"exit_status":0,`, ``), "/predicate/exit_status"},
		"times":               {replace("2027-01-15T08:01:00Z", "2027-01-15T08:02:00Z"), "sig:"},
		"predicate type":      {replace("/receipt/v1", "/receipt/v2"), "/predicateType"},
		"statement type":      {replace("in-toto.io/Statement/v1", "in-toto.io/Statement/v2"), "/_type"},
		"a member more":       {replace(`"exit_status":0`, `"exit_status":0,"fine":true`), "/predicate/fine is not a known member"},
		"a member twice":      {replace(`"exit_status":0`, `"exit_status":0,"exit_status":0`), "/predicate/exit_status is given twice"},
		"another case":        {replace(`"exit_status":0`, `"Exit_status":0`), "is not a known member"},
		"a space":             {replace(`"exit_status":0`, `"exit_status": 0`), "not in its one form"},
		"null":                {replace(`"exit_status":0`, `"exit_status":0,"reason":null`), "not in its one form"},
		"bytes after it":      {func(_ *testing.T, f *wire) { f.Envelope.Payload = append(f.Envelope.Payload, ' ') }, "not in its one form"},
		"nothing":             {func(_ *testing.T, f *wire) { f.Envelope.Payload = nil }, "can't be read"},

		"payload type": {func(_ *testing.T, f *wire) { f.Envelope.PayloadType = "application/json" }, "/envelope/payloadType"},
		"signature":    {func(_ *testing.T, f *wire) { f.Envelope.Signatures[0].Sig[0] ^= 1 }, "sig:"},
		"key id":       {func(_ *testing.T, f *wire) { f.Envelope.Signatures[0].KeyID = mallory.Public().Fingerprint() }, "keyid"},
		"no signature": {func(_ *testing.T, f *wire) { f.Envelope.Signatures = nil }, "/envelope/signatures has 0"},
		"two signatures": {func(_ *testing.T, f *wire) {
			f.Envelope.Signatures = append(f.Envelope.Signatures, f.Envelope.Signatures[0])
		}, "/envelope/signatures has 2"},
		"another's key":           {func(t *testing.T, f *wire) { f.sign(t, mallory) }, "keyid"},
		"version":                 {func(_ *testing.T, f *wire) { f.Version = 2 }, "/version is 2"},
		"another run's statement": {func(_ *testing.T, f *wire) { f.Envelope = otherRun.Envelope }, "sim.report_data"},
		"another run's evidence":  {func(_ *testing.T, f *wire) { f.Evidence = otherRun.Evidence }, "sim.report_data"},
		"evidence type":           {func(_ *testing.T, f *wire) { f.Evidence.Type = attest.SNP }, "/predicate/tee"},
		"no evidence type":        {func(_ *testing.T, f *wire) { f.Evidence.Type = "" }, "/evidence/type"},
		"report's measurement":    {func(_ *testing.T, f *wire) { f.Evidence.Report[0x90] ^= 1 }, "/predicate/measurement"},
		"report":                  {func(_ *testing.T, f *wire) { f.Evidence.Report[0x140] ^= 1 }, "sim.signature"},
		"a short report":          {func(_ *testing.T, f *wire) { f.Evidence.Report = f.Evidence.Report[:100] }, "/evidence/report"},
		"no report":               {func(_ *testing.T, f *wire) { f.Evidence.Report = nil }, "/evidence/report"},
		"no endorsements":         {func(_ *testing.T, f *wire) { f.Evidence.Endorsements = attest.Endorsements{} }, "sim.chain"},

		// Whoever holds another key signs what he likes, and the report is about
		// another one.
		"signed by a key of the host's": {func(t *testing.T, f *wire) {
			replace(w.instance.Public().String(), mallory.Public().String())(t, f)
			replace(result, lie)(t, f)
			f.sign(t, mallory)
		}, "sim.report_data"},
		// A stolen instance key changes the statement, not the report.
		"signed with the instance key": {func(t *testing.T, f *wire) {
			replace(result, lie)(t, f)
			f.sign(t, w.instance)
		}, "sim.report_data"},
		// The simulated TEE signs whatever its host wants; labels and launch field
		// keep reports of other purposes from passing.
		"a report for a connection": {func(t *testing.T, f *wire) {
			f.attest(t, w.authority, attest.ForConnections, w.manifest.Digest, w.instance.Public())
		}, "sim.report_data"},
		"a report about another key": {func(t *testing.T, f *wire) {
			f.attest(t, w.authority, attest.ForReceipt, w.manifest.Digest, mallory.Public())
		}, "sim.report_data"},
		"a VM of another manifest": {func(t *testing.T, f *wire) {
			f.attest(t, w.authority, attest.ForReceipt, manifest.Sum([]byte("other")), w.instance.Public())
		}, "sim.host_data"},
		"another host's TEE": {func(t *testing.T, f *wire) {
			other, err := sim.LoadOrCreate(t.TempDir() + "/sim")
			if err != nil {
				t.Fatal(err)
			}
			f.attest(t, other, attest.ForReceipt, w.manifest.Digest, w.instance.Public())
		}, "sim.chain"},
		// By an agent that lies, all of it signed and attested: what the manifest
		// says is known, too.
		"an input that the manifest does not name": {func(t *testing.T, f *wire) {
			replace(iris, lie)(t, f)
			f.sign(t, w.instance)
			f.attest(t, w.authority, attest.ForReceipt, w.manifest.Digest, w.instance.Public())
		}, "/predicate/datasets"},
		"a file that the manifest does not name": {func(t *testing.T, f *wire) {
			replace(model, lie)(t, f)
			f.sign(t, w.instance)
			f.attest(t, w.authority, attest.ForReceipt, w.manifest.Digest, w.instance.Public())
		}, "/predicate/files"},
		"no files at all": {func(t *testing.T, f *wire) {
			replace(`"files":[{"name":"model","sha256":"`+model+`"},{"name":"wheels","sha256":"`+manifest.Sum([]byte("wheels")).String()+`"}],`, "")(t, f)
			f.sign(t, w.instance)
			f.attest(t, w.authority, attest.ForReceipt, w.manifest.Digest, w.instance.Public())
		}, "/predicate/files"},
		"another algorithm": {func(t *testing.T, f *wire) {
			replace(w.manifest.Algorithm.SHA256.String(), lie)(t, f)
			f.sign(t, w.instance)
			f.attest(t, w.authority, attest.ForReceipt, w.manifest.Digest, w.instance.Public())
		}, "/predicate/algorithm"},
		"an approval by nobody": {func(t *testing.T, f *wire) {
			replace(w.approver.Public().Fingerprint(), mallory.Public().Fingerprint())(t, f)
			f.sign(t, w.instance)
			f.attest(t, w.authority, attest.ForReceipt, w.manifest.Digest, w.instance.Public())
		}, "/predicate/approvals"},
		"an approval that does not verify": {func(t *testing.T, f *wire) {
			replace(`"signature":"`, `"signature":"AAAA`)(t, f)
			f.sign(t, w.instance)
			f.attest(t, w.authority, attest.ForReceipt, w.manifest.Digest, w.instance.Public())
		}, "/predicate/approvals"},
		"another measurement than the report's": {func(t *testing.T, f *wire) {
			replace("07070707", "08080808")(t, f)
			f.sign(t, w.instance)
			f.attest(t, w.authority, attest.ForReceipt, w.manifest.Digest, w.instance.Public())
		}, "/predicate/measurement"},
	} {
		t.Run(name, func(t *testing.T) {
			f := open(t, good)
			tt.change(t, f)
			r, err := receipt.Verify(t.Context(), f.raw(t), w.options())
			if err == nil || r != nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v %v, want an error with %q", r, err, tt.want)
			}
		})
	}
	if _, err := receipt.Verify(t.Context(), open(t, good).raw(t), w.options()); err != nil {
		t.Errorf("not changed it is refused: %v", err)
	}
}

// A refusal by the verifier is there to be explained.
func TestRefusalOfTheEvidence(t *testing.T) {
	w := newWorld(t)
	o := w.options()
	o.Verifier = verifier{attest.SimPolicy{}}
	_, err := receipt.Verify(t.Context(), w.make(w.request()), o)
	var refusal *attest.Refusal
	if !errors.As(err, &refusal) || len(refusal.Result.Claims) == 0 {
		t.Errorf("got %v, want an *attest.Refusal", err)
	}
}

func TestParseRefuses(t *testing.T) {
	w := newWorld(t)
	good := w.make(w.request())
	for name, tt := range map[string]struct {
		raw  []byte
		want string
	}{
		"nothing":             {nil, "can't be read"},
		"an archive":          {make([]byte, 512), "not valid JSON"},
		"an array":            {[]byte("[]"), "wrong type"},
		"null":                {[]byte("null"), "/version is 0"},
		"too large":           {append(bytes.Clone(good), bytes.Repeat([]byte(" "), receipt.MaxSize)...), "at most 1048576"},
		"an unknown member":   {bytes.Replace(good, []byte(`"version": 1`), []byte(`"version": 1, "note": ""`), 1), "/note is not a known member"},
		"a member twice":      {bytes.Replace(good, []byte(`"version": 1`), []byte(`"version": 1, "version": 1`), 1), "/version is given twice"},
		"more after it":       {append(bytes.Clone(good), "{}"...), "not valid JSON"},
		"unknown in evidence": {bytes.Replace(good, []byte(`"type": "sim"`), []byte(`"type": "sim", "x": 1`), 1), "/evidence/x is not a known member"},
		"not base64":          {bytes.Replace(good, []byte(`"payload": "`), []byte(`"payload": "!`), 1), "/envelope/payload"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := receipt.Parse(tt.raw); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want an error with %q", err, tt.want)
			}
		})
	}
}

// attester is a TEE of the tests' own.
type attester func(data attest.ReportData) (attest.Evidence, error)

func (attester) Type() attest.Type                           { return attest.Sim }
func (attester) LaunchField(context.Context) ([]byte, error) { return make([]byte, 32), nil }
func (a attester) Attest(_ context.Context, d attest.ReportData) (attest.Evidence, error) {
	return a(d)
}

func TestMakeRefuses(t *testing.T) {
	w := newWorld(t)
	real := w.authority.Attester(imageDigest, w.manifest.Digest)
	calls := 0
	ecdsa, err := keys.Generate(keys.ECDSAP256)
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		change func(*receipt.Request)
		want   string
	}{
		"no attester":         {func(r *receipt.Request) { r.Attester = nil }, "incomplete"},
		"no instance":         {func(r *receipt.Request) { r.Instance = keys.Private{} }, "incomplete"},
		"no manifest":         {func(r *receipt.Request) { r.Manifest = manifest.Frozen{} }, "incomplete"},
		"another kind of key": {func(r *receipt.Request) { r.Instance = ecdsa }, "/predicate/instance"},
		"no run":              {func(r *receipt.Request) { r.Run = "" }, "/predicate/run"},
		"no outcome":          {func(r *receipt.Request) { r.Outcome = "" }, "/predicate/outcome"},
		"no result":           {func(r *receipt.Request) { r.Result = nil }, "/predicate/result"},
		"no digest":           {func(r *receipt.Request) { r.Result = &receipt.Result{} }, "/predicate/result/sha256"},
		"an unknown reason":   {func(r *receipt.Request) { r.Outcome, r.Reason = receipt.Failed, "the model leaks" }, "/predicate/reason"},
		"no times":            {func(r *receipt.Request) { r.Started, r.Finished = time.Time{}, time.Time{} }, "/predicate/host_clock/started"},
		"no report": {func(r *receipt.Request) {
			r.Attester = attester(func(attest.ReportData) (attest.Evidence, error) {
				return attest.Evidence{}, errors.New("the TEE is busy")
			})
		}, "the TEE is busy"},
		"a report of nothing": {func(r *receipt.Request) {
			r.Attester = attester(func(attest.ReportData) (attest.Evidence, error) { return attest.Evidence{Type: attest.Sim}, nil })
		}, "the TEE's own evidence"},
		"two measurements": {func(r *receipt.Request) {
			r.Attester = attester(func(d attest.ReportData) (attest.Evidence, error) {
				e, err := real.Attest(t.Context(), d)
				e.Report[0x90] = byte(calls)
				calls++
				return e, err
			})
		}, "/predicate/measurement"},
		"too much evidence": {func(r *receipt.Request) {
			r.Attester = attester(func(d attest.ReportData) (attest.Evidence, error) {
				e, err := real.Attest(t.Context(), d)
				e.EventLog = make([]byte, receipt.MaxSize)
				return e, err
			})
		}, "at most 1048576"},
	} {
		t.Run(name, func(t *testing.T) {
			req := w.request()
			tt.change(&req)
			if _, err := receipt.Make(t.Context(), req); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want an error with %q", err, tt.want)
			}
		})
	}
}

func TestEnclose(t *testing.T) {
	w := newWorld(t)
	f := open(t, w.make(w.request()))
	certificates := f.Evidence.Endorsements.Certificates
	f.Evidence.Endorsements = attest.Endorsements{}
	bare := f.raw(t)
	if _, err := receipt.Verify(t.Context(), bare, w.options()); err == nil {
		t.Fatal("it holds without endorsements")
	}
	r, err := receipt.Parse(bare)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // said twice, enclosed once
		r.Enclose(attest.Endorsements{Certificates: certificates})
	}
	raw, err := r.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	got, err := receipt.Verify(t.Context(), raw, w.options())
	if err != nil {
		t.Fatal(err)
	}
	if n := len(got.Evidence.Endorsements.Certificates); n != len(certificates) {
		t.Errorf("%d certificates are enclosed, want %d", n, len(certificates))
	}
	other, err := receipt.Parse(w.make(w.request()))
	if err != nil {
		t.Fatal(err)
	}
	if !got.Same(r) || got.Same(other) {
		t.Error("Same tells by more or less than the statement")
	}
	r.Enclose(attest.Endorsements{CRLs: [][]byte{make([]byte, receipt.MaxSize)}})
	if _, err := r.Bytes(); err == nil {
		t.Error("a receipt beyond its bound was written")
	}
}

// A receipt about a manifest without files is what it was before there were any.
func TestWithoutFiles(t *testing.T) {
	w := newWorld(t)
	m := w.manifest.Manifest
	m.Algorithm.Files = nil
	f, err := manifest.Freeze(m)
	if err != nil {
		t.Fatal(err)
	}
	w.manifest = f
	raw := w.make(w.request())
	if r, err := receipt.Verify(t.Context(), raw, w.options()); err != nil || r.Statement.Predicate.Files != nil || bytes.Contains(open(t, raw).Envelope.Payload, []byte("files")) {
		t.Errorf("%v", err)
	}
}

// The documentation names every member.
func TestDocumentation(t *testing.T) {
	b, err := os.ReadFile("../docs/receipts.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{
		"`version`", "`envelope`", "`evidence`", "`_type`", "`subject`", "`predicateType`", "`predicate.nonce`", "`predicate.run`",
		"`predicate.manifest`", "`predicate.instance`", "`predicate.tee`", "`predicate.simulated`", "`predicate.measurement`",
		"`predicate.algorithm`", "`predicate.files`", "`predicate.datasets`", "`predicate.approvals`", "`predicate.outcome`", "`predicate.reason`",
		"`predicate.exit_status`", "`predicate.result`", "`predicate.host_clock`", string(attest.ForReceipt), receipt.PredicateType,
		string(receipt.AlgorithmFailed), string(receipt.AgentFailed),
	} {
		if !strings.Contains(string(b), name) {
			t.Errorf("docs/receipts.md lacks %s", name)
		}
	}
}
