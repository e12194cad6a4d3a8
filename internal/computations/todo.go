package computations

import (
	"fmt"
	"slices"
	"strings"
)

// Todo is one thing that a user does next, in the order of the list.
type Todo struct {
	// Action is what it is part of.
	Action Action
	// Text says it in plain words.
	Text string
	// Command is what to type for it on one's own machine; empty: it is done in the
	// console, or by waiting. No command weakens a check: what a participant accepts
	// is its own to decide, and never this service's.
	Command string
}

// Texts of the steps to a first key, wherever they are told.
const (
	// InstallText: what checks everything for its user had better not come from
	// those whom it checks.
	InstallText = "Install the command-line program, cocos-cli, on your own machine, if it isn't there: docs/install.md at " +
		"https://github.com/ultravioletrs/cocos has the ways. It checks all the others for you, so take it from nobody whom you don't trust."
	// TokenText is for accounts without a password.
	TokenText = "Sign in with it. Your account has no password: make an access token in Settings, start the command, paste the token, and press Enter and Ctrl-D."
)

// steps collects what one user does next.
type steps struct {
	v    *View
	me   *Party // nil: no party
	keys []Key  // in use
	// assets are the names of the asker's, by ID.
	assets map[ID]string
	all    []Todo
}

func (t *steps) add(a Action, text, command string) {
	t.all = append(t.all, Todo{Action: a, Text: text, Command: command})
}

func (t *steps) has(p Part) bool { return slices.Contains(t.v.Mine, p) }

func (t *steps) may(a Action) bool { return slices.Contains(t.v.Allowed, a) }

// todo is what the asker does next; it also notes what the asker's key is called.
func (s *Service) todo(r Reader, v *View, x *access) ([]Todo, error) {
	t := &steps{v: v, me: v.me(x.user.ID), assets: map[ID]string{}}
	var err error
	if t.keys, err = r.KeysOf(x.user.ID); err != nil {
		return nil, err
	}
	t.keys = slices.DeleteFunc(t.keys, func(k Key) bool { return !k.Revoked.IsZero() })
	v.KeyFile = t.keyFile()
	if !v.Archived.IsZero() {
		return nil, nil
	}
	if err := t.named(r, x.user.ID); err != nil {
		return nil, err
	}
	switch {
	case v.Frozen == nil:
		if slices.ContainsFunc(v.Mine, ofManifest) {
			if err := s.bring(r, t, x); err != nil {
				return nil, err
			}
		}
		t.complete(x)
	case v.Stage == StageApprovals:
		t.approve()
	case v.active() != nil:
		if err := t.take(r, v.active()); err != nil {
			return nil, err
		}
	default:
		if len(v.Runs) > 0 {
			t.look(&v.Runs[0])
		}
		t.start()
	}
	return t.all, nil
}

// named notes what the asker's assets in this computation are called.
func (t *steps) named(r Reader, user ID) error {
	ids := []ID{t.v.Draft.Algorithm.Asset}
	for _, slot := range t.v.Draft.Datasets {
		ids = append(ids, slot.Asset)
	}
	for _, id := range ids {
		if id == "" {
			continue
		}
		a, err := r.Asset(id)
		if err != nil {
			return err
		}
		if a.Owner == user {
			t.assets[id] = a.Name
		}
	}
	return nil
}

// bring is what a party does for a draft: a key, and what it provides.
func (s *Service) bring(r Reader, t *steps, x *access) error {
	before := len(t.all)
	chosen := t.v.Draft.Keys[x.user.ID]
	switch {
	case len(t.keys) == 0:
		prefix := KeyPrefix(x.user.Email)
		t.add(ComputationSupply, InstallText, "")
		if x.user.PasswordHash != "" {
			t.add(ComputationSupply, "Sign in with it.", s.LoginCommand(true))
		} else {
			t.add(ComputationSupply, TokenText, s.LoginCommand(false))
		}
		t.add(ComputationSupply, "Make a key pair. The private half stays on your machine: nobody can replace it, so keep it safe.", CommandLine("keys", "--out", prefix))
		t.add(ComputationSupply, "Register the public half here. The command proves that you have the private one, and sends only the public one.", CommandLine("keys", "register", prefix+".pem"))
	case t.me != nil && t.me.Key == nil && slices.Contains(t.v.Draft.users(), x.user.ID), chosen == "" && len(t.keys) > 1:
		t.add(ComputationSupply, "Say which of your keys you use in this computation; the command names the newest.",
			CommandLine("computations", "supply", string(t.v.ID), "--key", t.keys[0].Public.Fingerprint()))
	}
	a := &t.v.Draft.Algorithm
	if t.has(PartAlgorithm) && a.Asset == "" && (a.Provider == x.user.ID || a.Provider == "") {
		if err := t.describe(r, x, AssetAlgorithm, "", "the algorithm", "algorithm.py"); err != nil {
			return err
		}
	}
	// A slot that is nobody's is offered to those who were asked and have none.
	named := slices.ContainsFunc(t.v.Draft.Datasets, func(d DatasetSlot) bool { return d.Provider == x.user.ID })
	for _, slot := range t.v.Draft.Datasets {
		free := slot.Provider == "" && !named
		if t.has(PartDataset) && slot.Asset == "" && (slot.Provider == x.user.ID || free) {
			if err := t.describe(r, x, AssetDataset, slot.Name, "the dataset "+slot.Name, slot.Name); err != nil {
				return err
			}
		}
	}
	if len(t.all) == before {
		t.add(ComputationShow, "You have brought all that this draft asks of you. When it is frozen, it comes back to you.", "")
	}
	return nil
}

