package appraisal

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/ultravioletrs/cocos/attest"
)

const docs = "../../docs/"

func page(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(docs + name)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// The page on policies names each member of the file, and shows no other's.
func TestPolicyIsDocumented(t *testing.T) {
	text := page(t, "policy.md")
	members := map[string]bool{}
	var visit func(r reflect.Type)
	visit = func(r reflect.Type) {
		switch r.Kind() {
		case reflect.Pointer, reflect.Slice, reflect.Map:
			visit(r.Elem())
		case reflect.Struct:
			for i := range r.NumField() {
				name, _, _ := strings.Cut(r.Field(i).Tag.Get("json"), ",")
				members[name] = true
				visit(r.Field(i).Type)
			}
		}
	}
	visit(reflect.TypeFor[attest.Policy]())
	if len(members) < 40 {
		t.Fatalf("only %d members were found", len(members))
	}
	for name := range members {
		if !strings.Contains(text, "`"+name+"`") {
			t.Errorf("policy.md does not name %s", name)
		}
	}
	for _, row := range regexp.MustCompile("(?m)^\\| `([a-z_0-9]+)` \\|").FindAllStringSubmatch(text, -1) {
		if !members[row[1]] {
			t.Errorf("policy.md has a row on %s, which is no member", row[1])
		}
	}
	for _, s := range append(attest.IntelStatuses(), attest.SimConsent, string(attest.CheckRequired), string(attest.CheckNot)) {
		if !strings.Contains(text, s) {
			t.Errorf("policy.md does not name %q", s)
		}
	}
}

// literals of the files of a package that look like names of claims.
func literals(t *testing.T, dir string, name *regexp.Regexp, in func(ast.Node) []ast.Expr) map[string]bool {
	t.Helper()
	found := map[string]bool{}
	files, err := filepath.Glob(filepath.Join("..", dir, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(f, func(n ast.Node) bool {
			for _, e := range in(n) {
				l, ok := e.(*ast.BasicLit)
				if !ok || l.Kind != token.STRING {
					continue
				}
				if s, err := strconv.Unquote(l.Value); err == nil && name.MatchString(s) {
					found[s] = true
				}
			}
			return true
		})
	}
	if len(found) == 0 {
		t.Fatalf("no claims were found in attest/%s", dir)
	}
	return found
}

// The page on attestation names each claim that a result can have.
func TestClaimsAreDocumented(t *testing.T) {
	text := page(t, "attestation.md")
	every := func(n ast.Node) []ast.Expr {
		if e, ok := n.(ast.Expr); ok {
			return []ast.Expr{e}
		}
		return nil
	}
	for _, dir := range []string{"appraisal", "snp", "sim", "tdx", "sgx"} {
		prefix := dir
		if dir == "appraisal" {
			prefix = "evidence"
		}
		for name := range literals(t, dir, regexp.MustCompile(`^`+prefix+`(\.[a-z0-9_]+)+$`), every) {
			if !strings.Contains(text, "`"+name+"`") {
				t.Errorf("attestation.md does not name the claim %s", name)
			}
		}
	}
	// In package intel the names have no prefix: they are those of the hints, and
	// what its judge adds.
	shared := literals(t, "intel", regexp.MustCompile(`^[a-z_]+(\.[a-z_]+)*$`), func(n ast.Node) []ast.Expr {
		switch n := n.(type) {
		case *ast.KeyValueExpr:
			if value, ok := n.Value.(*ast.BasicLit); ok && strings.Contains(value.Value, " ") {
				return []ast.Expr{n.Key}
			}
		case *ast.CallExpr:
			if f, ok := n.Fun.(*ast.SelectorExpr); ok && (f.Sel.Name == "add" || f.Sel.Name == "skip" || f.Sel.Name == "within") {
				return n.Args
			}
		}
		return nil
	})
	for _, known := range []string{"signature", "fmspc", "tcb.status", "platform.smt", "qe_identity.dates"} {
		if !shared[known] {
			t.Errorf("the claim %s was not found in package intel", known)
		}
	}
	for name := range shared {
		if !strings.Contains(text, "`"+name+"`") {
			t.Errorf("attestation.md does not name the claim %s of TDX and SGX", name)
		}
	}
}
