package console

import (
	"slices"
	"strings"

	"github.com/ultravioletrs/cocos/internal/computations"
)

// outputWord stands for what the algorithm prints in the lines that say who gets
// what; a file of that name is written \\+output.
const outputWord = "+output"

// people are a workspace's members, for texts that name them by their addresses.
type people []computations.Member

func (p people) email(id computations.ID) string {
	i := slices.IndexFunc(p, func(m computations.Member) bool { return m.User == id })
	if i < 0 {
		return string(id) // who left; saving says so
	}
	return p[i].Email
}

func (p people) user(email string) computations.ID {
	i := slices.IndexFunc(p, func(m computations.Member) bool { return strings.EqualFold(m.Email, email) })
	if i < 0 {
		return ""
	}
	return p[i].User
}

// releaseText has one thing that somebody gets in each line: an address and a
// pattern, or the word for output, or nothing.
func releaseText(all []computations.ReleaseSlot, p people) string {
	var text []string
	for _, r := range all {
		email := p.email(r.Consumer)
		if len(r.Files) == 0 && !r.Output {
			text = append(text, email)
		}
		for _, f := range r.Files {
			text = append(text, email+" "+f)
		}
		if r.Output {
			text = append(text, email+" "+outputWord)
		}
	}
	return strings.Join(text, "\n")
}

func releaseOf(field, text string, p people) (all []computations.ReleaseSlot, err error) {
	for line := range strings.SplitSeq(lines(text), "\n") {
		email, what, _ := strings.Cut(strings.TrimSpace(line), " ")
		if email == "" {
			continue
		}
		id := p.user(email)
		if id == "" {
			return nil, invalid(field, "begins a line with "+email+", who is no member of the workspace", "begin each line with the address of somebody who gets the result")
		}
		i := slices.IndexFunc(all, func(r computations.ReleaseSlot) bool { return r.Consumer == id })
		if i < 0 {
			i, all = len(all), append(all, computations.ReleaseSlot{Consumer: id})
		}
		switch what = strings.TrimSpace(what); what {
		case "":
		case outputWord:
			all[i].Output = true
		default:
			all[i].Files = append(all[i].Files, what)
		}
	}
	return all, nil
}
