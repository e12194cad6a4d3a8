package guest

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ultravioletrs/cocos/internal/vm"
)

// blocks makes a /sys/block of disks: by name, their sectors and serial number.
func blocks(t *testing.T, disks map[string][2]string) string {
	t.Helper()
	sys := t.TempDir()
	for name, d := range disks {
		if err := os.MkdirAll(filepath.Join(sys, name), 0o755); err != nil {
			t.Fatal(err)
		}
		for i, attribute := range []string{"size", "serial"} {
			if d[i] == "" {
				continue
			}
			if err := os.WriteFile(filepath.Join(sys, name, attribute), []byte(d[i]), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	return sys
}

const none, scratchSerial = "\n", vm.ScratchSerial + "\n"

func TestFindDisks(t *testing.T) {
	type both struct{ runtime, scratch string }
	for name, tt := range map[string]struct {
		disks map[string][2]string
		want  both
		err   string
	}{
		"none":              {map[string][2]string{"loop0": {"16\n", ""}}, both{}, ""},
		"runtime":           {map[string][2]string{"vda": {"16\n", none}, "loop0": {"8\n", ""}}, both{runtime: "vda"}, ""},
		"scratch":           {map[string][2]string{"vda": {"16\n", scratchSerial}}, both{scratch: "vda"}, ""},
		"both":              {map[string][2]string{"vda": {"16\n", none}, "vdb": {"16\n", scratchSerial}}, both{"vda", "vdb"}, ""},
		"the other way":     {map[string][2]string{"vda": {"16\n", scratchSerial}, "vdb": {"16\n", none}}, both{"vdb", "vda"}, ""},
		"two for runtime":   {map[string][2]string{"vda": {"16\n", none}, "vdb": {"16\n", none}}, both{}, "vda and vdb both"},
		"two for scratch":   {map[string][2]string{"vda": {"16\n", scratchSerial}, "vdb": {"16\n", scratchSerial}}, both{}, "vda and vdb both"},
		"another serial":    {map[string][2]string{"vda": {"16\n", "cocos-scratch2\n"}}, both{}, `serial number "cocos-scratch2"`},
		"size unread":       {map[string][2]string{"vda": {"x\n", none}}, both{}, "size"},
		"size less than 0":  {map[string][2]string{"vda": {"-1\n", none}}, both{}, "size"},
		"size beyond all":   {map[string][2]string{"vda": {"9223372036854775807\n", none}}, both{}, "size"},
		"no serial to read": {map[string][2]string{"vda": {"16\n", ""}}, both{}, "serial"},
	} {
		t.Run(name, func(t *testing.T) {
			d, err := findDisks(blocks(t, tt.disks))
			if (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) {
				t.Fatalf("%v; want %q", err, tt.err)
			}
			var got both
			if d.runtime != nil && err == nil {
				got.runtime = d.runtime.name
			}
			if d.scratch != nil && err == nil {
				got.scratch = d.scratch.name
			}
			if got != tt.want {
				t.Errorf("%v; want %v", got, tt.want)
			}
		})
	}
}

func TestRuntimeOf(t *testing.T) {
	for name, tt := range map[string]struct {
		disk *disk
		err  string
	}{
		"fits":      {&disk{"vda", 8192}, ""},
		"larger":    {&disk{"vda", 1 << 20}, ""},
		"too small": {&disk{"vda", 7680}, "has 7680 bytes"},
		"none":      {nil, "has none"},
	} {
		// The scratch disk is never taken for it.
		got, err := disks{runtime: tt.disk, scratch: &disk{"vdz", 1 << 30}}.runtimeOf(8192)
		if (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) || err == nil && got != "vda" {
			t.Errorf("%s: %q, %v; want %q", name, got, err, tt.err)
		}
	}
}

func TestCheckDisks(t *testing.T) {
	runtime, scratch := &disk{"vda", 1 << 20}, &disk{"vdb", 1 << 30}
	for name, tt := range map[string]struct {
		disks    disks
		asked    int64
		attested bool
		runtime  bool
		err      string
	}{
		"asked for":               {disks{runtime, scratch}, 1 << 30, true, true, ""},
		"larger than asked for":   {disks{nil, scratch}, 1 << 20, true, false, ""},
		"none asked for":          {disks{runtime, nil}, 0, true, true, ""},
		"missing":                 {disks{runtime, nil}, 1 << 30, false, true, "no disk with the serial number"},
		"too small":               {disks{runtime, scratch}, 1<<30 + 1<<20, false, true, "has 1073741824 bytes"},
		"nobody asked, attested":  {disks{runtime, scratch}, 0, true, true, "the manifest asks for none"},
		"nobody asked, plain":     {disks{runtime, scratch}, 0, false, true, ""},
		"another disk, attested":  {disks{runtime, scratch}, 1 << 30, true, false, "neither the manifest nor the kernel"},
		"another disk, plain":     {disks{runtime, nil}, 0, false, false, ""},
		"missing, attested guest": {disks{}, 1 << 20, true, false, "no disk with the serial number"},
	} {
		err := tt.disks.check(tt.asked, tt.attested, tt.runtime)
		if (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) {
			t.Errorf("%s: %v; want %q", name, err, tt.err)
		}
	}
}
