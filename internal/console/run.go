package console

import (
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/ultravioletrs/cocos/internal/computations"
	"github.com/ultravioletrs/cocos/internal/vm"
	"github.com/ultravioletrs/cocos/manifest"
)

// runPage is one run.
type runPage struct {
	Run         computations.Run
	Computation computations.View
	State       state
	// Agent is the agent's state in words.
	Agent    string
	Progress []step
	Done     int
	Entries  []entryLine
	// Older is the address of earlier entries; Newest that of the newest.
	Older, Newest string
	// Stream is the address of what comes after Entries; empty: nothing comes, or
	// older ones are shown.
	Stream                 string
	Types, Levels, Sources []choice
	Filtered               bool
	MayStop                bool
	Next                   []computations.Todo
	Said                   *attestation
	Receipt                *receiptPage
	MaySubmit              bool
}

// agentStates are the agent's, in words.
var agentStates = map[string]string{
	"AwaitingInputs": "The agent waits for inputs.",
	"Running":        "The algorithm runs.",
	"ResultReady":    "The result is ready for its consumers.",
	"Released":       "Every consumer has the result.",
	"Failed":         "The computation failed.",
	"Stopped":        "The agent was stopped.",
}

func agentText(state string) string {
	if state == "" {
		return "The agent has not reported yet."
	}
	if t, ok := agentStates[state]; ok {
		return t
	}
	return "The agent says " + strconv.Quote(state) + "."
}

// stepOf is the step of a run that an entry says is done; empty: none.
func stepOf(e *computations.Entry) string {
	if e.Type != computations.EntryEvent {
		return ""
	}
	switch e.Kind {
	case vm.EventAccepted:
		return "host"
	case vm.EventBooting:
		return "boot"
	case vm.EventReady:
		return "ready"
	case vm.EventInput:
		switch e.Attributes["kind"] {
		case "algorithm":
			return "algorithm"
		case "file":
			return "file:" + e.Attributes["name"]
		}
		return "dataset:" + e.Attributes["name"]
	case vm.EventState:
		switch e.Attributes["to"] {
		case "Running":
			return "running"
		case "ResultReady":
			return "result"
		case "Released":
			return "released"
		}
	}
	return ""
}

// progressOf is a run's way, with what its events say is done.
func progressOf(f *manifest.Frozen, events []computations.Entry) (steps []step, done int) {
	steps = []step{{ID: "host", Text: "A host takes the run"}, {ID: "boot", Text: "The VM boots"}, {ID: "ready", Text: "The agent is ready"}}
	if f != nil {
		steps = append(steps, step{ID: "algorithm", Text: "The algorithm is there"})
		for _, file := range f.Algorithm.Files {
			steps = append(steps, step{ID: "file:" + file.Name, Text: "Its file " + file.Name + " is there"})
		}
		for _, d := range f.Datasets {
			steps = append(steps, step{ID: "dataset:" + d.Name, Text: "The dataset " + d.Name + " is there"})
		}
	}
	steps = append(steps, step{ID: "running", Text: "The algorithm runs"}, step{ID: "result", Text: "The result is ready"},
		step{ID: "released", Text: "Every consumer has it"})
	said := map[string]bool{}
	for i := range events {
		said[stepOf(&events[i])] = true
	}
	for i := range steps {
		steps[i].Where = "later"
		if said[steps[i].ID] {
			steps[i].Where = "done"
			done++
		}
	}
	return steps, done
}

// eventTexts are kinds of events, in words.
var eventTexts = map[string]string{
	"run.queued": "Run queued", "run.stop-asked": "Stop asked for",
	vm.EventAccepted: "Host accepted", vm.EventLost: "VM lost", vm.EventRemoved: "VM removed",
	vm.EventStarting: "VM starting", vm.EventBooting: "VM booting", vm.EventSilent: "Agent silent",
	vm.EventExpired: "VM expired", vm.EventStopping: "VM stopping", vm.EventExited: "VM ended",
	vm.EventReady: "Agent ready", vm.EventState: "Agent state", vm.EventInput: "Input received",
	vm.EventRefused: "Agent refused", vm.EventReleased: "Result taken",
}

