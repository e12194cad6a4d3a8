package console

import (
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/ultravioletrs/cocos/internal/computations"
	"github.com/ultravioletrs/cocos/manifest"
)

// draftPage is the form of a draft.
type draftPage struct {
	// Computation is zero for a new one.
	Computation computations.ID
	TEEs        []choice
	People      []choice
	Algorithms  []choice
	Datasets    []choice
	Approve     []choice
	Scratch     []choice
	// Rows are the numbers of the datasets' rows.
	Rows []int
}

// formOf is a draft as its form shows it.
func formOf(d *computations.Draft, revision int64, members people) *form {
	f := newForm(nil)
	f.set("revision", strconv.FormatInt(revision, 10))
	f.set("name", d.Name).set("description", d.Description).set("tee", string(d.TEE))
	if d.AttestedTLS {
		f.set("attested_tls", "yes")
	}
	f.set("algorithm/provider", string(d.Algorithm.Provider)).set("algorithm/asset", string(d.Algorithm.Asset))
	f.set("algorithm/args", argsText(d.Algorithm.Args)).set("algorithm/env", envText(d.Algorithm.Env))
	l := d.Algorithm.Limits
	f.set("algorithm/limits/memory_bytes", sizeText(l.MemoryBytes)).set("algorithm/limits/output_bytes", sizeText(l.OutputBytes))
	f.set("algorithm/limits/processes", numberText(l.Processes)).set("algorithm/limits/seconds", numberText(l.Seconds))
	f.set("algorithm/limits/cpu_milli", numberText(l.CPUMilli)).set("release", releaseText(d.Release, members))
	for name, on := range map[string]bool{"outputs/pad": d.Outputs.Pad, "outputs/operator_output": d.Outputs.OperatorOutput} {
		if on {
			f.set(name, "yes")
		}
	}
	for i, s := range d.Datasets {
		at := fmt.Sprintf("datasets/%d/", i)
		f.set(at+"name", s.Name).set(at+"provider", string(s.Provider)).set(at+"asset", string(s.Asset))
	}
	f.set("rows", strconv.Itoa(len(d.Datasets)))
	for _, id := range d.Consumers {
		f.values.Add("consumers", string(id))
	}
	f.set("approve", "everybody")
	for _, id := range d.Approvers {
		f.values.Add("approvers", string(id))
		f.set("approve", "chosen")
	}
	f.set("outputs/result_max", sizeText(d.Outputs.ResultMax)).set("image", d.Image).set("ttl", durationText(d.TTL))
	scratchForm(f, d)
	return f
}

// maxRows bounds the datasets of a form; what is more than a manifest takes is
// the use cases' to refuse.
const maxRows = 300

func rowsOf(values url.Values) int {
	n, err := strconv.Atoi(values.Get("rows"))
	if err != nil || n < 0 {
		return 0
	}
	return min(n, maxRows)
}

// draftOf reads the form. Faults are of what can't be read at all.
func draftOf(v url.Values, members people) (computations.Draft, error) {
	var bad faults
	text := func(name string) string { return strings.TrimSpace(v.Get(name)) }
	size := func(name string) int64 {
		n, err := byteSize(name, v.Get(name))
		bad.add(err)
		return n
	}
	number := func(name string) int64 {
		if text(name) == "" {
			return 0
		}
		n, err := wholeNumber(name, text(name), 1, 1<<50)
		bad.add(err)
		return n
	}
	ids := func(name string) []computations.ID {
		var all []computations.ID
		for _, id := range v[name] {
			all = append(all, computations.ID(id))
		}
		return all
	}
	d := computations.Draft{
		Name: text("name"), Description: strings.TrimSpace(lines(v.Get("description"))), TEE: manifest.TEE(text("tee")),
		AttestedTLS: v.Get("attested_tls") == "yes",
		Algorithm: computations.AlgorithmSlot{
			Provider: computations.ID(text("algorithm/provider")), Asset: computations.ID(text("algorithm/asset")),
			Limits: manifest.Limits{
				MemoryBytes: size("algorithm/limits/memory_bytes"), Processes: number("algorithm/limits/processes"),
				Seconds: number("algorithm/limits/seconds"), OutputBytes: size("algorithm/limits/output_bytes"),
				CPUMilli: number("algorithm/limits/cpu_milli"),
			},
		},
		Consumers: ids("consumers"), Image: text("image"),
	}
	d.Outputs = manifest.Outputs{
		ResultMax: size("outputs/result_max"), Pad: v.Get("outputs/pad") == "yes", OperatorOutput: v.Get("outputs/operator_output") == "yes",
	}
	d.Scratch, d.ScratchBytes = scratchOf(text("scratch"), size("scratch_bytes"))
	var err error
	d.Release, err = releaseOf("release", v.Get("release"), members)
	bad.add(err)
	d.Algorithm.Args, err = argsOf("algorithm/args", v.Get("algorithm/args"))
	bad.add(err)
	d.Algorithm.Env, err = envOf("algorithm/env", v.Get("algorithm/env"))
	bad.add(err)
	d.TTL, err = duration("ttl", v.Get("ttl"))
	bad.add(err)
	for i := range rowsOf(v) {
		at := fmt.Sprintf("datasets/%d/", i)
		d.Datasets = append(d.Datasets, computations.DatasetSlot{
			Name: text(at + "name"), Provider: computations.ID(text(at + "provider")), Asset: computations.ID(text(at + "asset")),
		})
	}
	if v.Get("approve") == "chosen" {
		if d.Approvers = ids("approvers"); len(d.Approvers) == 0 {
			bad.add(invalid("approvers", "choose at least one of them, or let every party approve", ""))
		}
	}
	return d, bad.err()
}

