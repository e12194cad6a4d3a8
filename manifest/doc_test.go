package manifest_test

import (
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/ultravioletrs/cocos/manifest"
)

// ownStruct tells whether the members of a type are the manifest's.
func ownStruct(t reflect.Type) bool {
	return t.Kind() == reflect.Struct && t.PkgPath() == reflect.TypeFor[manifest.Manifest]().PkgPath()
}

// Every member of the manifest has its line in the documentation, and says
// truly whether it may be left out.
func TestDocumentationHasEveryMember(t *testing.T) {
	b, err := os.ReadFile("../docs/manifest.md")
	if err != nil {
		t.Fatal(err)
	}
	lines := map[string][]string{}
	for line := range strings.Lines(string(b)) {
		if cells := strings.Split(line, "|"); len(cells) == 6 {
			lines[strings.Trim(cells[1], " `")] = cells
		}
	}
	known := map[string]bool{"member": true, "---": true}
	var walk func(reflect.Type, string)
	walk = func(typ reflect.Type, prefix string) {
		for field := range typ.Fields() {
			name, options, _ := strings.Cut(field.Tag.Get("json"), ",")
			path := prefix + name
			known[path] = true
			cells := lines[path]
			if cells == nil {
				t.Errorf("%s is not documented", path)
				continue
			}
			want := "yes"
			if strings.Contains(options, "omitzero") {
				want = "no"
			}
			if got := strings.TrimSpace(cells[3]); got != want {
				t.Errorf("%s: required is %q, want %q", path, got, want)
			}
			switch {
			case field.Type.Kind() == reflect.Slice && ownStruct(field.Type.Elem()):
				walk(field.Type.Elem(), path+"[].")
			case ownStruct(field.Type):
				walk(field.Type, path+".")
			}
		}
	}
	walk(reflect.TypeFor[manifest.Manifest](), "")
	for path := range lines {
		if !known[path] {
			t.Errorf("the documentation has %q, the manifest has not", path)
		}
	}
}
