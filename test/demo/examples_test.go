package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestChoose(t *testing.T) {
	d := &demo{dir: t.TempDir()}
	for _, e := range examples(d) {
		if err := d.choose(e.name); err != nil || d.example.name != e.name {
			t.Errorf("%s: %v, chose %s", e.name, err, d.example.name)
		}
		if _, err := os.Stat(filepath.Join("..", "..", e.source)); err != nil {
			t.Errorf("%s: %v", e.name, err)
		}
	}
	if err := d.choose(""); err != nil || d.example.name != "iris" {
		t.Errorf("without a name: %v, chose %s", err, d.example.name)
	}
	if err := d.choose("wasm"); err == nil || !strings.Contains(err.Error(), `no example "wasm"; there are iris, aggregate-wasm, container-stats, hospitals, psi`) {
		t.Errorf("another name: %v", err)
	}
}