// removeRow takes a dataset out of a form and closes the gap.
func removeRow(v url.Values, gone int) {
	n := rowsOf(v)
	for i := gone; i < n; i++ {
		for _, name := range []string{"name", "provider", "asset"} {
			v.Set(fmt.Sprintf("datasets/%d/%s", i, name), v.Get(fmt.Sprintf("datasets/%d/%s", i+1, name)))
		}
	}
	if gone >= 0 && gone < n {
		v.Set("rows", strconv.Itoa(n-1))
	}
}

// reshape carries out the form's buttons that only change the form; it tells
// whether there was one.
func reshape(v url.Values) bool {
	what, arg, _ := strings.Cut(v.Get("do"), ":")
	switch what {
	case "add-dataset":
		v.Set("rows", strconv.Itoa(min(rowsOf(v)+1, maxRows)))
		return true
	case "remove-dataset":
		if n, err := strconv.Atoi(arg); err == nil {
			removeRow(v, n)
		}
		return true
	}
	return false
}

// draftView is the page around a form.
func (q *call) draftView(in *place, id computations.ID, f *form) (view, error) {
	p := draftPage{Computation: id, Scratch: scratchChoices(), Approve: []choice{
		{Value: "everybody", Text: "Everybody who brings something or gets the result", Hint: "Where participants check the VM. Else nobody needs to."},
		{Value: "chosen", Text: "Chosen people"},
	}}
	for _, t := range manifest.TEEs() {
		p.TEEs = append(p.TEEs, choice{Value: string(t), Text: teeName(t), Hint: sentence(teeTexts[t].Does)})
	}
	members, err := q.people(in)
	if err != nil {
		return view{}, err
	}
	for _, m := range members {
		text := m.Name
		if m.User == q.who.User {
			text += " (you)"
		}
		p.People = append(p.People, choice{Value: string(m.User), Text: text, Hint: m.Email})
	}
	providers := []string{f.values.Get("algorithm/provider")}
	for i := range rowsOf(f.values) {
		p.Rows = append(p.Rows, i)
		providers = append(providers, f.values.Get(fmt.Sprintf("datasets/%d/provider", i)))
	}
	if p.Algorithms, err = q.assetChoices(in, computations.AssetAlgorithm, providers[:1]); err != nil {
		return view{}, err
	}
	if p.Datasets, err = q.assetChoices(in, computations.AssetDataset, providers[1:]); err != nil {
		return view{}, err
	}
	// What a draft has already stays a choice, retired or not.
	p.Algorithms = q.keepChoice(p.Algorithms, f.values.Get("algorithm/asset"))
	for i := range p.Rows {
		p.Datasets = q.keepChoice(p.Datasets, f.values.Get(fmt.Sprintf("datasets/%d/asset", i)))
	}
	v := view{Title: "New computation", Section: "computations", In: in, Form: f, Data: p, Above: above(in, nil)}
	if id != "" {
		v.Title = "Edit the draft"
		v.Above = append(v.Above, link{f.values.Get("name"), "/c/" + string(id)})
	}
	return v, nil
}

