package console

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/ultravioletrs/cocos/internal/computations"
	"github.com/ultravioletrs/cocos/internal/vm"
	"github.com/ultravioletrs/cocos/manifest"
	"github.com/ultravioletrs/cocos/receipt"
)

// claim is one thing that was said of a VM, in plain words. Verdict is "agrees" or
// "differs" where the service can compare it with the manifest, and "said" where it
// can't: it never verifies evidence, and so never says more.
type claim struct {
	Text    string
	Detail  string
	Verdict string
}

// attestation is what a run's host told of its VM.
type attestation struct {
	Claims    []claim
	Simulated bool
	// Attested: the agent says that it shows evidence to whoever connects.
	Attested bool
	// Command checks it.
	Command string
}

// attestationOf reads the event by which the agent says that it is ready.
func (q *call) attestationOf(v *computations.View, run *computations.Run) (*attestation, error) {
	ready, err := q.c.Service.Entries(q.r.Context(), q.who, run.ID, computations.EntryFilter{
		Types: []computations.EntryType{computations.EntryEvent}, Sources: []string{"agent"}, Kind: vm.EventReady, Backward: true, Limit: 1,
	})
	if err != nil {
		return nil, err
	}
	if len(ready) == 0 || v.Frozen == nil {
		return nil, nil
	}
	return readyClaims(v, run, ready[0].Attributes), nil
}

// readyClaims says in words what the agent's event tells.
func readyClaims(v *computations.View, run *computations.Run, said map[string]string) *attestation {
	f := v.Frozen
	a := &attestation{Simulated: run.Simulated || said["simulated"] == "true", Attested: said["attested"] == "true"}
	tee := manifest.TEE(said["tee"])
	switch {
	case tee == "" || tee == manifest.TEENone:
		c := claim{Text: "The VM says that it has no TEE. Its host can read everything in it.", Verdict: "said"}
		if f.TEE != manifest.TEENone {
			c.Text, c.Verdict = "The VM doesn't say that it has a TEE. The manifest asks for "+inTEE(f.TEE)+".", "differs"
		}
		a.Claims = append(a.Claims, c)
	default:
		c := claim{Text: "The VM says that it runs in " + inTEE(tee) + ", as the manifest asks.", Verdict: "agrees"}
		if f.TEE != tee {
			c.Text, c.Verdict = "The VM says that it runs in "+inTEE(tee)+". The manifest asks for "+inTEE(f.TEE)+".", "differs"
		}
		a.Claims = append(a.Claims, c)
	}
	if d := said["manifest_digest"]; d != "" {
		c := claim{Text: "It says that it enforces the manifest of this computation.", Detail: d, Verdict: "agrees"}
		if d != f.Digest.String() {
			c.Text, c.Verdict = "It names another manifest than this computation's.", "differs"
		}
		a.Claims = append(a.Claims, c)
	}
	if f.AttestedTLS {
		c := claim{Text: "It shows evidence to everybody who connects. Your client appraises it by your own policy before it sends anything.", Verdict: "said"}
		if !a.Attested {
			c.Text, c.Verdict = "It doesn't say that it shows evidence. The manifest asks for attested connections, and clients will refuse it.", "differs"
		}
		a.Claims = append(a.Claims, c)
	} else {
		a.Claims = append(a.Claims, claim{Text: "The manifest doesn't ask for evidence. Participants trust the host.", Verdict: "said"})
	}
	if i := said["instance"]; i != "" {
		a.Claims = append(a.Claims, claim{Text: "This VM's own key, made at its start, has this fingerprint. Your client remembers it and warns you of a second VM.", Detail: i, Verdict: "said"})
	}
	a.Command = checkCommand(v, run)
	return a
}

// checkCommand appraises the VM on the reader's own machine; empty: there is none
// to connect to, or its host tells no address and key that could be one.
func checkCommand(v *computations.View, run *computations.Run) string {
	agent, ok := run.AgentFlags(v.Frozen.AttestedTLS)
	if !ok || run.State.Ended() {
		return ""
	}
	words := append([]string{"state"}, agent...)
	words = append(words, "--manifest", v.ManifestFile(), "--key", cmp.Or(v.KeyFile, "YOUR-KEY.pem"))
	if v.Frozen.AttestedTLS {
		words = append(words, "--policy", computations.PolicyFile)
	}
	return computations.CommandLine(words...)
}

// receiptPage is a receipt in plain words.
type receiptPage struct {
	computations.Receipt
	Claims  []claim
	Command string
	// Unreadable says why it can't be read; empty: it can.
	Unreadable string
}