// entryLine is an entry as a line of the log, the same in a page and in a stream.
type entryLine struct {
	Position int64  `json:"position"`
	ISO      string `json:"iso"`
	// Time is for pages; the script shows ISO by the reader's own clock.
	Time   string `json:"-"`
	Level  string `json:"level"`
	Source string `json:"source"`
	Type   string `json:"type"`
	// Title is an event's kind in words; empty for a log line.
	Title   string `json:"title"`
	Text    string `json:"text"`
	Details string `json:"details"`
	Step    string `json:"step,omitempty"`
}

func lineOf(e *computations.Entry) entryLine {
	l := entryLine{
		Position: e.Position, ISO: e.Time.UTC().Format("2006-01-02T15:04:05.000Z"), Time: e.Time.UTC().Format("2 Jan, 15:04:05 UTC"),
		Level: e.Level, Source: e.Source, Type: string(e.Type), Text: e.Message, Step: stepOf(e),
	}
	if e.Type == computations.EntryEvent {
		if l.Title = eventTexts[e.Kind]; l.Title == "" {
			l.Title = e.Kind
		}
	}
	if e.Dropped > 0 {
		l.Title = count(e.Dropped, "line") + " lost before this one"
	}
	var details []string
	for _, name := range sortedKeys(e.Attributes) {
		details = append(details, name+"="+e.Attributes[name])
	}
	l.Details = strings.Join(details, "  ")
	return l
}

// entryLimit is how many entries a page shows.
const entryLimit = 200

var (
	entryLevels  = []string{"error", "warn", "info", "debug"}
	entrySources = []string{"agent", "shim", "manager", "service"}
)

// entryFilter reads the questions that a page or a stream is asked.
func entryFilter(query url.Values) (f computations.EntryFilter, asked bool, err error) {
	f.Text = strings.TrimSpace(query.Get("text"))
	if t := computations.EntryType(query.Get("type")); t == computations.EntryEvent || t == computations.EntryLog {
		f.Types = []computations.EntryType{t}
	}
	// A level means it and all that are worse.
	if i := slices.Index(entryLevels, query.Get("level")); i >= 0 {
		f.Levels = entryLevels[:i+1]
	}
	if s := query.Get("source"); has(entrySources, s) {
		f.Sources = []string{s}
	}
	var bad faults
	if f.From, err = moment("from", query.Get("from")); err != nil {
		bad.add(err)
	}
	if f.To, err = moment("to", query.Get("to")); err != nil {
		bad.add(err)
	}
	asked = f.Text != "" || f.Types != nil || f.Levels != nil || f.Sources != nil || !f.From.IsZero() || !f.To.IsZero()
	return f, asked, bad.err()
}

func options(first string, values []string, text func(string) string) []choice {
	all := []choice{{Value: "", Text: first}}
	for _, v := range values {
		all = append(all, choice{Value: v, Text: text(v)})
	}
	return all
}

func showRun(q *call) error {
	ctx := q.r.Context()
	run, err := q.c.Service.Run(ctx, q.who, q.id("run"))
	if err != nil {
		return err
	}
	c, err := q.c.Service.Computation(ctx, q.who, run.Computation)
	if err != nil {
		return err
	}
	in, err := q.in(run.Workspace)
	if err != nil {
		return err
	}
	events, err := q.c.Service.Entries(ctx, q.who, run.ID, computations.EntryFilter{Types: []computations.EntryType{computations.EntryEvent}})
	if err != nil {
		return err
	}
	p := &runPage{Run: run, Computation: c, State: stateOf(run.State), Agent: agentText(run.AgentState)}
	p.Progress, p.Done = progressOf(c.Frozen, events)
	p.MayStop = !run.State.Ended() && run.StopAsked.IsZero() && computationsAllow(in, &c, computations.RunStop)
	p.MaySubmit = has(c.Allowed, computations.ReceiptSubmit)
	if len(c.Runs) > 0 && c.Runs[0].ID == run.ID {
		p.Next = c.Todo
	}
	if p.Said, err = q.attestationOf(&c, &run); err != nil {
		return err
	}
	if p.Receipt, err = q.receiptOf(&c, &run); err != nil {
		return err
	}
	f := newForm(q.r.URL.Query())
	if err := q.fillEntries(p, f); err != nil {
		return err
	}
	return q.page("run", view{
		Title: "Run " + strconv.FormatInt(run.Number, 10), Section: "computations", In: in, Form: f, Data: p, Above: above(in, &c.Computation),
	})
}

