package agent

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"strings"
	"testing"
)

// The documentation names every state, failure, call and reason.
func TestDocumentationIsComplete(t *testing.T) {
	b, err := os.ReadFile("../../docs/agent.md")
	if err != nil {
		t.Fatal(err)
	}
	doc := string(b)
	// The reasons of the Manager's control API stand with the commands that
	// show them.
	managers, err := os.ReadFile("../../docs/cli.md")
	if err != nil {
		t.Fatal(err)
	}
	for s := range transitions {
		if !strings.Contains(doc, string(s)) {
			t.Errorf("state %s is not documented", s)
		}
	}
	for _, r := range []Reason{AlgorithmFailed, AgentFailed} {
		if !strings.Contains(doc, "| `"+string(r)+"` |") {
			t.Errorf("failure %s is not documented", r)
		}
	}
	for m := range callRoles {
		if name := m[strings.LastIndex(m, "/")+1:]; !strings.Contains(doc, "| `"+name+"` |") {
			t.Errorf("call %s is not documented", name)
		}
	}
	for s, row := range map[step]string{
		silent: "no whole ClientHello came", greeted: "TLS goes on", waiting: "waits for evidence",
		appraising: "has the evidence, and gives no verdict yet", connected: "no call was admitted yet", admitted: "a participant's",
	} {
		if want := fmt.Sprintf("| %s | %d |", row, allPlaces[s]); !strings.Contains(doc, want) {
			t.Errorf("the documentation lacks %q", want)
		}
	}
	for _, name := range []string{resultsName + "/", stdoutName, stderrName, runName, failureName} {
		if !strings.Contains(doc, "`"+name+"`") {
			t.Errorf("entry %s is not documented", name)
		}
	}
	f, err := parser.ParseFile(token.NewFileSet(), "../rpcerr/rpcerr.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	reasons := 0
	ast.Inspect(f, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok {
			return true
		}
		if kind, ok := spec.Type.(*ast.Ident); !ok || kind.Name != "Reason" {
			return true
		}
		reasons++
		value := strings.Trim(spec.Values[0].(*ast.BasicLit).Value, `"`)
		if !strings.Contains(doc, "`"+value+"`") && !strings.Contains(string(managers), "`"+value+"`") {
			t.Errorf("reason %s is not documented", value)
		}
		return true
	})
	if reasons < 15 {
		t.Errorf("found %d reasons only", reasons)
	}
}
