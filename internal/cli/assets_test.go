package cli

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/ultravioletrs/cocos/manifest"
)

func TestAlgorithmTypeIsFound(t *testing.T) {
	for _, tt := range []struct {
		name, content string
		want          manifest.AlgorithmType // empty: not found
	}{
		{"a.py", "print()", manifest.Python},
		{"script", "#!/usr/bin/env python3\n", manifest.Python},
		{"elf.py", "\x7fELF\x02", manifest.Binary},
		{"module.py", "\x00asm\x01\x00\x00\x00", manifest.Wasm},
		{"a.wasm", "(module)", ""},
		{"a.sh", "#!/bin/sh\n", ""},
		{"empty", "", ""},
	} {
		path := filepath.Join(t.TempDir(), tt.name)
		if err := os.WriteFile(path, []byte(tt.content), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := algorithmType(path); got != string(tt.want) || (err == nil) != (tt.want != "") {
			t.Errorf("%s: %q, %v; want %q", tt.name, got, err, tt.want)
		}
	}
}
