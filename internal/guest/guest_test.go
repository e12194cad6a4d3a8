package guest

import (
	"bytes"
	"context"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/ultravioletrs/cocos/hal"
	"github.com/ultravioletrs/cocos/hal/verity"
	"github.com/ultravioletrs/cocos/internal/vm"
)

func TestRunStopsAtTheFirstFailure(t *testing.T) {
	var ran []string
	phase := func(name string, err error) Phase {
		return Phase{name, func(context.Context) error {
			ran = append(ran, name)
			return err
		}}
	}
	broken := errors.New("broken")
	err := Run(t.Context(), []Phase{phase("one", nil), phase("two", broken), phase("three", nil)})
	if !errors.Is(err, broken) || err.Error() != `phase "two": broken` {
		t.Errorf("Run: %v", err)
	}
	if !slices.Equal(ran, []string{"one", "two"}) {
		t.Errorf("ran %q", ran)
	}
}

func TestRunStopsWithItsContext(t *testing.T) {
	cause := errors.New("the host asked to stop")
	ctx, cancel := context.WithCancelCause(t.Context())
	err := Run(ctx, []Phase{
		{"one", func(context.Context) error { cancel(cause); return nil }},
		{"two", func(context.Context) error { t.Error("phase two ran"); return nil }},
	})
	if !errors.Is(err, cause) || !strings.Contains(err.Error(), `"two"`) {
		t.Errorf("Run: %v", err)
	}
}

func TestSayIsOneLine(t *testing.T) {
	var b bytes.Buffer
	Say(&b, "bad\nname %q\x1b[2J", "x")
	if got := b.String(); got != "cocos: bad name \"x\" [2J\n" {
		t.Errorf("said %q", got)
	}
}

func TestParseCommandLine(t *testing.T) {
	p := verity.Params{RootHash: [32]byte{1}, Salt: [32]byte{2}, DataBlocks: 7}
	runtime := "cocos.runtime=" + p.String()
	tests := []struct {
		name, line string
		want       *verity.Params
		err        string
	}{
		{name: "empty"},
		{name: "the kernel's own", line: "console=ttyS0 quiet panic=-1 acocos.x=1\n"},
		{name: "a runtime disk", line: "console=ttyS0 " + runtime + " quiet\n", want: &p},
		{name: "twice", line: runtime + " " + runtime, err: "cocos.runtime is given twice"},
		{name: "unknown", line: "cocos.debug=1", err: "cocos.debug is not a parameter"},
		{name: "unknown without value", line: "cocos.shell", err: "cocos.shell is not a parameter"},
		{name: "quoted", line: `"cocos.debug=1"`, err: "is not a parameter"},
		{name: "without value", line: "cocos.runtime", err: "cocos.runtime"},
		{name: "malformed", line: runtime + "0", err: "cocos.runtime"},
		{name: "other format", line: "cocos.runtime=md5:1:2:3", err: "cocos.runtime"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := ParseCommandLine(tt.line)
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Fatalf("error %v; want %q in it", err, tt.err)
				}
				if got.Runtime != nil {
					t.Error("an error came with a value")
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if (got.Runtime == nil) != (tt.want == nil) || got.Runtime != nil && *got.Runtime != *tt.want {
				t.Errorf("runtime %v; want %v", got.Runtime, tt.want)
			}
		})
	}
}

