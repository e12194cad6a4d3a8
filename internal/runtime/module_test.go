package runtime

import (
	"os"
	"strings"
	"testing"

	"github.com/ultravioletrs/cocos/internal/runtime/wasm/wasmtest"
)

// TestThisProgramIsTheEngine, as the agent is, if it is static; with the race
// detector it is not.
func TestThisProgramIsTheEngine(t *testing.T) {
	self, err := os.Open("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	defer self.Close()
	loader, err := loaderOf(self)
	if err != nil {
		t.Fatal(err)
	}
	o, err := new(Runner).Run(t.Context(), wasmJob(t, wasmtest.Command(0x00).Bytes()))
	if loader == "" && (err != nil || o.ExitCode != 134) {
		t.Errorf("ended with %d, %v", o.ExitCode, err)
	}
	if loader != "" && (err == nil || !strings.Contains(err.Error(), "is dynamically linked ("+loader+"); build it with CGO_ENABLED=0")) {
		t.Errorf("Run: %v; this program needs %s", err, loader)
	}
}

func TestEnginesThatAreRefused(t *testing.T) {
	for name, want := range map[string]string{"/no/engine": "no such file", "/bin/cat": "dynamically linked", "/etc/hostname": "engine: /etc/hostname: is "} {
		_, err := (&Runner{Engine: name}).Run(t.Context(), wasmJob(t, wasmtest.Command().Bytes()))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v; want %q", name, err, want)
		}
	}
}

func TestModulesThatAreRefusedAtLength(t *testing.T) {
	reactor, err := buildModule("-buildmode=c-shared")
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		code []byte
		want string
	}{
		"a library":   {reactor, "is a library (a WASI reactor"},
		"a component": {[]byte("\x00asm\x0d\x00\x01\x00"), "is a WebAssembly component"},
		"a script":    {[]byte("#!/usr/bin/env python3\n"), "is not a WebAssembly module"},
		"nothing":     {nil, "too short"},
		"for the web": {wasmtest.Module{Exports: wasmtest.Command().Exports, Imports: []wasmtest.Name{{Module: "env", Name: "memory", Kind: wasmtest.Memory}}}.Bytes(),
			`imports "memory" of "env"`},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := wasmRunner(t).Run(t.Context(), wasmJob(t, tt.code)); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Run: %v; want %q in it", err, tt.want)
			}
		})
	}
}
