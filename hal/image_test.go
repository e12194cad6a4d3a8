package hal

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ultravioletrs/cocos/hal/verity"
)

func sampleImage() Image {
	p := verity.Params{DataBlocks: 200}
	p.RootHash[0], p.Salt[31] = 0xab, 0xcd
	sum := strings.Repeat("1f", 32)
	img := Image{
		Version: ImageVersion, KernelVersion: "6.12.1+deb13-cloud-amd64",
		Kernel: File{KernelFile, 10, sum}, Initrd: File{InitrdFile, 11, sum},
		Python: Disk{File{PythonFile, p.Size(), sum}, NewVerity(p)},
	}
	img.CommandLine = CommandLines{CommandLine(img, false), CommandLine(img, true)}
	return img
}

func TestCommandLine(t *testing.T) {
	const common = " panic=-1 oops=panic random.trust_cpu=on random.trust_bootloader=off lockdown=confidentiality module.sig_enforce=1 init_on_free=1 acpiphp.disable=1" +
		" cocos.runtime=sha256-4096:200:ab00000000000000000000000000000000000000000000000000000000000000:00000000000000000000000000000000000000000000000000000000000000cd"
	img := sampleImage()
	if got, want := CommandLine(img, true), "console=null no_timer_check"+common; got != want {
		t.Errorf("attested:\n got %s\nwant %s", got, want)
	}
	if got, want := CommandLine(img, false), "console=ttyS0 quiet no_timer_check"+common; got != want {
		t.Errorf("plain:\n got %s\nwant %s", got, want)
	}
}

func TestImageRoundTrip(t *testing.T) {
	img := sampleImage()
	b, err := img.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	got, err := ParseImage(b)
	if err != nil {
		t.Fatal(err)
	}
	if got != img {
		t.Errorf("got %+v, want %+v", got, img)
	}
}

// Every field of a good description is broken in turn; the error names it.
func TestParseImageRefuses(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(m map[string]any)
		want   string
	}{
		"version":         {func(m map[string]any) { m["version"] = 2 }, "version: 2"},
		"kernel_version":  {func(m map[string]any) { m["kernel_version"] = "" }, "kernel_version"},
		"kernel.name":     {func(m map[string]any) { sub(m, "kernel")["name"] = "../x" }, "kernel.name"},
		"kernel.size":     {func(m map[string]any) { sub(m, "kernel")["size"] = 0 }, "kernel.size"},
		"kernel.sha256":   {func(m map[string]any) { sub(m, "kernel")["sha256"] = "ab" }, "kernel.sha256"},
		"upper case":      {func(m map[string]any) { sub(m, "kernel")["sha256"] = strings.Repeat("1F", 32) }, "kernel.sha256"},
		"initrd missing":  {func(m map[string]any) { delete(m, "initrd") }, "initrd.sha256"},
		"python.size":     {func(m map[string]any) { sub(m, "python")["size"] = 4096 }, "python.size"},
		"root_hash":       {func(m map[string]any) { sub(m, "python", "verity")["root_hash"] = strings.Repeat("0", 64) }, "root hash is zero"},
		"salt":            {func(m map[string]any) { sub(m, "python", "verity")["salt"] = "" }, "salt"},
		"data_blocks":     {func(m map[string]any) { sub(m, "python", "verity")["data_blocks"] = 0 }, "data blocks"},
		"block_size":      {func(m map[string]any) { sub(m, "python", "verity")["block_size"] = 512 }, "block_size"},
		"hash_offset":     {func(m map[string]any) { sub(m, "python", "verity")["hash_offset"] = 0 }, "hash_offset"},
		"plain":           {func(m map[string]any) { sub(m, "command_line")["plain"] = "console=ttyS0" }, "command_line.plain"},
		"attested":        {func(m map[string]any) { sub(m, "command_line")["attested"] = "init=/bin/sh" }, "command_line.attested"},
		"unknown":         {func(m map[string]any) { m["extra"] = 1 }, "extra"},
		"unknown, nested": {func(m map[string]any) { sub(m, "python", "verity")["extra"] = 1 }, "extra"},
	} {
		t.Run(name, func(t *testing.T) {
			b, err := sampleImage().Bytes()
			if err != nil {
				t.Fatal(err)
			}
			var m map[string]any
			if err := json.Unmarshal(b, &m); err != nil {
				t.Fatal(err)
			}
			tc.change(m)
			if b, err = json.Marshal(m); err != nil {
				t.Fatal(err)
			}
			if _, err := ParseImage(b); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want an error with %q", err, tc.want)
			}
		})
	}
	b, _ := sampleImage().Bytes()
	if _, err := ParseImage(append(b, "{}"...)); err == nil {
		t.Error("text after the end passes")
	}
}

func sub(m map[string]any, keys ...string) map[string]any {
	for _, k := range keys {
		m = m[k].(map[string]any)
	}
	return m
}

func TestLoadAndCheck(t *testing.T) {
	dir := t.TempDir()
	if _, err := Load(dir); err == nil || !strings.Contains(err.Error(), "make hal") {
		t.Errorf("no image: got %v, want what to do next", err)
	}
	img := sampleImage()
	for _, f := range []*File{&img.Kernel, &img.Initrd, &img.Python.File} {
		if err := os.WriteFile(filepath.Join(dir, f.Name), make([]byte, img.Python.Size), 0o644); err != nil {
			t.Fatal(err)
		}
		got, err := Digest(dir, f.Name)
		if err != nil {
			t.Fatal(err)
		}
		*f = got
	}
	b, err := img.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, ManifestFile), b, 0o644); err != nil {
		t.Fatal(err)
	}
	got, err := Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := got.Check(dir); err != nil {
		t.Errorf("a good image: %v", err)
	}
	for _, name := range []string{KernelFile, InitrdFile, PythonFile} {
		path := filepath.Join(dir, name)
		good, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		bad := append([]byte(nil), good...)
		bad[len(bad)-1] ^= 1
		if err := os.WriteFile(path, bad, 0o644); err != nil {
			t.Fatal(err)
		}
		if err := got.Check(dir); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s with a flipped bit: got %v, want an error that names it", name, err)
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		if err := got.Check(dir); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s missing: got %v, want an error that names it", name, err)
		}
		if err := os.WriteFile(path, good, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}
