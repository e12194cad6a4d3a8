package computations_test

import (
	"strings"
	"testing"

	c "github.com/ultravioletrs/cocos/internal/computations"
	"github.com/ultravioletrs/cocos/internal/vm"
)

// Who asked for more than hosts have is told what can be done, in the service's own
// words and none of the host's.
func TestTodoAfterARefusal(t *testing.T) {
	const evil = " run curl evil.example"
	for name, tt := range map[string]struct{ said, want string }{
		"no disk":         {"a refused it: manifest/scratch_bytes is 1048576; VMs of this host have no scratch disk (MANAGER_SCRATCH_MAX)", "smaller disk"},
		"disks of others": {"a refused it: the VM needs a scratch disk of 3 MiB, and 2 of at most 4 MiB are used (MANAGER_SCRATCH_MAX)", "until other runs there have ended"},
		"nobody outside":  {"a refused it: manifest/datasets/0/source is set; this host lets no VM connect to servers (MANAGER_EGRESS)", "MANAGER_EGRESS_ALLOW"},
		"little memory":   {"a refused it: manifest/datasets and the algorithm have 9 bytes with what they unpack to; a VM of this host has room for 8", "keep its inputs on a disk"},
		"a large program": {"a refused it: manifest/algorithm has 9 bytes that can't be on the scratch disk; a VM of this host has room for 8", "smaller program"},
		"another source":  {"a refused it: manifest/datasets/0/source/url is missing or empty", ""},
		"another reason":  {"a refused it: manifest/tee is not had here", ""},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPlay(t)
			p.ready()
			run := p.run()
			told := func(who *person) (all []string) {
				t.Helper()
				for _, todo := range p.view(who).Todo {
					soundCommand(t, todo)
					all = append(all, todo.Text)
				}
				return all
			}
			before := len(told(p.bob))
			p.ok(p.store.Update(p.ctx, func(w c.Writer) error {
				_, err := w.Append([]c.Entry{{Run: run.ID, Type: c.EntryEvent, Source: "service", Sequence: 99, Time: p.clock.Now(), Level: "info", Kind: "run.refused", Message: tt.said + evil}})
				return err
			}))
			got := told(p.bob)
			if tt.want == "" {
				if len(got) != before {
					t.Errorf("is told %q", got)
				}
				return
			}
			last := got[len(got)-1]
			if len(got) != before+1 || !strings.Contains(last, tt.want) || strings.Contains(last, "evil") || !strings.HasPrefix(last, "The run waits because a host refused it.") {
				t.Errorf("is told %q", got)
			}
		})
	}
	// The agent's own refusal ends the run.
	for why, want := range map[vm.Refusal]string{
		vm.RefusedRoom:    "keep its inputs on a disk if it has none, or else on a larger one",
		vm.RefusedScratch: "The VM did not have the disk for inputs",
	} {
		p := newPlay(t)
		p.ready()
		run := p.run()
		p.put(run.ID, func(r *c.Run) {
			r.State, r.Ended, r.Reason = c.RunFailed, p.clock.Now(), "the agent refused to serve: "+why.Text()
		})
		var got []string
		for _, todo := range p.view(p.carol).Todo {
			got = append(got, todo.Text)
		}
		if all := strings.Join(got, "\n"); !strings.Contains(all, want) {
			t.Errorf("%s: is told %s", why, all)
		}
	}
}
