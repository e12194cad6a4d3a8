package console

import (
	"github.com/ultravioletrs/cocos/internal/computations"
	"github.com/ultravioletrs/cocos/manifest"
)

// computationPage is one computation as one user sees it.
type computationPage struct {
	computations.View
	// State is how far it is, in words.
	State state
	Path  []step
	// Next is what the reader does next.
	Next []computations.Todo
	// Waits are those whose approval is missing.
	Waits []computations.Party
	// Brings is what the reader brings to the draft; nil: nothing.
	Brings *supplyPage
	// Slots is the draft's or the manifest's inputs, in words.
	Slots []slotLine
	// Said is what the newest run's host told of its VM; nil: nothing.
	Said *attestation
	// Receipt is the newest run's, for consumers; nil: there is none.
	Receipt *receiptPage
	LastRun *computations.Run
}

// May tells whether the reader may do something now.
func (p *computationPage) May(a string) bool { return has(p.Allowed, computations.Action(a)) }

// Is tells whether the reader has a part.
func (p *computationPage) Is(part string) bool { return has(p.Mine, computations.Part(part)) }

// Simulated: the manifest asks for a TEE that protects nothing, or a run had one.
func (p *computationPage) Simulated() bool {
	return p.Draft.TEE == manifest.TEESim || p.LastRun != nil && p.LastRun.Simulated
}

// ShowCommand reads the manifest on the reader's own machine, with the reader's key
// marked in it.
func (p *computationPage) ShowCommand() string {
	words := []string{"manifest", "show", p.ManifestFile()}
	if p.KeyFile != "" {
		words = append(words, "--key", p.KeyFile)
	}
	return computations.CommandLine(words...)
}

// step of a computation's way. Where is "done", "now" or "later".
type step struct{ ID, Text, Where string }

func pathOf(stage computations.Stage) []step {
	names := []string{"Draft", "Approvals", "Run", "Result"}
	at := map[computations.Stage]int{
		computations.StageDraft: 0, computations.StageApprovals: 1, computations.StageReady: 2,
		computations.Stage(computations.RunFinished): 4,
	}
	now, known := at[stage]
	if !known {
		now = 2
	}
	steps := make([]step, len(names))
	for i, n := range names {
		where := "later"
		if i < now {
			where = "done"
		} else if i == now {
			where = "now"
		}
		steps[i] = step{Text: n, Where: where}
	}
	return steps
}

// slotLine is an input and who brings it.
type slotLine struct {
	Name string
	// Kind is "Algorithm" or "Dataset".
	Kind string
	By   string
	// Asset is the draft's; Digest and Size the manifest's, too.
	Asset  *computations.Asset
	Digest string
	Size   int64
	Folder bool
	// Committed: Digest is a commitment.
	Committed bool
	// Files and Python come with the algorithm; the agent takes a dataset from Source.
	Files  []manifest.File
	Python manifest.Packages
	Source manifest.Source
}

// supplyPage is what a reader can bring to a draft.
type supplyPage struct {
	KeyChoices []choice
	Key        *form
	// NoKey: the reader has none registered.
	NoKey bool
	Slots []supplySlot
}

type supplySlot struct {
	Label, Slot, Kind string
	Assets            []choice
	asset             string
}

// Chosen are the assets, with the draft's own chosen.
func (s supplySlot) Chosen() []choice {
	return newForm(nil).set("asset", s.asset).Select("asset", s.Label, s.Assets).Choices
}

func (q *call) computation() (computations.View, *place, error) {
	v, err := q.c.Service.Computation(q.r.Context(), q.who, q.id("computation"))
	if err != nil {
		return v, nil, err
	}
	in, err := q.in(v.Workspace)
	return v, in, err
}

func showComputation(q *call) error {
	v, err := q.computationView()
	if err != nil {
		return err
	}
	return q.page("computation", v)
}

func (q *call) computationView() (view, error) {
	c, in, err := q.computation()
	if err != nil {
		return view{}, err
	}
	p := &computationPage{View: c, State: stateOf(c.Stage), Path: pathOf(c.Stage), Next: c.Todo}
	for _, party := range c.Parties {
		if party.MustApprove && party.Approved.IsZero() {
			p.Waits = append(p.Waits, party)
		}
	}
	if p.Slots, err = q.slots(&c); err != nil {
		return view{}, err
	}
	if p.Is("dataset-provider") || p.Is("algorithm-provider") || p.Is("consumer") {
		if p.Brings, err = q.supplyOf(&c); err != nil {
			return view{}, err
		}
	}
	if len(c.Runs) > 0 {
		p.LastRun = &c.Runs[0]
		if p.Said, err = q.attestationOf(&c, p.LastRun); err != nil {
			return view{}, err
		}
		if p.Receipt, err = q.receiptOf(&c, p.LastRun); err != nil {
			return view{}, err
		}
	}
	return view{Title: c.Draft.Name, Section: "computations", In: in, Data: p, Above: above(in, nil)}, nil
}

