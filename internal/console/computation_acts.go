package console

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"

	"github.com/ultravioletrs/cocos/internal/computations"
	"github.com/ultravioletrs/cocos/manifest"
)

// peoplePage is who has which part.
type peoplePage struct {
	computations.View
	People []person
	Forms  map[computations.ID]*form
}

type person struct {
	computations.Member
	Parts []computations.Part
	Form  *form
	// Creator stays one.
	Creator bool
	Choices []choice
}

func (q *call) peopleView() (view, error) {
	c, in, err := q.computation()
	if err != nil {
		return view{}, err
	}
	if err := q.allow(has(c.Allowed, computations.ComputationParts), computations.ComputationParts); err != nil {
		return view{}, err
	}
	members, err := q.c.Service.Members(q.r.Context(), q.who, in.ID)
	if err != nil {
		return view{}, err
	}
	p := peoplePage{View: c}
	for _, m := range members {
		one := person{Member: m, Form: newForm(nil).in(string(m.User))}
		if i := slices.IndexFunc(c.Parties, func(x computations.Party) bool { return x.User == m.User }); i >= 0 {
			one.Parts = c.Parties[i].Parts
		}
		for _, part := range one.Parts {
			one.Form.values.Add("parts", string(part))
			one.Creator = one.Creator || part == computations.PartCreator
		}
		one.Choices = partChoices()
		p.People = append(p.People, one)
	}
	return view{Title: "People", Section: "computations", In: in, Data: p, Above: above(in, &c.Computation)}, nil
}

func showPeople(q *call) error {
	v, err := q.peopleView()
	if err != nil {
		return err
	}
	return q.page("people", v)
}

func setParts(q *call) error {
	var parts []computations.Part
	for _, p := range q.r.PostForm["parts"] {
		parts = append(parts, computations.Part(p))
	}
	if err := q.c.Service.SetParts(q.r.Context(), q.who, q.id("computation"), q.id("user"), parts); err != nil {
		v, failed := q.peopleView()
		if failed != nil {
			return err
		}
		v.Form = q.posted()
		return q.again(err, "people", v)
	}
	return q.done("/c/"+string(q.id("computation"))+"/people", "parts")
}

func askFreeze(q *call) error {
	c, in, err := q.computation()
	if err != nil {
		return err
	}
	here := "/c/" + string(c.ID)
	v := view{Title: "Freeze the manifest?", Section: "computations", In: in, Above: above(in, &c.Computation)}
	if len(c.Missing) > 0 && c.Manifest == nil && (has(c.Mine, computations.PartCreator) || has(c.Mine, computations.PartEditor)) {
		v.Title = "The draft can't be frozen yet"
		return q.ask(v, question{Texts: []string{"These are missing:"}, Items: sentenceList(c.Missing), Back: here})
	}
	if err := q.allow(has(c.Allowed, computations.ComputationFreeze), computations.ComputationFreeze); err != nil {
		return err
	}
	return q.ask(v, question{
		Texts: []string{
			"Freezing turns the draft into the manifest that everybody approves: people become their keys, assets their digests.",
			"A frozen manifest never changes. To change something later, copy the computation; the copy needs new approvals.",
		},
		Items:  reach(&c.Plan),
		Action: "Freeze the manifest", To: here + "/freeze", Back: here, Danger: true,
		Hidden: map[string]string{"revision": fmt.Sprint(c.Revision)},
	})
}

func sentenceList(texts []string) []string {
	all := make([]string, len(texts))
	for i, t := range texts {
		all[i] = sentence(t)
	}
	return all
}

func freeze(q *call) error {
	revision, err := wholeNumber("revision", q.post("revision"), 0, 1<<53)
	if err != nil {
		return err
	}
	if _, err := q.c.Service.Freeze(q.r.Context(), q.who, q.id("computation"), revision); err != nil {
		return err
	}
	return q.done("/c/"+string(q.id("computation")), "frozen")
}

func (q *call) approveView(f *form) (view, error) {
	c, in, err := q.computation()
	if err != nil {
		return view{}, err
	}
	if c.Frozen == nil {
		return view{}, &computations.Error{Kind: computations.Conflict, Message: "there is no manifest to approve yet", Hint: "it comes when the draft is frozen"}
	}
	if !has(c.Allowed, computations.ComputationApprove) {
		if err := q.allow(computationsAllow(in, &c, computations.ComputationApprove), computations.ComputationApprove); err != nil {
			return view{}, err
		}
		return view{}, &computations.Error{Kind: computations.Conflict, Message: "there is nothing for you to approve here", Hint: "you have approved it already, or the manifest doesn't ask you to"}
	}
	p := &computationPage{View: c}
	if p.Slots, err = q.slots(&c); err != nil {
		return view{}, err
	}
	return view{Title: "Approve the manifest", Section: "computations", In: in, Form: f, Above: above(in, &c.Computation), Data: p}, nil
}

func showApprove(q *call) error {
	v, err := q.approveView(newForm(nil))
	if err != nil {
		return err
	}
	return q.page("approve", v)
}

