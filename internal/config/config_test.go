package config

import (
	"errors"
	"strings"
	"testing"
	"time"
)

func TestDistance(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want int
	}{{"", "", 0}, {"a", "", 1}, {"abc", "abc", 0}, {"abc", "acb", 2}, {"kitten", "sitting", 3}} {
		if got := distance(c.a, c.b); got != c.want {
			t.Errorf("%q, %q: %d", c.a, c.b, got)
		}
	}
}

type colours struct {
	wall, roof string
	wait       time.Duration
}

func paint() Table[colours] {
	return Table[colours]{
		Prefix: "PAINT_", Docs: "docs/paint.md", Case: "in winter", CaseHead: "winter",
		Variables: []Variable[colours]{
			{Name: "PAINT_WALL", Kind: "red or blue", Fallback: "red", Otherwise: "blue", Effect: "Colour of the `wall`.",
				Set: OneOf(func(c *colours) *string { return &c.wall }, "red", "blue")},
			{Name: "OTHER_ROOF", Kind: "text", Secret: true, Effect: "Colour of the roof.",
				Set: func(c *colours, v string) error {
					if v == "tin" {
						return errors.New("a colour")
					}
					c.roof = v
					return nil
				}},
			{Name: "PAINT_WAIT", Kind: "duration", Unit: "1s to 1m", Fallback: "2s", Effect: "How long it dries.",
				Set: Duration(func(c *colours) *time.Duration { return &c.wait }, time.Second, time.Minute)},
		},
	}
}

func TestRead(t *testing.T) {
	var c colours
	v, errs := paint().Read([]string{"OTHER_ROOF=a=b", "HOME=/root"}, &c)
	if len(errs) > 0 || c != (colours{"red", "a=b", 2 * time.Second}) || !v.Given["OTHER_ROOF"] || v.Given["PAINT_WALL"] {
		t.Errorf("%+v, %+v, %v", c, v, errs)
	}
	for _, set := range v.Otherwise {
		set(&c)
	}
	if c.wall != "blue" {
		t.Errorf("in winter: %+v", c)
	}
}

func TestReadRefuses(t *testing.T) {
	var c colours
	_, errs := paint().Read([]string{
		"PAINT_WAL=red", "PAINT_X_Y_Z_COMPLETELY=http://me:pw@host", "PAINT_WALL=green", "OTHER_ROOF=tin", "PAINT_WAIT=",
	}, &c)
	got := errors.Join(errs...).Error()
	want := strings.Join([]string{
		`PAINT_WAL="red" is not a variable of this version; did you mean PAINT_WALL?`,
		`PAINT_X_Y_Z_COMPLETELY="http://...@host" is not a variable of this version; docs/paint.md lists them all`,
		`PAINT_WALL="green" is not valid; expected one of ["red" "blue"]`,
		`OTHER_ROOF is not valid (its value is not shown, as it may hold a password); expected a colour`,
		`PAINT_WAIT is empty; unset it for the default, 2s, or use duration (1s to 1m)`,
	}, "\n")
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestMarkdown(t *testing.T) {
	const want = "| Variable | Type | Unit or range | Default | Effect |\n|---|---|---|---|---|\n" +
		"| `PAINT_WALL` | red or blue | – | `red`; winter `blue` | Colour of the `wall`. |\n" +
		"| `OTHER_ROOF` | text | – | – | Colour of the roof. |\n" +
		"| `PAINT_WAIT` | duration | 1s to 1m | `2s` | How long it dries. |\n"
	if got := paint().Markdown(); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestFaults(t *testing.T) {
	table := paint()
	if err := table.Faults(); err != nil {
		t.Error(err)
	}
	table.Variables = append(table.Variables, table.Variables[0], Variable[colours]{Name: "PAINT_NEW", Kind: "text"})
	if err := table.Faults(); err == nil || err.Error() != "PAINT_WALL is twice in the table\nPAINT_NEW has no type or no effect" {
		t.Error(err)
	}
}