// digestText has the digits by which an input is named; pages say which they are
// where it counts.
func digestText(c manifest.Content) string {
	if c.Committed() {
		return c.Commitment.String()
	}
	return c.SHA256.String()
}

// slots says what goes in, from the manifest where there is one.
func (q *call) slots(v *computations.View) ([]slotLine, error) {
	names := map[computations.ID]string{}
	for _, p := range v.Parties {
		names[p.User] = p.Name
	}
	line := func(kind, name string, by, asset computations.ID) (slotLine, error) {
		l := slotLine{Kind: kind, Name: name, By: names[by]}
		if asset == "" {
			return l, nil
		}
		a, err := q.c.Service.Asset(q.r.Context(), q.who, asset)
		if kindOf(err) == computations.NotFound {
			return l, nil
		} else if err != nil {
			return l, err
		}
		l.Committed = a.Content().Committed()
		l.Asset, l.Digest, l.Size, l.Folder = &a, digestText(a.Content()), a.Size, a.Kind == computations.AssetDataset && a.UnpackedMax > 0
		return l, nil
	}
	d := &v.Draft
	first, err := line("Algorithm", "", d.Algorithm.Provider, d.Algorithm.Asset)
	if err != nil {
		return nil, err
	}
	all := []slotLine{first}
	for _, s := range d.Datasets {
		l, err := line("Dataset", s.Name, s.Provider, s.Asset)
		if err != nil {
			return nil, err
		}
		all = append(all, l)
	}
	plan := &v.Plan
	all[0].Files, all[0].Python = plan.Algorithm.Files, plan.Algorithm.Python
	for i := range min(len(plan.Datasets), len(all)-1) {
		all[i+1].Source = plan.Datasets[i].Source
	}
	if f := v.Frozen; f != nil {
		// What was frozen counts, whatever became of the assets.
		all[0].Committed = f.Algorithm.Content().Committed()
		all[0].Digest, all[0].Size = digestText(f.Algorithm.Content()), f.Algorithm.Size
		for i := range f.Datasets {
			if i+1 < len(all) {
				all[i+1].Committed = f.Datasets[i].Content().Committed()
				all[i+1].Digest, all[i+1].Size, all[i+1].Folder = digestText(f.Datasets[i].Content()), f.Datasets[i].Size, f.Datasets[i].UnpackedMax > 0
			}
		}
	}
	return all, nil
}

// supplyOf is what the reader can name of the own; nil where nothing can be.
func (q *call) supplyOf(v *computations.View) (*supplyPage, error) {
	if !has(v.Allowed, computations.ComputationSupply) {
		return nil, nil
	}
	p := &supplyPage{Key: newForm(nil).set("key", string(v.Draft.Keys[q.who.User]))}
	keys, err := q.c.Service.Keys(q.r.Context(), q.who)
	if err != nil {
		return nil, err
	}
	for _, k := range keys {
		if k.Revoked.IsZero() {
			p.KeyChoices = append(p.KeyChoices, choice{Value: string(k.ID), Text: k.Name + " – " + k.Public.Fingerprint()[:19] + "…"})
		}
	}
	p.NoKey = len(p.KeyChoices) == 0
	own := map[computations.AssetKind][]choice{}
	for _, kind := range []computations.AssetKind{computations.AssetAlgorithm, computations.AssetDataset} {
		assets, err := q.c.Service.Assets(q.r.Context(), q.who, computations.AssetFilter{Workspace: v.Workspace, Kind: kind, Owner: q.who.User}, computations.Page{})
		if err != nil {
			return nil, err
		}
		for _, a := range assets {
			own[kind] = append(own[kind], choice{Value: string(a.ID), Text: a.Name + ", " + size(a.Size)})
		}
	}
	slot := func(label, slot string, kind computations.AssetKind, asset computations.ID) {
		p.Slots = append(p.Slots, supplySlot{Label: label, Slot: slot, Kind: string(kind), Assets: own[kind], asset: string(asset)})
	}
	mine := func(by computations.ID, part computations.Part) bool {
		return by == q.who.User || by == "" && has(v.Mine, part)
	}
	if mine(v.Draft.Algorithm.Provider, computations.PartAlgorithm) {
		slot("the algorithm", "algorithm", computations.AssetAlgorithm, v.Draft.Algorithm.Asset)
	}
	for _, d := range v.Draft.Datasets {
		if mine(d.Provider, computations.PartDataset) {
			slot("the dataset "+d.Name, "datasets/"+d.Name, computations.AssetDataset, d.Asset)
		}
	}
	return p, nil
}

func supply(q *call) error {
	err := q.c.Service.Supply(q.r.Context(), q.who, q.id("computation"), computations.Supply{
		Key: computations.ID(q.post("key")), Slot: q.post("slot"), Asset: computations.ID(q.post("asset")),
	})
	if err != nil {
		return err
	}
	return q.done("/c/"+string(q.id("computation")), "supplied")
}
