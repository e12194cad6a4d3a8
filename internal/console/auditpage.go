package console

import (
	"slices"
	"strconv"
	"strings"

	"github.com/ultravioletrs/cocos/internal/computations"
)

// auditPage is part of the audit log.
type auditPage struct {
	Entries  []auditLine
	Actions  []choice
	People   []choice
	Older    string
	Filtered bool
	// Service: it is the log of the service as a whole.
	Service bool
}

type auditLine struct {
	computations.AuditEntry
	Details string
}

func showAudit(q *call) error {
	in, err := q.in(q.id("workspace"))
	if err != nil {
		return err
	}
	p := auditPage{}
	members, err := q.c.Service.Members(q.r.Context(), q.who, in.ID)
	if err != nil {
		return err
	}
	p.People = []choice{{Value: "", Text: "Everybody"}}
	for _, m := range members {
		p.People = append(p.People, choice{Value: string(m.User), Text: m.Name})
	}
	return q.audit(view{Title: "Audit log", Section: "audit", In: in}, p, in.ID)
}

func showServiceAudit(q *call) error {
	return q.audit(view{Title: "Audit log of the service", Section: "service-audit"}, auditPage{Service: true}, "")
}

func (q *call) audit(v view, p auditPage, ws computations.ID) error {
	query := q.r.URL.Query()
	f := computations.AuditFilter{
		Workspace: ws, Actor: computations.ID(query.Get("actor")), Action: strings.TrimSpace(query.Get("action")),
		Object: computations.ID(strings.TrimSpace(query.Get("object"))), Limit: pageLength + 1,
	}
	v.Form = newForm(query)
	var err error
	var bad faults
	if f.From, err = moment("from", query.Get("from")); err != nil {
		bad.add(err)
	}
	if f.To, err = moment("to", query.Get("to")); err != nil {
		bad.add(err)
	}
	if err := bad.err(); err != nil {
		v.Form.refuse(err)
	}
	f.Before, _ = strconv.ParseInt(query.Get("before"), 10, 64)
	p.Filtered = f.Actor != "" || f.Action != "" || f.Object != "" || !f.From.IsZero() || !f.To.IsZero()
	p.Actions = []choice{{Value: "", Text: "Every action"}}
	for _, a := range auditActions(p.Service) {
		p.Actions = append(p.Actions, choice{Value: a, Text: sentenceCase(actionText(a))})
	}
	entries, err := q.c.Service.Audit(q.r.Context(), q.who, f)
	if err != nil {
		return err
	}
	if len(entries) > pageLength {
		entries = entries[:pageLength]
		p.Older = older(query, strconv.FormatInt(entries[pageLength-1].Sequence, 10))
	}
	for _, e := range entries {
		var details []string
		for _, name := range sortedKeys(e.Detail) {
			if e.Detail[name] != "" {
				details = append(details, name+": "+e.Detail[name])
			}
		}
		p.Entries = append(p.Entries, auditLine{e, strings.Join(details, ", ")})
	}
	v.Data = p
	return q.page("audit", v)
}

// auditActions are those that change something, and so are in the log.
func auditActions(service bool) []string {
	ofService := func(a string) bool {
		return strings.HasPrefix(a, "service.") || strings.HasPrefix(a, "user.") || strings.HasPrefix(a, "host.")
	}
	var all []string
	for _, a := range computations.Actions() {
		what, did, _ := strings.Cut(string(a), ".")
		if has([]string{"list", "show", "read", "entries", "service.read", "dry-run"}, did) || what == "audit" || ofService(string(a)) != service {
			continue
		}
		all = append(all, string(a))
	}
	if service {
		all = append(all, "sign-in", "sign-in.failed", "link.redeem", "operator.link", "invitation.has-account")
	}
	slices.Sort(all)
	return all
}