// assetChoices are the newest of the workspace, of the asker, and of those who are
// named to bring one: an asset comes from its owner alone.
func (q *call) assetChoices(in *place, kind computations.AssetKind, providers []string) (all []choice, err error) {
	seen := map[computations.ID]bool{}
	asked := map[string]bool{}
	for _, owner := range append([]string{"", string(q.who.User)}, providers...) {
		if asked[owner] {
			continue
		}
		asked[owner] = true
		some, err := q.c.Service.Assets(q.r.Context(), q.who, computations.AssetFilter{Workspace: in.ID, Kind: kind, Owner: computations.ID(owner)}, computations.Page{})
		if err != nil {
			return nil, err
		}
		for _, a := range some {
			if !seen[a.ID] {
				seen[a.ID] = true
				all = append(all, choice{Value: string(a.ID), Text: a.Name + " (" + a.Email + ")"})
			}
		}
	}
	return all, nil
}

// keepChoice adds an asset that lists don't have: a retired one, or one of many.
func (q *call) keepChoice(all []choice, id string) []choice {
	if id == "" || slices.ContainsFunc(all, func(c choice) bool { return c.Value == id }) {
		return all
	}
	a, err := q.c.Service.Asset(q.r.Context(), q.who, computations.ID(id))
	if err != nil {
		return all // saving says what is wrong with it
	}
	return append(all, choice{Value: id, Text: a.Name + " (" + a.Email + ")"})
}

// people are the workspace's members.
func (q *call) people(in *place) (people, error) {
	return q.c.Service.Members(q.r.Context(), q.who, in.ID)
}

func newComputation(q *call) error {
	in, err := q.in(q.id("workspace"))
	if err != nil {
		return err
	}
	f := formOf(&computations.Draft{TEE: manifest.TEESNP, AttestedTLS: true}, 0, nil)
	f.set("rows", "1")
	v, err := q.draftView(in, "", f)
	if err != nil {
		return err
	}
	return q.page("draft", v)
}

func createComputation(q *call) error {
	in, err := q.in(q.id("workspace"))
	if err != nil {
		return err
	}
	if reshape(q.r.PostForm) {
		v, err := q.draftView(in, "", q.posted())
		if err != nil {
			return err
		}
		return q.page("draft", v)
	}
	members, err := q.people(in)
	if err != nil {
		return err
	}
	d, err := draftOf(q.r.PostForm, members)
	var c computations.Computation
	if err == nil {
		c, err = q.c.Service.CreateComputation(q.r.Context(), q.who, in.ID, d)
	}
	if err != nil {
		v, failed := q.draftView(in, "", q.posted())
		if failed != nil {
			return failed
		}
		return q.again(err, "draft", v)
	}
	return q.done("/c/"+string(c.ID), "created")
}

// draftOfPath finds the computation whose draft is edited.
func (q *call) draftOfPath() (computations.View, *place, error) {
	c, err := q.c.Service.Computation(q.r.Context(), q.who, q.id("computation"))
	if err != nil {
		return c, nil, err
	}
	if err := q.allow(has(c.Mine, computations.PartCreator) || has(c.Mine, computations.PartEditor), computations.ComputationEdit); err != nil {
		return c, nil, err
	}
	in, err := q.in(c.Workspace)
	return c, in, err
}

func editComputation(q *call) error {
	c, in, err := q.draftOfPath()
	if err != nil {
		return err
	}
	if c.Manifest != nil {
		return &computations.Error{Kind: computations.Conflict, Message: "the manifest is frozen and can't change any more", Hint: "copy the computation, and change the copy"}
	}
	members, err := q.people(in)
	if err != nil {
		return err
	}
	v, err := q.draftView(in, c.ID, formOf(&c.Draft, c.Revision, members))
	if err != nil {
		return err
	}
	return q.page("draft", v)
}

func saveComputation(q *call) error {
	c, in, err := q.draftOfPath()
	if err != nil {
		return err
	}
	again := func(err error) error {
		v, failed := q.draftView(in, c.ID, q.posted())
		if failed != nil {
			return failed
		}
		if err == nil {
			return q.page("draft", v)
		}
		return q.again(err, "draft", v)
	}
	if reshape(q.r.PostForm) {
		return again(nil)
	}
	members, err := q.people(in)
	if err != nil {
		return err
	}
	d, err := draftOf(q.r.PostForm, members)
	if err != nil {
		return again(err)
	}
	revision, err := wholeNumber("revision", q.post("revision"), 0, 1<<53)
	if err != nil {
		return err
	}
	if _, err = q.c.Service.EditDraft(q.r.Context(), q.who, c.ID, revision, d); err != nil {
		return again(err)
	}
	return q.done("/c/"+string(c.ID), "saved")
}
