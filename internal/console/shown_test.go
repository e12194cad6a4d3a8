package console_test

import (
	"flag"
	"go/ast"
	"go/parser"
	"go/token"
	"html"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write testdata/commands.txt anew")

// word is one of a command's, or of prose.
var word = regexp.MustCompile(`^[a-z][a-z-]*$`)

// shown are our programs with their commands, as a text names them: at most three
// words, of which the last may be prose already.
func shown(text string) (all []string) {
	const around = "(“”.,;:)"
	words := strings.Fields(text)
	for i, program := range words {
		if program = strings.TrimLeft(program, around); program != "cocos-cli" && program != "cocos-computations" {
			continue
		}
		found := []string{program}
		for _, next := range words[i+1 : min(len(words), i+4)] {
			if !word.MatchString(strings.TrimRight(next, around)) {
				break
			}
			found = append(found, strings.TrimRight(next, around))
			if next != strings.TrimRight(next, around) {
				break
			}
		}
		if len(found) > 1 {
			all = append(all, strings.Join(found, " "))
		}
	}
	return all
}

// commands are the lines that a page gives to copy.
func commands(page string) (all []string) {
	for _, m := range regexp.MustCompile(`(?s)<pre><code>(.*?)</code></pre>`).FindAllStringSubmatch(page, -1) {
		all = append(all, html.UnescapeString(tags.ReplaceAllString(m[1], "")))
	}
	return all
}

// TestCommandsShown: testdata/commands.txt has every command that pages, steps and
// refusals name, with its flags. Tests of the programs hold them to it: what the
// service tells people to type is there.
func TestCommandsShown(t *testing.T) {
	found := map[string]bool{}
	note := func(text string) {
		for _, command := range shown(text) {
			found[command] = true
		}
	}
	flags := func(line string) {
		for _, command := range shown(line) {
			for _, word := range strings.Fields(line) {
				if flag, _, _ := strings.Cut(word, "="); strings.HasPrefix(flag, "--") {
					found[command+" "+flag] = true
				}
			}
		}
	}
	w := newWorld(t)
	paths := []string{"/c/{complete}", "/c/{frozen}", "/c/{ready}", "/c/{busy}", "/r/{busy run}"}
	for _, v := range w.fixtures() {
		if v.form == nil { // another page would depend on what a form does
			paths = append(paths, v.path)
		}
	}
	for _, path := range paths {
		if strings.HasSuffix(path, "/stream") {
			continue
		}
		for name := range people {
			body := w.browse(name).get(w.path(path, false)).body
			note(html.UnescapeString(tags.ReplaceAllString(body, " ")))
			for _, line := range commands(body) {
				flags(line)
			}
		}
	}
	for _, dir := range []string{".", "../computations"} {
		w.check(filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil || filepath.Ext(path) != ".go" || strings.HasSuffix(path, "_test.go") {
				return err
			}
			f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
			if err != nil {
				return err
			}
			ast.Inspect(f, func(n ast.Node) bool {
				if lit, ok := n.(*ast.BasicLit); ok && lit.Kind == token.STRING {
					text, err := strconv.Unquote(lit.Value)
					w.check(err)
					note(text)
				}
				return true
			})
			return nil
		}))
	}
	for _, file := range []string{"todo.txt", "todo-inputs.txt"} {
		todo, err := os.ReadFile("../computations/testdata/" + file)
		w.check(err)
		for line := range strings.Lines(string(todo)) {
			note(line)
			if command, ok := strings.CutPrefix(strings.TrimSpace(line), "$ "); ok {
				flags(command)
			}
		}
	}
	got := strings.Join(slices.Sorted(maps.Keys(found)), "\n") + "\n"
	const file = "testdata/commands.txt"
	if *update {
		w.check(os.WriteFile(file, []byte(got), 0o644))
	}
	want, err := os.ReadFile(file)
	w.check(err)
	if got != string(want) {
		t.Errorf("other commands are shown than %s has; got\n%s", file, got)
	}
}
