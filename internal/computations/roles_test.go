package computations_test

import (
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	c "github.com/ultravioletrs/cocos/internal/computations"
)

var update = flag.Bool("update", false, "write testdata/roles.txt anew")

// standing is a column of the table.
type standing struct {
	name string
	c.Standing
}

// standings are the smallest ones: each has one thing that may count.
func standings() []standing {
	all := []standing{{"operator", c.Standing{Operator: true}}}
	for _, r := range c.Roles() {
		all = append(all, standing{string(r), c.Standing{Role: r}})
	}
	for _, p := range c.Parts() {
		all = append(all, standing{string(p), c.Standing{Role: c.RoleMember, Parts: []c.Part{p}}})
	}
	return append(all, standing{"owner", c.Standing{Role: c.RoleMember, Owner: true}})
}

// The table of roles, as people read it. A change of it is a change of who may
// do what: look at the difference, then run the test with -update.
func TestRoles(t *testing.T) {
	var b strings.Builder
	b.WriteString("Who may do what. A column is an operator of the service, a member by role, a plain\n" +
		"member by part in the computation, and a plain member who owns the thing.\n\n")
	line := func(action, who string, cells []string) {
		b.WriteString(strings.TrimRight(fmt.Sprintf("%-22s %s  %s", action, strings.Join(cells, " "), who), " ") + "\n")
	}
	cell := func(name string, mark string) string { return fmt.Sprintf("%-*s", len(name), mark) }
	var head []string
	for _, st := range standings() {
		head = append(head, st.name)
	}
	line("", "in words", head)
	for _, a := range c.Actions() {
		var cells []string
		for _, st := range standings() {
			mark := "-"
			if c.Allow(st.Standing, a) {
				mark = "yes"
			}
			cells = append(cells, cell(st.name, mark))
		}
		line(string(a), c.Entitled(a), cells)
	}
	const file = "testdata/roles.txt"
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if string(want) != b.String() {
		t.Errorf("the table of roles has changed; got\n%s", b.String())
	}
}

// What several things give together is what each gives: there is no standing
// outside of the table, for any action and any combination.
func TestStandingsAddUp(t *testing.T) {
	parts := c.Parts()
	n := 0
	for _, a := range append(c.Actions(), "computation.unknown", "") {
		for _, role := range append(c.Roles(), "", "king") {
			for mask := range 1 << len(parts) {
				for extra := range 4 {
					st := c.Standing{Role: role, Operator: extra&1 != 0, Owner: extra&2 != 0}
					want := c.Allow(c.Standing{Operator: st.Operator}, a) || c.Allow(c.Standing{Role: role}, a)
					if slices.Contains(c.Roles(), role) {
						want = want || st.Owner && c.Allow(c.Standing{Role: c.RoleMember, Owner: true}, a)
					}
					for i, p := range parts {
						if mask&(1<<i) == 0 {
							continue
						}
						st.Parts = append(st.Parts, p)
						if slices.Contains(c.Roles(), role) {
							want = want || c.Allow(c.Standing{Role: c.RoleMember, Parts: []c.Part{p}}, a)
						}
					}
					n++
					if got := c.Allow(st, a); got != want {
						t.Fatalf("%s for %+v is %t, and by its parts %t", a, st, got, want)
					}
				}
			}
		}
	}
	t.Logf("%d standings", n)
}

// An action that nobody thought of is refused to everybody.
func TestUnknownActionIsRefused(t *testing.T) {
	all := c.Standing{Operator: true, Role: c.RoleAdministrator, Parts: c.Parts(), Owner: true}
	for _, a := range []c.Action{"", "computation.destroy"} {
		if c.Allow(all, a) {
			t.Errorf("%q is allowed", a)
		}
	}
	for _, a := range c.Actions() {
		if !c.Allow(all, a) {
			t.Errorf("%s is for nobody", a)
		}
		if a != c.WorkspaceCreate && c.Allow(c.Standing{Parts: c.Parts(), Owner: true}, a) {
			t.Errorf("%s is for those who are no members any more", a)
		}
	}
}
