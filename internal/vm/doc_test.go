package vm

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

// docs/vm.md names every file of a VM's folder, and what Manager and shim agree on
// beside them.
func TestDocumentation(t *testing.T) {
	b, err := os.ReadFile("../../docs/vm.md")
	if err != nil {
		t.Fatal(err)
	}
	want := []string{fmt.Sprintf("vsock port %d", EgressPort), "serial=" + ScratchSerial + ",", "`machine.scratch_bytes`", "`egress.allow`"}
	dir := reflect.ValueOf(Dir("vm"))
	for i := range dir.NumMethod() {
		f, ok := dir.Method(i).Interface().(func() string)
		if !ok {
			continue
		}
		want = append(want, "`"+filepath.Base(f()))
	}
	if len(want) < 18 {
		t.Errorf("found only %q", want)
	}
	for _, w := range want {
		if !strings.Contains(string(b), w) {
			t.Errorf("docs/vm.md does not say %q", w)
		}
	}
}
