package guest

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/ultravioletrs/cocos/internal/vm"
)

// The documentation has every phase, and every refusal with its text.
func TestDocumentationIsComplete(t *testing.T) {
	b, err := os.ReadFile("../../docs/guest.md")
	if err != nil {
		t.Fatal(err)
	}
	doc := string(b)
	for _, p := range new(Machine).Phases() {
		if !strings.Contains(doc, "\n| "+p.Name+" | ") {
			t.Errorf("phase %q is not documented", p.Name)
		}
	}
	for _, r := range vm.Refusals() {
		if row := fmt.Sprintf("\n| `%s` | %s |\n", r, r.Text()); r.Text() == "" || !strings.Contains(doc, row) {
			t.Errorf("the documentation lacks the row %q", row)
		}
	}
	if s := vm.Refusal("other").Text(); s != "" {
		t.Errorf("a word that is none has the text %q", s)
	}
}
