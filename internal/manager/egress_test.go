package manager

import (
	"slices"
	"strings"
	"testing"

	"github.com/ultravioletrs/cocos/internal/vm"
	"github.com/ultravioletrs/cocos/manifest"
)

// TestEgress: a run whose manifest has sources is refused where no VM gets out, or
// where its servers are known to be out of reach; else its VM's shim may connect.
func TestEgress(t *testing.T) {
	for name, c := range map[string]struct {
		egress *vm.Egress
		url    string
		says   string // empty: it is accepted
	}{
		"by name":               {&vm.Egress{}, "https://data.example.org/x", ""},
		"a public address":      {&vm.Egress{}, "https://93.184.216.34/x", ""},
		"off":                   {nil, "https://data.example.org/x", "this host lets no VM connect to servers (MANAGER_EGRESS)"},
		"a private address":     {&vm.Egress{}, "https://10.1.2.3/x", "needs 10.1.2.3:443, which is not of the public Internet"},
		"loopback":              {&vm.Egress{Allow: []string{"10.0.0.0/8"}}, "http://[::1]:8080/x", "needs [::1]:8080"},
		"a private one allowed": {&vm.Egress{Allow: []string{"10.0.0.0/8"}}, "https://10.1.2.3/x", ""},
		"a wrong setting":       {&vm.Egress{Allow: []string{"all"}}, "https://data.example.org/x", "HOST:PORT"},
	} {
		t.Run(name, func(t *testing.T) {
			m := testManifest()
			m.Datasets[0].Source = manifest.Source{URL: c.url}
			host := testHost("qemu", "kernel", "initrd")
			host.Egress = c.egress
			_, faults := judge(RunRequest{RunID: goodID, Manifest: freeze(t, m).Raw}, host, testNow)
			if c.says == "" {
				if len(faults) > 0 {
					t.Error(FaultsError(faults))
				}
				return
			}
			if len(faults) != 1 || faults[0].Field != "manifest/datasets/0/source" || !strings.Contains(faults[0].Message, c.says) ||
				!slices.Contains([]Reason{Unsupported, Internal}, faults[0].Reason) || !strings.Contains(faults[0].Hint, "MANAGER_EGRESS") {
				t.Errorf("%+v, want %q", faults, c.says)
			}
		})
	}
}

// TestSpecificationHasEgress only where the manifest names servers.
func TestSpecificationHasEgress(t *testing.T) {
	with, without := testManifest(), testManifest()
	with.Datasets[0].Source = manifest.Source{URL: "https://data.example.org/x"}
	l := newLab(t, nil)
	var host Host
	l.change = func(c *Config) { c.Host.Egress = &vm.Egress{Allow: []string{"10.0.0.0/8"}}; host = c.Host }
	l.inside()
	if _, err := l.server.Hello(l.ctx, 1); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		m    manifest.Manifest
		want bool
	}{{with, true}, {without, false}} {
		v := verdict{frozen: freeze(t, c.m), agent: vm.AgentConfig{Port: 7002, Address: host.GuestAddress, Gateway: host.GuestGateway}}
		spec, err := host.spec(goodID, v, 6100, nil)
		if err != nil || (spec.Egress != nil) != c.want || c.want && !slices.Equal(spec.Egress.Allow, []string{"10.0.0.0/8"}) {
			t.Errorf("%+v, %v; want connections out: %v", spec.Egress, err, c.want)
		}
	}
}
