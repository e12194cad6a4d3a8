package console

import (
	"net/url"
	"slices"
	"strings"

	"github.com/ultravioletrs/cocos/internal/computations"
)

// form is what a form holds: what is at fault is said beside the field of that
// name, so that fields are named as the use cases name them.
type form struct {
	// within tells the ids of its controls from those of the page's other forms;
	// empty: it is the only one that has such fields.
	within string
	values url.Values
	// faults by field; "" for those of no field.
	faults map[string][]*computations.Error
	// order of the faults' fields, as the use cases gave them.
	order []string
	// labels of the fields that the page has; known when it was rendered once.
	labels map[string]string
}

func newForm(values url.Values) *form {
	if values == nil {
		values = url.Values{}
	}
	return &form{values: values, faults: map[string][]*computations.Error{}, labels: map[string]string{}}
}

// posted is the form that was sent.
func (q *call) posted() *form { return newForm(q.r.PostForm) }

// in names the form among those of its page.
func (f *form) in(name string) *form {
	f.within = name
	return f
}

// set gives a field its value.
func (f *form) set(name, value string) *form {
	f.values.Set(name, value)
	return f
}

// Value is a field's.
func (f *form) Value(name string) string { return f.values.Get(name) }

// Any tells whether one of the fields has a value, or is at fault.
func (f *form) Any(names ...string) bool {
	return slices.ContainsFunc(names, func(n string) bool { return f.values.Get(n) != "" || len(f.faults[n]) > 0 })
}

// refuse notes what an error says of fields.
func (f *form) refuse(err error) {
	for _, e := range refusals(err) {
		if !slices.Contains(f.order, e.Field) {
			f.order = append(f.order, e.Field)
		}
		f.faults[e.Field] = append(f.faults[e.Field], e)
	}
}

// says are the texts of a field's faults.
func (f *form) says(field string) []string {
	label, known := f.labels[field]
	if !known {
		label = sentenceCase(plainField(field))
	}
	var texts []string
	for _, e := range f.faults[field] {
		text := about(label, e.Message)
		if e.Hint != "" {
			text += " " + sentence(e.Hint)
		}
		texts = append(texts, text)
	}
	return texts
}

// invalid is a fault of the form itself, before the use cases are asked.
func invalid(field, message, hint string) *computations.Error {
	return &computations.Error{Kind: computations.Invalid, Field: field, Message: message, Hint: hint}
}

// fault is one line of the summary above a form.
type fault struct {
	// ID of the field; empty where the page has none.
	ID   string
	Text string
}

// Faults are all of them, for the summary. Those of a field that the page
// doesn't have are said there alone.
func (f *form) Faults() []fault {
	if f == nil {
		return nil
	}
	var all []fault
	for _, field := range f.order {
		id := ""
		if _, known := f.labels[field]; known {
			id = f.id(field)
		}
		for _, text := range f.says(field) {
			all = append(all, fault{id, text})
		}
	}
	return all
}

// plainField says a field's path for people: "datasets/0/asset" is "dataset 1,
// asset".
func plainField(path string) string {
	path = strings.TrimPrefix(path, "/")
	words := strings.Split(strings.ReplaceAll(path, "_", " "), "/")
	var out []string
	for i := 0; i < len(words); i++ {
		if i+1 < len(words) && isNumber(words[i+1]) {
			out = append(out, strings.TrimSuffix(words[i], "s")+" "+oneBased(words[i+1]))
			i++
			continue
		}
		out = append(out, words[i])
	}
	return strings.Join(out, ", ")
}

func (f *form) id(name string) string {
	id := "f-"
	if f.within != "" {
		id += f.within + "-"
	}
	return id + strings.NewReplacer("/", "-", "@", "-", ".", "-").Replace(strings.TrimPrefix(name, "/"))
}

// control is one field on a page.
type control struct {
	ID, Name, Label, Hint, Value string
	Faults                       []string
	// Type, Autocomplete, Pattern and others as in HTML.
	Type, Autocomplete, Inputmode, Placeholder, Min, Max, Accept string
	Rows                                                         string
	// Bare: not called optional, as in filters.
	Required, Bare, Mono, Short, Checked bool
	Choices                              []choice
}

// choice of a select, or of a group of radio buttons or check boxes.
type choice struct {
	Value, Text, Hint string
	Chosen            bool
}

// Describes is the value of aria-describedby.
func (c control) Describes() string {
	var ids []string
	if c.Hint != "" {
		ids = append(ids, c.ID+"-hint")
	}
	if len(c.Faults) > 0 {
		ids = append(ids, c.ID+"-fault")
	}
	return strings.Join(ids, " ")
}

// Text is a field's control, with options such as "hint=…", "type=email" or
// "required".
func (f *form) Text(name, label string, options ...string) control {
	f.labels[name] = label
	c := control{ID: f.id(name), Name: name, Label: label, Value: f.values.Get(name), Type: "text", Rows: "4", Faults: f.says(name)}
	for _, o := range options {
		key, value, _ := strings.Cut(o, "=")
		switch key {
		case "hint":
			c.Hint = value
		case "type":
			c.Type = value
		case "autocomplete":
			c.Autocomplete = value
		case "inputmode":
			c.Inputmode = value
		case "placeholder":
			c.Placeholder = value
		case "min":
			c.Min = value
		case "max":
			c.Max = value
		case "accept":
			c.Accept = value
		case "rows":
			c.Rows = value
		case "required":
			c.Required = true
		case "mono":
			c.Mono = true
		case "short":
			c.Short = true
		case "bare":
			c.Bare = true
		default:
			panic("console: a field's option is unknown: " + o)
		}
	}
	if c.Type == "password" {
		c.Value = ""
	}
	return c
}

// Select is a control with choices, of which the field's value is chosen.
func (f *form) Select(name, label string, choices []choice, options ...string) control {
	c := f.Text(name, label, options...)
	chosen := f.values[name]
	for _, ch := range choices {
		ch.Chosen = slices.Contains(chosen, ch.Value)
		c.Choices = append(c.Choices, ch)
	}
	return c
}

// Check is a check box of its own, with the value "yes".
func (f *form) Check(name, label string, options ...string) control {
	c := f.Text(name, label, options...)
	c.Checked = c.Value == "yes"
	return c
}
