package manager

import (
	"strings"
	"testing"

	"github.com/ultravioletrs/cocos/internal/computations"
	"github.com/ultravioletrs/cocos/internal/vm"
	"github.com/ultravioletrs/cocos/manifest"
)

// TestRefusalsAreUnderstood: the service reads these very words, and advises what can
// be done about them.
func TestRefusalsAreUnderstood(t *testing.T) {
	judged := func(change func(*manifest.Manifest), host Host) []Fault {
		m := testManifest()
		change(&m)
		_, faults := judge(RunRequest{RunID: goodID, Manifest: freeze(t, m).Raw}, host, testNow)
		return faults
	}
	plain := testHost("qemu", "kernel", "initrd")
	open := func(allow ...string) Host {
		h := plain
		h.Egress = &vm.Egress{Allow: allow}
		return h
	}
	from := func(url string) func(*manifest.Manifest) {
		return func(m *manifest.Manifest) { m.Datasets[0].Source = manifest.Source{URL: url} }
	}
	disk := func(most, used int64) []Fault {
		return Limits{MaxScratch: most}.refuse(demand{scratch: used}, demand{vms: 1, scratch: 1 << 20}, 1<<30)
	}
	const large = 1 << 35
	for name, c := range map[string]struct {
		faults []Fault
		want   string // empty: nothing is advised
	}{
		"no disk at all":                {disk(0, 0), "smaller disk"},
		"too large a disk":              {disk(1<<20-1, 0), "smaller disk"},
		"disks of others":               {disk(1<<20, 1), "until other runs there have ended"},
		"nobody outside":                {judged(from("https://data.example.org/x"), plain), "MANAGER_EGRESS_ALLOW"},
		"not there":                     {judged(from("https://10.1.2.3/x"), open()), "MANAGER_EGRESS_ALLOW"},
		"little memory":                 {judged(func(m *manifest.Manifest) { m.Datasets[0].Size = large }, plain), "keep its inputs on a disk"},
		"a large program":               {judged(func(m *manifest.Manifest) { m.Algorithm.Size, m.ScratchBytes = large, 1<<36 }, plain), "smaller program"},
		"nothing that inputs are about": {judged(func(m *manifest.Manifest) { m.TEE = manifest.TEESNP }, plain), ""},
	} {
		t.Run(name, func(t *testing.T) {
			if len(c.faults) != 1 {
				t.Fatalf("%d faults: %s", len(c.faults), FaultsError(c.faults))
			}
			said := FaultsError(c.faults)
			if got := computations.Advice("host-1 refused it: " + said); (got == "") != (c.want == "") || !strings.Contains(got, c.want) {
				t.Errorf("for %q it advises %q, want %q", said, got, c.want)
			}
		})
	}
}
