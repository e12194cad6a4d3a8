package main

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

// TestTables: what lies in the source tree is what comes out.
func TestTables(t *testing.T) {
	dir := t.TempDir()
	if err := run([]string{dir}); err != nil {
		t.Fatal(err)
	}
	made, err := os.ReadDir(dir)
	if err != nil || len(made) != 2 {
		t.Fatalf("it made %v, %v", made, err)
	}
	for _, f := range made {
		got, err := os.ReadFile(filepath.Join(dir, f.Name()))
		if err != nil {
			t.Fatal(err)
		}
		want, err := os.ReadFile(filepath.Join("..", "data", f.Name()))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s is not what the generator makes; run: go run ./examples/hospitals/generate examples/hospitals/data", f.Name())
		}
	}
	if err := run(nil); err == nil {
		t.Error("it runs without a folder")
	}
}