// computationsAllow tells whether the reader may do it by role and parts.
func computationsAllow(in *place, c *computations.View, a computations.Action) bool {
	return computations.Allow(computations.Standing{Role: in.Role, Parts: c.Mine}, a)
}

// fillEntries finds the entries of a page and where it goes on.
func (q *call) fillEntries(p *runPage, f *form) error {
	query := q.r.URL.Query()
	filter, asked, err := entryFilter(query)
	if err != nil {
		f.refuse(err)
	}
	p.Filtered = asked
	p.Types = []choice{{Value: "", Text: "Events and log"}, {Value: "event", Text: "Events"}, {Value: "log", Text: "Log lines"}}
	p.Levels = options("Every level", entryLevels[:3], func(s string) string {
		if s == "error" {
			return "Errors"
		}
		return sentenceCase(s) + " and worse"
	})
	p.Sources = options("Every source", entrySources, sentenceCase)
	before, _ := strconv.ParseInt(query.Get("before"), 10, 64)
	filter.Backward, filter.After, filter.Limit = true, max(before, 0), entryLimit+1
	found, err := q.c.Service.Entries(q.r.Context(), q.who, p.Run.ID, filter)
	if err != nil {
		return err
	}
	if len(found) > entryLimit {
		found = found[:entryLimit]
		p.Older = older(query, strconv.FormatInt(found[entryLimit-1].Position, 10))
	}
	slices.Reverse(found)
	last := int64(0)
	for i := range found {
		p.Entries = append(p.Entries, lineOf(&found[i]))
		last = found[i].Position
	}
	query.Del("before")
	query.Del("done")
	if before > 0 {
		p.Newest = "?" + query.Encode()
		return nil
	}
	if !p.Run.State.Ended() {
		query.Set("after", strconv.FormatInt(last, 10))
		p.Stream = "/r/" + string(p.Run.ID) + "/stream?" + query.Encode()
	}
	return nil
}

func askStop(q *call) error {
	run, err := q.c.Service.Run(q.r.Context(), q.who, q.id("run"))
	if err != nil {
		return err
	}
	c, err := q.c.Service.Computation(q.r.Context(), q.who, run.Computation)
	if err != nil {
		return err
	}
	in, err := q.in(run.Workspace)
	if err != nil {
		return err
	}
	if err := q.allow(computationsAllow(in, &c, computations.RunStop), computations.RunStop); err != nil {
		return err
	}
	here := "/r/" + string(run.ID)
	name := "Run " + strconv.FormatInt(run.Number, 10)
	return q.ask(view{Title: "Stop run " + strconv.FormatInt(run.Number, 10) + "?", Section: "computations", In: in, Above: append(above(in, &c.Computation), link{name, here})}, question{
		Texts:  []string{"The VM is ended with all that is in it: inputs that were uploaded, and a result that nobody has fetched.", "The computation can be run again; its parties then upload their inputs again."},
		Action: "Stop the run", To: here + "/stop", Back: here, Danger: true,
	})
}

func stopRun(q *call) error {
	if err := q.c.Service.StopRun(q.r.Context(), q.who, q.id("run")); err != nil {
		return err
	}
	return q.done("/r/"+string(q.id("run")), "stopping")
}

func downloadReceipt(q *call) error {
	run, err := q.c.Service.Run(q.r.Context(), q.who, q.id("run"))
	if err != nil {
		return err
	}
	r, err := q.c.Service.Receipt(q.r.Context(), q.who, run.ID)
	if err != nil {
		return err
	}
	return q.download(run.ReceiptFile(), r.Raw)
}

func submitReceipt(q *call) error {
	raw, err := q.fileOrText("receipt")
	if err == nil {
		err = q.c.Service.SubmitReceipt(q.r.Context(), q.who, q.id("run"), raw)
	}
	if err != nil {
		return err
	}
	return q.done("/r/"+string(q.id("run")), "receipt")
}

// IsSim tells whether the manifest asks for a TEE that protects nothing.
func (p *runPage) IsSim() bool { return p.Computation.Draft.TEE == manifest.TEESim }

// Blank is a line without anything, for the script to fill.
func (p *runPage) Blank() entryLine { return entryLine{} }
