package console

import (
	"slices"
	"strconv"
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

// retentions are how long events and logs of ended runs may be kept.
var retentions = []choice{
	{Value: "7", Text: "7 days"}, {Value: "30", Text: "30 days"}, {Value: "90", Text: "90 days"},
	{Value: "365", Text: "1 year"}, {Value: "0", Text: "For ever"},
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
	days := strconv.Itoa(int(ws.KeepEntries / (24 * time.Hour)))
	p := workspaceForms{Name: newForm(nil).set("name", ws.Name), Retention: newForm(nil).set("days", days), Choices: retentions, keep: ws.KeepEntries}
	if !slices.ContainsFunc(retentions, func(c choice) bool { return c.Value == days }) {
		p.Choices = append([]choice{{Value: days, Text: "As now: " + lasting(ws.KeepEntries)}}, retentions...)
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
	days, err := wholeNumber("days", q.post("days"), 0, 36500)
	keep := time.Duration(days) * 24 * time.Hour
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
		Hidden: map[string]string{"days": strconv.Itoa(int(keep / (24 * time.Hour))), "sure": "yes"},
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