func approve(q *call) error {
	raw, err := q.fileOrText("approval")
	var a manifest.Approval
	if err == nil {
		if json.Unmarshal(raw, &a) != nil || a.PublicKey.IsZero() {
			err = invalid("approval", "is not what cocos-cli manifest approve prints", "run the command, and put in all that it prints")
		}
	}
	if err == nil {
		err = q.c.Service.Approve(q.r.Context(), q.who, q.id("computation"), a)
	}
	if err != nil {
		v, failed := q.approveView(q.posted())
		if failed != nil {
			return err
		}
		for _, e := range refusals(err) {
			e.Field = "approval" // the page has this one field
		}
		return q.again(err, "approve", v)
	}
	return q.done("/c/"+string(q.id("computation")), "approved")
}

// fileOrText is a file that was sent, or the text that was put in its place.
func (q *call) fileOrText(name string) ([]byte, error) {
	if f, _, err := q.r.FormFile(name); err == nil {
		defer f.Close()
		b, err := io.ReadAll(f)
		if err != nil {
			return nil, fmt.Errorf("reading the file that was sent: %w", err)
		}
		if len(b) > 0 {
			return b, nil
		}
	} else if err != http.ErrMissingFile && err != http.ErrNotMultipart {
		return nil, invalid(name, "can't be read", "choose the file again")
	}
	if text := strings.TrimSpace(q.r.PostForm.Get(name + "_text")); text != "" {
		return []byte(text), nil
	}
	return nil, invalid(name, "is missing", "choose a file, or put in its text")
}

// checkPage is a dry run.
type checkPage struct {
	computations.View
	Checks []computations.Check
	OK     bool
}

func showCheck(q *call) error {
	c, in, err := q.computation()
	if err != nil {
		return err
	}
	p := checkPage{View: c, OK: true}
	if p.Checks, err = q.c.Service.DryRun(q.r.Context(), q.who, c.ID); err != nil {
		return err
	}
	for _, k := range p.Checks {
		p.OK = p.OK && k.OK
	}
	return q.page("check", view{Title: "Dry run", Section: "computations", In: in, Data: &p, Above: above(in, &c.Computation)})
}

func (p *checkPage) MayRun() bool { return has(p.Allowed, computations.ComputationRun) }

func startRun(q *call) error {
	run, err := q.c.Service.StartRun(q.r.Context(), q.who, q.id("computation"))
	if err != nil {
		return err
	}
	return q.done("/r/"+string(run.ID), "started")
}

// runsPage is a computation's history.
type runsPage struct {
	computations.View
	All   []computations.Run
	Older string
}

func showRuns(q *call) error {
	c, in, err := q.computation()
	if err != nil {
		return err
	}
	p := runsPage{View: c}
	p.All, err = q.c.Service.Runs(q.r.Context(), q.who, c.ID, computations.Page{Before: computations.ID(q.r.URL.Query().Get("before")), Limit: pageLength + 1})
	if err != nil {
		return err
	}
	if len(p.All) > pageLength {
		p.All = p.All[:pageLength]
		p.Older = older(q.r.URL.Query(), string(p.All[pageLength-1].ID))
	}
	return q.page("runs", view{Title: "Runs", Section: "computations", In: in, Data: p, Above: above(in, &c.Computation)})
}

func copyComputation(q *call) error {
	c, err := q.c.Service.CopyComputation(q.r.Context(), q.who, q.id("computation"))
	if err != nil {
		return err
	}
	return q.done("/c/"+string(c.ID), "copied")
}

func downloadManifest(q *call) error {
	c, err := q.c.Service.Computation(q.r.Context(), q.who, q.id("computation"))
	if err != nil {
		return err
	}
	if c.Frozen == nil {
		return &computations.Error{Kind: computations.Conflict, Message: "there is no manifest yet", Hint: "it comes when the draft is frozen"}
	}
	return q.download(c.ManifestFile(), c.Frozen.Raw)
}

func exportComputation(q *call) error {
	b, err := q.c.Service.ExportComputation(q.r.Context(), q.who, q.id("computation"))
	if err != nil {
		return err
	}
	return q.download("computation-"+q.id("computation").Short()+".json", b)
}

func askArchive(q *call) error {
	c, in, err := q.computation()
	if err != nil {
		return err
	}
	if err := q.allow(has(c.Allowed, computations.ComputationArchive), computations.ComputationArchive); err != nil {
		return err
	}
	here := "/c/" + string(c.ID)
	return q.ask(view{Title: "Archive “" + c.Draft.Name + "”?", Section: "computations", In: in, Above: above(in, &c.Computation)}, question{
		Texts:  []string{"Lists don't show it any more, and it can't be changed or run. Its runs and receipts stay.", "It can be restored at any time."},
		Action: "Archive the computation", To: here + "/archive", Back: here,
	})
}

func archive(q *call) error { return q.setArchived(true, "archived") }
func restore(q *call) error { return q.setArchived(false, "restored") }

func (q *call) setArchived(archived bool, done string) error {
	id := q.id("computation")
	if err := q.c.Service.ArchiveComputation(q.r.Context(), q.who, id, archived); err != nil {
		return err
	}
	return q.done("/c/"+string(id), done)
}
