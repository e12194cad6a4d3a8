package cli

import (
	"slices"
	"strings"

	computationsv1 "github.com/ultravioletrs/cocos/api/computations/v1"
)

// released is the list that --release and --release-output make together.
func (d *draftFlags) released(person func(flag, email string) string) (all []*computationsv1.Release) {
	entry := func(flag, email string) *computationsv1.Release {
		id := person(flag, email)
		i := slices.IndexFunc(all, func(r *computationsv1.Release) bool { return r.GetConsumerId() == id })
		if i < 0 {
			i, all = len(all), append(all, &computationsv1.Release{ConsumerId: id})
		}
		return all[i]
	}
	for _, v := range d.release {
		if v == "" {
			continue // what is given replaces what is there: so with nothing
		}
		email, pattern, some := strings.Cut(v, "=")
		if r := entry("release", email); some {
			r.Files = append(r.Files, pattern)
		}
	}
	for _, email := range d.releaseOutput {
		entry("release-output", email).Output = true
	}
	return all
}