// describe is for a slot that has no asset yet.
func (t *steps) describe(r Reader, x *access, kind AssetKind, slot, what, file string) error {
	own, err := r.Assets(AssetFilter{Workspace: x.workspace.ID, Kind: kind, Owner: x.user.ID}, Page{}.bounded())
	if err != nil {
		return err
	}
	asset := file // what describing it calls it
	if len(own) == 0 {
		t.add(ComputationSupply, "Describe "+what+": the command computes size and digest, and sends these. The file itself stays with you.",
			CommandLine("assets", "add", file, "--kind", string(kind), "--workspace", string(x.workspace.ID)))
	} else {
		asset = string(own[0].ID)
	}
	words := []string{"computations", "supply", string(t.v.ID), "--algorithm", asset}
	if kind == AssetDataset {
		words = []string{"computations", "supply", string(t.v.ID), "--dataset", slot + "=" + asset}
	}
	text := "Say that this asset is " + what + "."
	switch {
	case len(own) == 1:
		text = "Say which of your assets is " + what + "; you have one, " + own[0].Name + "."
	case len(own) > 1:
		text = "Say which of your assets is " + what + "; the command names the newest, " + own[0].Name + "."
	}
	t.add(ComputationSupply, text, CommandLine(words...))
	return nil
}

// complete is what editors do with a draft.
func (t *steps) complete(x *access) {
	if !Allow(x.standing, ComputationFreeze) {
		return
	}
	if len(t.v.Missing) == 0 {
		t.add(ComputationFreeze, "Everything is there. Freeze the draft: from then on nothing in it can change, and its parties approve it.",
			CommandLine("computations", "freeze", string(t.v.ID)))
		return
	}
	text := "Complete the draft. It still needs: " + strings.Join(t.v.Missing, "; ") + "."
	if len(t.v.Invitations) > 0 {
		var who []string
		for _, inv := range t.v.Invitations {
			who = append(who, inv.Email)
		}
		text += " Invited, and without an answer: " + strings.Join(who, ", ") + "."
	}
	t.add(ComputationEdit, text, "")
}

// approve is what parties do with a manifest.
func (t *steps) approve() {
	var waits []string
	for _, p := range t.v.Parties {
		if p.MustApprove && p.Approved.IsZero() {
			waits = append(waits, p.Email)
		}
	}
	if !t.may(ComputationApprove) {
		t.add(ComputationShow, "The manifest is frozen. Wait for the approval of "+strings.Join(waits, ", ")+".", "")
		return
	}
	t.fetchManifest(ComputationApprove)
	t.add(ComputationApprove, "Read what it says, on your own machine: who brings what, who gets the result, and how it is protected.",
		CommandLine("manifest", "show", t.v.ManifestFile(), "--key", t.v.KeyFile))
	var others []string
	for _, p := range t.v.Parties {
		if p.Key != nil && p.User != t.me.User {
			others = append(others, p.Email)
		}
	}
	if len(others) > 0 {
		// No more than an example: the fingerprint comes from a person, or is worth nothing.
		example := CommandLine("contacts", "add", others[0]) + " --fingerprint sha256:…"
		if len(others) > 1 {
			example += ", and likewise for the others"
		}
		t.add(ComputationApprove, "Ask "+strings.Join(others, ", ")+" for the fingerprint of their key over another channel, such as the telephone, "+
			"and note it as it is read to you: "+example+". Take none from this page: a service that lies would show you keys of its own.", "")
	}
	t.add(ComputationApprove, "Approve it. Your key signs the digest of the manifest that the command shows you, on your machine.",
		CommandLine("computations", "approve", string(t.v.ID), "--key", t.v.KeyFile))
}

func (t *steps) fetchManifest(a Action) {
	t.add(a, "Get the manifest onto your machine.", CommandLine("computations", "manifest", string(t.v.ID), "--out", t.v.ManifestFile()))
}

// start is what happens between runs.
func (t *steps) start() {
	if t.may(ComputationRun) {
		if t.brokered() {
			t.policy()
		}
		t.brokers()
		t.add(ComputationRun, "Everything is approved. Start a run when all parties are ready to bring what they provide.",
			CommandLine("computations", "run", string(t.v.ID)))
		return
	}
	if len(t.v.Runs) > 0 {
		return
	}
	t.add(ComputationShow, "Everything is approved. Wait until it is started.", "")
	if t.brokered() || slices.ContainsFunc(t.v.Mine, ofManifest) && t.v.Frozen.AttestedTLS {
		t.policy()
	}
	t.brokers()
}

// look is what to do with a run that ended.
func (t *steps) look(run *Run) {
	if run.State != RunFinished {
		t.add(RunShow, fmt.Sprintf("Run %d %s: %s.", run.Number, run.State, orUnknown(run.Reason)), "")
		if do := Advice(run.Reason); do != "" {
			t.add(RunShow, do, "")
		}
		return
	}
	if !t.has(PartConsumer) || !t.v.Frozen.AttestedTLS {
		return
	}
	out, receipt := run.ResultFolder(), run.ReceiptFile()
	t.add(ReceiptShow, "Verify the receipt by your own policy. It was kept beside the result.",
		CommandLine("receipt", "verify", receipt, "--policy", PolicyFile, "--manifest", t.v.ManifestFile(), "--result", out))
	t.add(ReceiptSubmit, "Hand in the receipt, if the other consumers shall find it here. The service keeps it, and can't vouch for it.",
		CommandLine("computations", "receipt", "submit", string(run.ID), receipt))
}

func orUnknown(reason string) string {
	if reason == "" {
		return "no reason was told"
	}
	return reason
}
