package console

import (
	"context"
	"maps"
	"net/url"
	"slices"

	"github.com/ultravioletrs/cocos/internal/computations"
)

// row is a computation in a list.
type row struct {
	computations.Computation
	// State is its stage, or its newest run's state.
	State string
}

// has tells whether a list has one of its values.
func has[T comparable](all []T, one T) bool { return slices.Contains(all, one) }

// older is the address of a list's next page: the same questions, further on.
func older(query url.Values, before string) string {
	next := url.Values{}
	for k, v := range query {
		if k != "done" {
			next[k] = v
		}
	}
	next.Set("before", before)
	return "?" + next.Encode()
}

// rows finds out how far the computations of a page have come. Which of those that
// never ran are ready, the list itself doesn't tell: they are on the same page of the
// list of those.
func (q *call) rows(ctx context.Context, f computations.ComputationFilter, p computations.Page, all []computations.Computation) ([]row, error) {
	ready := map[computations.ID]bool{}
	if slices.ContainsFunc(all, func(c computations.Computation) bool { return c.Manifest != nil && c.LastRun == "" }) {
		f.States, p.Limit = []string{string(computations.StageReady)}, len(all)
		found, err := q.c.Service.Computations(ctx, q.who, f, p)
		if err != nil {
			return nil, err
		}
		for _, c := range found {
			ready[c.ID] = true
		}
	}
	rows := make([]row, len(all))
	for i, c := range all {
		state := string(c.LastRun)
		switch {
		case c.Manifest == nil:
			state = string(computations.StageDraft)
		case state == "" && ready[c.ID]:
			state = string(computations.StageReady)
		case state == "":
			state = string(computations.StageApprovals)
		}
		rows[i] = row{c, state}
	}
	return rows, nil
}

// above is the way up from a page of a computation.
func above(in *place, c *computations.Computation) []link {
	up := []link{{"Computations", "/w/" + string(in.ID) + "/computations"}}
	if c != nil {
		up = append(up, link{c.Draft.Name, "/c/" + string(c.ID)})
	}
	return up
}

// computationsPage lists a workspace's computations.
type computationsPage struct {
	Rows   []row
	States []choice
	Older  string
	// Filtered: some may be hidden by what was asked for.
	Filtered bool
	Archived bool
}

func showComputations(q *call) error {
	in, err := q.in(q.id("workspace"))
	if err != nil {
		return err
	}
	query := q.r.URL.Query()
	f := computations.ComputationFilter{Workspace: in.ID, Text: query.Get("text"), Archived: query.Get("archived") == "yes"}
	if query.Get("mine") == "yes" {
		f.User = q.who.User
	}
	if s := query.Get("state"); states[s].Text != "" {
		f.States = []string{s}
	}
	p := computationsPage{Filtered: f.Text != "" || f.User != "" || len(f.States) > 0, Archived: f.Archived}
	p.States = append(p.States, choice{Value: "", Text: "Every state"})
	for _, s := range stateOrder {
		p.States = append(p.States, choice{Value: s, Text: states[s].Text})
	}
	page := computations.Page{Before: computations.ID(query.Get("before")), Limit: pageLength + 1}
	all, err := q.c.Service.Computations(q.r.Context(), q.who, f, page)
	if err != nil {
		return err
	}
	if len(all) > pageLength {
		all = all[:pageLength]
		p.Older = older(query, string(all[pageLength-1].ID))
	}
	if p.Rows, err = q.rows(q.r.Context(), f, page, all); err != nil {
		return err
	}
	return q.page("computations", view{Title: "Computations", Section: "computations", In: in, Form: newForm(query), Data: p})
}

func importView(in *place, f *form) view {
	return view{Title: "Import a computation", Section: "computations", In: in, Form: f, Above: above(in, nil)}
}

func newImport(q *call) error {
	in, err := q.in(q.id("workspace"))
	if err != nil {
		return err
	}
	return q.page("import", importView(in, newForm(nil)))
}

func importComputation(q *call) error {
	in, err := q.in(q.id("workspace"))
	if err != nil {
		return err
	}
	raw, err := q.fileOrText("file")
	var c computations.Computation
	if err == nil {
		c, err = q.c.Service.ImportComputation(q.r.Context(), q.who, in.ID, raw)
	}
	if err != nil {
		return q.again(err, "import", importView(in, q.posted()))
	}
	return q.done("/c/"+string(c.ID), "imported")
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