// An attested guest's command line is hal's, word for word.
func TestParseAttestedCommandLine(t *testing.T) {
	p := verity.Params{RootHash: [32]byte{1}, Salt: [32]byte{2}, DataBlocks: 7}
	img := hal.Image{Python: hal.Disk{Verity: hal.NewVerity(p)}}
	line := hal.CommandLine(img, true)
	for name, l := range map[string]string{"as it is": line + "\n", "as OVMF hands it over": line + " initrd=initrd", "as newer OVMF does": "initrd=initrd " + line} {
		if got, err := ParseCommandLine(l); err != nil || !got.Attested || got.Runtime == nil || *got.Runtime != p {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
	if got, err := ParseCommandLine(hal.CommandLine(img, false)); err != nil || got.Attested {
		t.Errorf("the plain one: %+v, %v", got, err)
	}
	runtime := strings.Fields(line)[len(strings.Fields(line))-1]
	for name, tt := range map[string]struct{ line, want string }{
		"a console behind":       {line + " console=ttyS0", `"console=ttyS0" has no place`},
		"a console before":       {"console=ttyS0 " + line, `"console=ttyS0" has no place`},
		"an early console":       {strings.Replace(line, "console=null", "console=null earlyprintk=serial", 1), `"earlyprintk=serial" has no place`},
		"null twice":             {"console=null " + line, `"console=null" has no place`},
		"a module's parameter":   {line + " virtio_mmio.device=4K@0x1000:5", "virtio_mmio.device"},
		"a module asked for":     {line + " modprobe=vfat", `"modprobe=vfat" has no place`},
		"another init":           {line + " rdinit=/data/x", "rdinit"},
		"an init's arguments":    {line + " -- --session unix:x", `"--" has no place`},
		"a parameter of ours":    {line + " cocos.shell=1", "cocos.shell"},
		"lockdown lifted":        {strings.Replace(line, "lockdown=confidentiality", "lockdown=none", 1), `"lockdown=none" has no place`},
		"the host's entropy":     {strings.Replace(line, "random.trust_bootloader=off", "random.trust_bootloader=on", 1), "random.trust_bootloader=on"},
		"devices plugged in":     {strings.Replace(line, " acpiphp.disable=1", "", 1), "has no place"},
		"unsigned modules":       {strings.Replace(line, "module.sig_enforce=1 ", "", 1), "has no place"},
		"a runtime disk missing": {strings.TrimSuffix(line, runtime), "cocos.runtime is missing"},
		"the runtime alone":      {runtime + " console=null", "has no place"},
		"cut":                    {"console=null " + runtime, "has no place"},
		"OVMF's word twice":      {line + " initrd=initrd initrd=initrd", `"initrd=initrd" has no place`},
		"another initial disk":   {line + " initrd=other", `"initrd=other" has no place`},
		"OVMF's word inside":     {strings.Replace(line, "console=null", "console=null initrd=initrd", 1), `"initrd=initrd" has no place`},
		"at both ends":           {"initrd=initrd " + line + " initrd=initrd", `"initrd=initrd" has no place`},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := ParseCommandLine(tt.line)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v; want %q in it", err, tt.want)
			}
			if got != (CommandLine{}) {
				t.Errorf("an error came with %+v", got)
			}
		})
	}
}

func TestParseModules(t *testing.T) {
	got, err := parseModules("/lib/modules/a.ko\n/lib/modules/b.ko\n")
	if err != nil || !slices.Equal(got, []string{"/lib/modules/a.ko", "/lib/modules/b.ko"}) {
		t.Errorf("%q, %v", got, err)
	}
	if got, err := parseModules(""); err != nil || len(got) > 0 {
		t.Errorf("empty list: %q, %v", got, err)
	}
	for _, list := range []string{"a.ko\n", "/lib/../a.ko\n", "/a.ko\n\n/b.ko\n", "/a.ko \n "} {
		if _, err := parseModules(list); err == nil || !strings.Contains(err.Error(), "line ") {
			t.Errorf("list %q: %v; want a refusal that names the line", list, err)
		}
	}
}

