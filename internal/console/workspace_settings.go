package console

import (
	"slices"
	"time"

	"github.com/ultravioletrs/cocos/internal/computations"
)

func showWorkspaceSettings(q *call) error {
	v, err := q.workspaceSettings()
	if err != nil {
		return err
	}
	return q.page("workspace-settings", v)
}

// workspaceForms are the forms of a workspace's settings.
type workspaceForms struct {
	Name, Retention *form
	Choices         []choice
	// keep is how long it is now; zero: for ever.
	keep time.Duration
}

// retentions are how long events and logs of ended runs may be kept; values are as
// time.Duration writes them, so that what was set by other means is kept exactly.
var retentions = []choice{
	{Value: "168h0m0s", Text: "7 days"}, {Value: "720h0m0s", Text: "30 days"}, {Value: "2160h0m0s", Text: "90 days"},
	{Value: "8760h0m0s", Text: "1 year"}, {Value: "0s", Text: "For ever"},
}

func (q *call) workspaceSettings() (view, error) {
	ws, role, err := q.c.Service.Workspace(q.r.Context(), q.who, q.id("workspace"))
	if err != nil {
		return view{}, err
	}
	in := &place{ws.ID, ws.Name, role}
	if err := q.allow(in.Administers(), computations.WorkspaceRename); err != nil {
		return view{}, err
	}
	keep := ws.KeepEntries.String()
	p := workspaceForms{Name: newForm(nil).set("name", ws.Name), Retention: newForm(nil).set("keep", keep), Choices: retentions, keep: ws.KeepEntries}
	if !slices.ContainsFunc(retentions, func(c choice) bool { return c.Value == keep }) {
		p.Choices = append([]choice{{Value: keep, Text: "As now: " + lasting(ws.KeepEntries)}}, retentions...)
	}
	return view{Title: "Workspace settings", Section: "workspace-settings", In: in, Data: p}, nil
}

func renameWorkspace(q *call) error {
	ws := q.id("workspace")
	if err := q.c.Service.RenameWorkspace(q.r.Context(), q.who, ws, q.post("name")); err != nil {
		return q.workspaceAgain(err, func(p *workspaceForms, f *form) { p.Name = f })
	}
	return q.done("/w/"+string(ws)+"/settings", "name")
}

func setRetention(q *call) error {
	ws := q.id("workspace")
	keep, err := time.ParseDuration(q.post("keep"))
	if err != nil {
		err = invalid("keep", "is no time that events can be kept for", "choose one of the list")
	}
	if err == nil && q.post("sure") != "yes" {
		v, err := q.workspaceSettings()
		if err != nil {
			return err
		}
		if now := v.Data.(workspaceForms).keep; keep > 0 && (now == 0 || keep < now) {
			return q.askRetention(v, keep)
		}
	}
	if err == nil {
		err = q.c.Service.SetRetention(q.r.Context(), q.who, ws, keep)
	}
	if err != nil {
		return q.workspaceAgain(err, func(p *workspaceForms, f *form) { p.Retention = f })
	}
	return q.done("/w/"+string(ws)+"/settings", "retention")
}

// askRetention asks before entries are deleted.
func (q *call) askRetention(v view, keep time.Duration) error {
	here := "/w/" + string(v.In.ID) + "/settings"
	return q.ask(view{Title: "Keep events and logs for a shorter time?", Section: v.Section, In: v.In, Above: []link{{v.Title, here}}}, question{
		Texts: []string{
			"The events and logs of all runs in “" + v.In.Name + "” that ended more than " + lasting(keep) + " ago are deleted within a minute. They can't be brought back.",
			"Runs, manifests, receipts and the audit log stay.",
		},
		Action: "Keep them for " + lasting(keep), To: here + "/retention", Back: here, Danger: true,
		Hidden: map[string]string{"keep": keep.String(), "sure": "yes"},
	})
}

func (q *call) workspaceAgain(err error, put func(*workspaceForms, *form)) error {
	v, failed := q.workspaceSettings()
	if failed != nil {
		return failed
	}
	p := v.Data.(workspaceForms)
	v.Form = q.posted()
	put(&p, v.Form)
	v.Data = p
	return q.again(err, "workspace-settings", v)
}
