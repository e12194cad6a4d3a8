package main

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ultravioletrs/cocos/keys"
	"github.com/ultravioletrs/cocos/manifest"
)

// inputs are an algorithm, a public key and a dataset.
func inputs(t *testing.T) (dir string, args []string) {
	t.Helper()
	dir = t.TempDir()
	key, err := keys.Generate(keys.Ed25519)
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"algo.py": "print()\n", "owner.pub.pem": string(key.Public().PEM()), "data.csv": "a,b", "more.csv": "c,d"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir, []string{filepath.Join(dir, "algo.py"), filepath.Join(dir, "owner.pub.pem"), "false"}
}

func TestRefusals(t *testing.T) {
	dir, good := inputs(t)
	edit := func(i int, s string) []string {
		args := slices.Clone(good)
		args[i] = s
		return args
	}
	for name, c := range map[string]struct {
		args  []string
		env   map[string]string
		usage bool
		says  string
	}{
		"no arguments":        {nil, nil, true, "at least 3"},
		"-ttl no duration":    {append([]string{"-ttl", "soon"}, good...), nil, true, "soon"},
		"-ttl not whole":      {append([]string{"-ttl", "1500ms"}, good...), nil, true, "whole seconds"},
		"-ttl negative":       {append([]string{"-ttl", "-1s"}, good...), nil, true, "whole seconds"},
		"unknown option":      {append([]string{"-life", "1s"}, good...), nil, true, "-life"},
		"attested by nothing": {edit(2, "true"), nil, false, `TEE=""`},
		"attested by none":    {edit(2, "true"), map[string]string{"TEE": "none"}, false, `TEE="none"`},
		"TEE, not attested":   {good, map[string]string{"TEE": "sim"}, false, `TEE="sim" is of use`},
		"nobody approves":     {edit(2, "true"), map[string]string{"TEE": "sim"}, false, "APPROVAL_FILES names 0 files; 1 participants"},
		"no approval":         {edit(2, "true"), map[string]string{"TEE": "sim", "APPROVAL_FILES": good[0], "PORT": "0"}, false, "APPROVAL_FILES: " + good[0]},
		"no other's key":      {good, map[string]string{"DATA_PUBLIC_KEY": good[0]}, false, "DATA_PUBLIC_KEY"},
		"perhaps attested":    {edit(2, "yes"), nil, true, `"yes"`},
		"no key":              {edit(1, filepath.Join(dir, "none")), nil, false, "cocos-cli keys"},
		"key is a script":     {edit(1, good[0]), nil, false, "<public-key-path>"},
		"no data":             {append(slices.Clone(good), filepath.Join(dir, "none")), nil, false, "none"},
		"data without end":    {append(slices.Clone(good), "/dev/zero"), nil, false, "/dev/zero is neither a file nor a folder"},
		"PORT":                {good, map[string]string{"PORT": "http"}, false, `PORT="http"`},
		"HOST":                {good, map[string]string{"HOST": "192.0.2.1", "PORT": "0"}, false, "HOST"},
		"certificate alone":   {good, map[string]string{"SERVER_CERT": good[1]}, false, "SERVER_KEY"},
		"certificate and CA":  {good, map[string]string{"SERVER_CERT": good[1], "SERVER_KEY": good[1], "CA_FILE": "x"}, false, "CA_FILE"},
		"ALGO_ARGS":           {good, map[string]string{"ALGO_ARGS": `["a", 1]`}, false, "ALGO_ARGS"},
		"ALGO_TYPE":           {good, map[string]string{"ALGO_TYPE": "fortran"}, false, `ALGO_TYPE="fortran"`},
		"ALGO_FILES":          {good, map[string]string{"ALGO_FILES": filepath.Join(dir, "none")}, false, "algorithm: "},
		"PYTHON_PACKAGES":     {good, map[string]string{"PYTHON_PACKAGES": "requirements.txt"}, false, `PYTHON_PACKAGES="requirements.txt": expected the names of two`},
		"packages, no files":  {good, map[string]string{"PYTHON_PACKAGES": "a,b"}, false, `/algorithm/python/requirements is "a"`},
		"SCRATCH_BYTES":       {good, map[string]string{"SCRATCH_BYTES": "1G"}, false, `SCRATCH_BYTES="1G"`},
		"SCRATCH_BYTES small": {good, map[string]string{"SCRATCH_BYTES": "4096"}, false, "/scratch_bytes"},
		"MANIFEST_FILE":       {good, map[string]string{"MANIFEST_FILE": filepath.Join(dir, "none", "m")}, false, "MANIFEST_FILE"},
		"EVENTS_FILE":         {good, map[string]string{"EVENTS_FILE": good[0], "PORT": "0"}, false, "EVENTS_FILE: " + good[0] + ":1"},
	} {
		t.Run(name, func(t *testing.T) {
			tmp := t.TempDir()
			t.Setenv("TMPDIR", tmp)
			err := run(t.Context(), c.args, func(name string) string { return c.env[name] })
			if err == nil || !strings.Contains(err.Error(), c.says) || errors.Is(err, errUsage) != c.usage {
				t.Errorf("%v\nexpected %q in it", err, c.says)
			}
			if left, err := os.ReadDir(tmp); err != nil || len(left) > 0 {
				t.Errorf("left behind: %v, %v", left, err)
			}
		})
	}
}