func TestLoadModuleNamesWhatIsMissing(t *testing.T) {
	name := filepath.Join(t.TempDir(), "missing.ko")
	if err := loadModule(name); err == nil || !strings.Contains(err.Error(), name) {
		t.Errorf("loading a missing module: %v", err)
	}
	if err := os.WriteFile(name, []byte("not a module"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := loadModule(name); err == nil || !strings.Contains(err.Error(), name) {
		t.Errorf("loading what is no module: %v", err)
	}
}

func TestCheckRDRAND(t *testing.T) {
	cpu := func(flags string) string { return "processor\t: 0\nflags\t\t: " + flags + "\nbugs\t\t: \n\n" }
	for name, tt := range map[string]struct{ cpuinfo, want string }{
		"there":           {cpu("fpu rdrand sse") + cpu("rdrand"), ""},
		"missing":         {cpu("fpu rdseed sse"), "CPU 0 has no RDRAND"},
		"missing on one":  {cpu("rdrand") + cpu("fpu"), "CPU 1 has no RDRAND"},
		"a longer word":   {cpu("fpu nordrand"), "no RDRAND"},
		"nothing is said": {"processor : 0\n", "not known"},
		"empty":           {"", "not known"},
	} {
		t.Run(name, func(t *testing.T) {
			err := checkRDRAND(strings.NewReader(tt.cpuinfo))
			if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("error %v; want %q", err, tt.want)
			}
		})
	}
}

func TestCheckNetwork(t *testing.T) {
	tests := []struct{ address, gateway, want string }{
		{"10.0.2.15/24", "10.0.2.2", ""},
		{"10.0.2.15/24", "", ""},
		{"192.168.0.1/30", "192.168.0.2", ""},
		{"", "", "network.address is missing"},
		{"fec0::2/64", "fec0::1", "not IPv4"},
		{"10.0.2.15/31", "10.0.2.14", "prefix length"},
		{"10.0.2.15/32", "", "prefix length"},
		{"10.0.2.15/7", "", "prefix length"},
		{"10.0.2.0/24", "", "not the address of a host"},
		{"10.0.2.255/24", "", "not the address of a host"},
		{"10.255.255.255/8", "", "not the address of a host"},
		{"127.0.0.2/8", "", "not the address of a host"},
		{"224.0.0.9/24", "", "not the address of a host"},
		{"169.254.1.1/16", "", "not the address of a host"},
		{"240.0.0.1/8", "", "not the address of a host"},
		{"10.0.2.15/24", "10.0.3.2", "network.gateway"},
		{"10.0.2.15/24", "10.0.2.15", "network.gateway"},
		{"10.0.2.15/24", "10.0.2.255", "network.gateway"},
		{"10.0.2.15/24", "10.0.2.0", "network.gateway"},
		{"10.0.2.15/24", "fec0::1", "network.gateway"},
	}
	for _, tt := range tests {
		t.Run(tt.address+" "+tt.gateway, func(t *testing.T) {
			var c vm.AgentConfig
			if tt.address != "" {
				c.Address = netip.MustParsePrefix(tt.address)
			}
			if tt.gateway != "" {
				c.Gateway = netip.MustParseAddr(tt.gateway)
			}
			err := CheckNetwork(c.Address, c.Gateway)
			if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v; want %q", err, tt.want)
			}
			// What is refused never reaches an interface.
			if tt.want != "" {
				if err := ConfigureNetwork(c); err == nil || !strings.Contains(err.Error(), tt.want) {
					t.Errorf("ConfigureNetwork: %v; want %q", err, tt.want)
				}
			}
		})
	}
}

func TestMountTable(t *testing.T) {
	seen := map[string]bool{"/": true}
	for _, p := range mountTable {
		if seen[p.target] {
			t.Errorf("%s is mounted twice", p.target)
		}
		seen[p.target] = true
		if p.flags&2 == 0 { // MS_NOSUID
			t.Errorf("%s allows set-user-id programs", p.target)
		}
		if p.fstype == "tmpfs" && !strings.Contains(p.data, "size=") {
			t.Errorf("%s has no cap", p.target)
		}
	}
	for _, want := range []string{"/proc", "/sys", "/dev", "/run", "/tmp", DataDir, CgroupRoot} {
		if !seen[want] {
			t.Errorf("%s is not mounted", want)
		}
	}
}

func ExampleSay() {
	Say(os.Stdout, "phase %q: %v", "modules", errors.New("loading module /lib/modules/a.ko: no such file"))
	// Output: cocos: phase "modules": loading module /lib/modules/a.ko: no such file
}
