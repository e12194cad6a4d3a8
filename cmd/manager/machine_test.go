package main

import (
	"bytes"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/ultravioletrs/cocos/internal/vm"
)

// machineEnviron is that of a host that can run VMs, as far as is looked at
// before one is started.
func machineEnviron(t *testing.T, more ...string) []string {
	dir := t.TempDir()
	return append([]string{"MANAGER_QEMU_BIN_PATH=" + fakeQEMU(t, "10.0.2"), "MANAGER_QEMU_ENABLE_KVM=false", "MANAGER_QEMU_VSOCK=user",
		"MANAGER_IMAGE_DIR=" + testImage(t), "MANAGER_STATE_DIR=" + filepath.Join(dir, "s"), "MANAGER_HTTP_ADDR=none", "MANAGER_GRPC_URL=127.0.0.1:1",
		"MANAGER_QEMU_OVMF_CODE_FILE=" + put(t, dir, "CODE.fd", "code"), "MANAGER_QEMU_OVMF_VARS_FILE=" + put(t, dir, "VARS.fd", "vars")}, more...)
}

// TestAMachineThatNoVMCouldHave: each value is well formed, and the Manager would
// have to refuse every run; so it does not start, and names the variable.
func TestAMachineThatNoVMCouldHave(t *testing.T) {
	start := func(t *testing.T, environ []string) error {
		s, err := parse(environ)
		if err != nil {
			t.Fatal(err)
		}
		_, err = configure(t.Context(), s, discard)
		return err
	}
	if err := start(t, machineEnviron(t)); err != nil {
		t.Fatalf("what is right is refused: %v", err)
	}
	for entry, says := range map[string]string{
		"MANAGER_QEMU_VIRTIO_NET_PCI_ADDR=ff":               `MANAGER_QEMU_VIRTIO_NET_PCI_ADDR: is "ff"; expected a PCI slot from 0x0 to 0x1f`,
		"MANAGER_QEMU_VIRTIO_NET_PCI_ROMFILE=/no/such/file": "MANAGER_QEMU_VIRTIO_NET_PCI_ROMFILE: open /no/such/file",
		"MANAGER_QEMU_VSOCK_ID=scsi":                        `MANAGER_QEMU_VSOCK_ID: is "scsi", which another part`,
		"MANAGER_QEMU_HOST_FWD_ADDR=192.0.2.1":              `MANAGER_QEMU_HOST_FWD_ADDR="192.0.2.1" is no address of this host`,
	} {
		t.Run(entry, func(t *testing.T) {
			environ := machineEnviron(t, entry)
			if err := start(t, environ); err == nil || !strings.Contains(err.Error(), says) {
				t.Errorf("%v\nexpected %q in it", err, says)
			}
			if strings.Contains(entry, "FWD_ADDR") {
				return // a row of its own there
			}
			// The check on this host says the same.
			var out, errOut bytes.Buffer
			if err := run(t.Context(), []string{"check", "--json"}, environ, &out, &errOut); err == nil || !strings.Contains(strings.ReplaceAll(out.String(), `\"`, `"`), says) {
				t.Errorf("%v: %s\nlacks %q", err, &out, says)
			}
		})
	}
}

// TestRelativePathsAreOfTheWorkingDirectory: shims and QEMU run elsewhere.
func TestRelativePathsAreOfTheWorkingDirectory(t *testing.T) {
	environ := machineEnviron(t, "MANAGER_CONTROL_SOCKET=c.sock", "MANAGER_QEMU_VIRTIO_NET_PCI_ROMFILE=rom")
	t.Chdir(t.TempDir())
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	put(t, here, "rom", "rom")
	s, err := parse(environ)
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := configure(t.Context(), s, discard)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := cfg.ControlSocket, filepath.Join(here, "c.sock"); got != want {
		t.Errorf("control socket %s, want %s", got, want)
	}
	if got, want := cfg.Host.Machine.Net.ROMFile, filepath.Join(here, "rom"); got != want {
		t.Errorf("boot ROM %s, want %s", got, want)
	}
}

// TestSetBy: what it names is there.
func TestSetBy(t *testing.T) {
	table := variables()
	for path, name := range setBy {
		if !slices.ContainsFunc(table, func(v variable) bool { return v.Name == name }) {
			t.Errorf("%s: there is no %s", path, name)
		}
		kind := reflect.TypeFor[vm.Spec]()
		for part := range strings.SplitSeq(path, ".") {
			for kind.Kind() == reflect.Pointer {
				kind = kind.Elem()
			}
			field, ok := fieldOf(kind, part)
			if !ok {
				t.Errorf("%s: %v has no field %q", path, kind, part)
				break
			}
			kind = field.Type
		}
	}
}

func fieldOf(kind reflect.Type, name string) (reflect.StructField, bool) {
	for i := range kind.NumField() {
		if tag, _, _ := strings.Cut(kind.Field(i).Tag.Get("json"), ","); tag == name {
			return kind.Field(i), true
		}
	}
	return reflect.StructField{}, false
}