func TestArguments(t *testing.T) {
	dir, args := inputs(t)
	data, more := filepath.Join(dir, "data.csv"), filepath.Join(dir, "more.csv")
	for text, want := range map[string][]string{"": nil, "-n 3": {"-n", "3"}, `["a b", "c"]`: {"a b", "c"}} {
		for _, paths := range [][]string{{data + "," + more}, {data, more}, {data + ",", more}} {
			s, err := prepare(append(slices.Clone(args), paths...), func(name string) string {
				return map[string]string{"ALGO_ARGS": text}[name]
			})
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(s.frozen.Algorithm.Args, want) || len(s.frozen.Datasets) != 2 || s.frozen.Datasets[1].Name != "more.csv" {
				t.Errorf("%+v", s.frozen.Manifest)
			}
		}
	}
	for in, want := range map[string]string{"a/b.py": "a/b.py", "a b": "'a b'", "it's": `'it'\''s'`, "": "''", "$(x)": "'$(x)'"} {
		if got := quote(in); got != want {
			t.Errorf("%s: %s", in, got)
		}
	}
}

// TestFiles: what is beside the algorithm, packages, and a disk for the inputs.
func TestFiles(t *testing.T) {
	dir, args := inputs(t)
	wheels := filepath.Join(dir, "wheels")
	if err := os.Mkdir(wheels, 0o700); err != nil {
		t.Fatal(err)
	}
	env := map[string]string{"ALGO_FILES": filepath.Join(dir, "data.csv") + "," + wheels, "PYTHON_PACKAGES": "data.csv,wheels", "SCRATCH_BYTES": "1073741824"}
	s, err := prepare(args, func(name string) string { return env[name] })
	if err != nil {
		t.Fatal(err)
	}
	a := s.frozen.Algorithm
	if len(a.Files) != 2 || a.Files[0].UnpackedMax != 0 || a.Files[1].UnpackedMax == 0 || a.Python.Wheels != "wheels" || s.frozen.ScratchBytes != 1<<30 {
		t.Errorf("%+v", s.frozen.Manifest)
	}
	want := []string{args[0], "--file", "data.csv=" + filepath.Join(dir, "data.csv"), "--file", "wheels=" + wheels}
	if got := s.algorithmPaths(); !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
}

// TestAsDocumented runs the very command of the documentation until it listens,
// and ends it by a signal.
func TestAsDocumented(t *testing.T) {
	dir, args := inputs(t)
	exe := filepath.Join(dir, "computations")
	// `go run` would not pass the signal on; main.go alone must be a program.
	if out, err := exec.Command("go", "build", "-o", exe, "main.go").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, exe, args...)
	manifestFile, ca := filepath.Join(dir, "m.json"), filepath.Join(dir, "ca.pem")
	cmd.Env = append(os.Environ(), "PORT=0", "TMPDIR="+dir, "MANIFEST_FILE="+manifestFile, "CA_FILE="+ca)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	buf := make([]byte, 4096)
	for !strings.Contains(text.String(), "cocos-manager\n") {
		n, err := out.Read(buf)
		text.Write(buf[:n])
		if err != nil {
			t.Fatalf("%v\n%s", err, &text)
		}
	}
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("ended by a signal: %v", err)
	}
	if left, err := filepath.Glob(filepath.Join(dir, "cocos-*")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	raw, err := os.ReadFile(manifestFile)
	if err != nil {
		t.Fatal(err)
	}
	f, err := manifest.Parse(raw)
	if err != nil || !strings.Contains(text.String(), f.Digest.String()) || !strings.Contains(text.String(), "MANAGER_GRPC_SERVER_CA_CERTS="+ca) {
		t.Errorf("%v\n%s", err, &text)
	}
	if !json.Valid(raw) {
		t.Error("the manifest is no JSON")
	}
}

// TestAttested: with attested TLS everybody approves, and data can be another's.
func TestAttested(t *testing.T) {
	dir, args := inputs(t)
	args[2] = "true"
	args = append(args, filepath.Join(dir, "data.csv"))
	bob, err := keys.Generate(keys.Ed25519)
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(dir, "bob.pub.pem")
	if err := os.WriteFile(name, bob.Public().PEM(), 0o600); err != nil {
		t.Fatal(err)
	}
	env := map[string]string{"TEE": "sim", "APPROVAL_FILES": "a.json,b.json", "DATA_PUBLIC_KEY": name}
	s, err := prepare(args, func(name string) string { return env[name] })
	if err != nil {
		t.Fatal(err)
	}
	m := s.frozen
	if m.TEE != manifest.TEESim || !m.AttestedTLS || len(m.Approvals) != 2 || !m.Datasets[0].Provider.Equal(bob.Public()) || m.Algorithm.Provider.Equal(bob.Public()) {
		t.Errorf("%+v", m.Manifest)
	}
}

func TestTimeToLive(t *testing.T) {
	_, good := inputs(t)
	for text, want := range map[string]time.Duration{"0": 0, "90s": 90 * time.Second, "2h": 2 * time.Hour} {
		s, err := prepare(append([]string{"-ttl", text}, good...), func(string) string { return "" })
		if err != nil || s.ttl != want {
			t.Errorf("-ttl %s: %v", text, err)
		}
	}
	if s, err := prepare(good, func(string) string { return "" }); err != nil || s.ttl != 0 {
		t.Errorf("without -ttl: %v", err)
	}
}
