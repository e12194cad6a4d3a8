package console

import (
	"embed"
	"fmt"
	"html/template"
	"io/fs"
	"path"
	"strings"

	"github.com/ultravioletrs/cocos/internal/computations"
)

//go:embed templates/*.html
var templateFiles embed.FS

// view is what a page shows.
type view struct {
	Title string
	// Section is the entry of the navigation that the page lies under.
	Section string
	// In is the workspace that the page lies in; nil: none.
	In *place
	// Above is the way up: the pages that this one lies under.
	Above []link
	// Done says what was just done; empty: nothing.
	Done string
	// Form is that of the page; nil: it has none.
	Form *form
	Data any

	// These are filled in by show.
	Who      computations.Identity
	External string
}

// place is a workspace as a user stands in it.
type place struct {
	ID   computations.ID
	Name string
	Role computations.Role
}

// Oversees tells whether the user sees everybody's.
func (p *place) Oversees() bool {
	return p != nil && (p.Role == computations.RoleAdministrator || p.Role == computations.RoleManager)
}

// Administers tells whether the user settles members and settings.
func (p *place) Administers() bool { return p != nil && p.Role == computations.RoleAdministrator }

type link struct{ Text, To string }

// in finds the workspace of a page.
func (q *call) in(ws computations.ID) (*place, error) {
	w, role, err := q.c.Service.Workspace(q.r.Context(), q.who, ws)
	if err != nil {
		return nil, err
	}
	return &place{w.ID, w.Name, role}, nil
}

// question is a page that asks before something is done.
type question struct {
	// Texts say what will happen, and what can't be undone.
	Texts []string
	// Action is the button's words; To where it sends; Back where not.
	Action, To, Back string
	// Danger: it can't be undone.
	Danger bool
	// Hidden are fields that are sent along.
	Hidden map[string]string
	// Items are listed below the texts.
	Items []string
}

// ask shows a question.
func (q *call) ask(v view, a question) error {
	v.Data = a
	return q.page("question", v)
}

// parse reads every template: a page is one file, beside those whose names begin
// with "_", which all pages share.
func (c *Console) parse() (map[string]*template.Template, error) {
	base, err := template.New("base").Funcs(c.functions()).ParseFS(templateFiles, "templates/_*.html")
	if err != nil {
		return nil, fmt.Errorf("reading the shared templates: %w", err)
	}
	files, err := fs.Glob(templateFiles, "templates/[^_]*.html")
	if err != nil {
		return nil, err
	}
	pages := map[string]*template.Template{}
	for _, f := range files {
		t, err := base.Clone()
		if err != nil {
			return nil, err
		}
		if t, err = t.ParseFS(templateFiles, f); err != nil {
			return nil, fmt.Errorf("reading %s: %w", f, err)
		}
		pages[strings.TrimSuffix(path.Base(f), ".html")] = t
	}
	return pages, nil
}