// receiptOf is a run's receipt, for those who may see it; nil: there is none.
func (q *call) receiptOf(v *computations.View, run *computations.Run) (*receiptPage, error) {
	if !has(v.Allowed, computations.ReceiptShow) || v.Frozen == nil {
		return nil, nil
	}
	r, err := q.c.Service.Receipt(q.r.Context(), q.who, run.ID)
	if kindOf(err) == computations.NotFound {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	p := &receiptPage{Receipt: r, Command: computations.CommandLine("receipt", "verify", run.ReceiptFile(),
		"--manifest", v.ManifestFile(), "--policy", computations.PolicyFile, "--result", run.ResultFolder())}
	parsed, err := receipt.Parse(r.Raw)
	if err != nil {
		p.Unreadable = sentence(err.Error())
		return p, nil
	}
	p.Claims = receiptClaims(v.Frozen, run, &parsed.Statement.Predicate)
	return p, nil
}

// receiptClaims compares a receipt's statement with the manifest and the run.
func receiptClaims(f *manifest.Frozen, run *computations.Run, p *receipt.Predicate) []claim {
	var all []claim
	compare := func(ok bool, yes, no, detail string) {
		c := claim{Text: yes, Detail: detail, Verdict: "agrees"}
		if !ok {
			c.Text, c.Verdict = no, "differs"
		}
		all = append(all, c)
	}
	say := func(text, detail string) { all = append(all, claim{text, detail, "said"}) }

	outcome := "The algorithm ran to its end."
	if p.Outcome != receipt.Succeeded {
		outcome = "The run failed: " + strings.ReplaceAll(string(p.Reason), "-", " ") + "."
	}
	if p.ExitStatus != nil {
		outcome += fmt.Sprintf(" Its exit status was %d.", *p.ExitStatus)
	}
	if p.Signal != "" {
		outcome += " The signal " + p.Signal + " ended it."
	}
	if p.Limit != "" {
		outcome += " It exceeded the limit " + strings.ReplaceAll(p.Limit, "_", " ") + "."
	}
	say(outcome, "")
	switch {
	case p.Result != nil:
		say("The result archive has "+size(p.Result.Size)+" and this digest.", p.Result.SHA256.String())
	case len(p.Results) == 0:
		say("There is no result.", "")
	}
	for _, r := range p.Results {
		say("The result archive for the key "+cut(r.Consumer)+" has this digest.", r.SHA256.String())
	}
	compare(p.Manifest == f.Digest, "It is about the manifest of this computation.", "It is about another manifest than this computation's.", p.Manifest.String())
	compare(p.Run == string(run.ID), "It is about this run.", "It is about another run.", "")
	compare(sameInputs(f, p), "The algorithm, its files and the datasets are those of the manifest.", "Its algorithm, files or datasets are not those of the manifest.", "")
	if n := len(f.Approvals); n > 0 {
		missing := 0
		for _, k := range f.Approvals {
			if !slices.ContainsFunc(p.Approvals, func(a receipt.Approval) bool { return a.Key == k.Fingerprint() }) {
				missing++
			}
		}
		compare(missing == 0, "The agent had "+count(n, "approval")+", all that the manifest asks for.", fmt.Sprintf("%d of %d approvals are not in it.", missing, n), "")
	}
	tee := manifest.TEE(p.TEE)
	if p.Simulated {
		say("The TEE was SIMULATED by its host. That protects nothing and proves nothing.", "")
	}
	compare(tee == f.TEE, "It ran in "+inTEE(tee)+", as the manifest asks.", "It ran in "+inTEE(tee)+". The manifest asks for "+inTEE(f.TEE)+".", "")
	for _, name := range sortedKeys(p.Measurement) {
		say("The TEE measured the software in the VM as this ("+name+").", fmt.Sprint(p.Measurement[name]))
	}
	say("It is signed with this VM's own key.", p.Instance.Fingerprint())
	return all
}

func sameInputs(f *manifest.Frozen, p *receipt.Predicate) bool {
	if (manifest.Content{SHA256: p.Algorithm, Commitment: p.AlgorithmCommitment}) != f.Algorithm.Content() ||
		len(p.Datasets) != len(f.Datasets) || len(p.Files) != len(f.Algorithm.Files) {
		return false
	}
	for i, file := range f.Algorithm.Files {
		if p.Files[i].Name != file.Name || (manifest.Content{SHA256: p.Files[i].SHA256, Commitment: p.Files[i].Commitment}) != file.Content() {
			return false
		}
	}
	for i, d := range f.Datasets {
		if p.Datasets[i].Name != d.Name || (manifest.Content{SHA256: p.Datasets[i].SHA256, Commitment: p.Datasets[i].Commitment}) != d.Content() {
			return false
		}
	}
	return true
}
