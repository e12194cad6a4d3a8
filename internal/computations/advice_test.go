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
		"no disk":         {"a refused it: manifest/scratch_bytes is 1073741824; VMs of this host have no scratch disk", "smaller disk"},
		"disks of others": {"a refused it: the VM needs a scratch disk of 3 MiB, and 2 are used (MANAGER_SCRATCH_MAX)", "until other runs there have ended"},
		"nobody outside":  {"a refused it: manifest/datasets/0/source can't be had here (MANAGER_EGRESS)", "MANAGER_EGRESS_ALLOW"},
		"little memory":   {"a refused it: manifest/datasets and the algorithm have 9 bytes; a VM has room for 8", "keep its inputs on a disk"},
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
	p := newPlay(t)
	p.ready()
	run := p.run()
	p.put(run.ID, func(r *c.Run) {
		r.State, r.Ended, r.Reason = c.RunFailed, p.clock.Now(), "the agent refused to serve: "+vm.RefusedRoom.Text()
	})
	var got []string
	for _, todo := range p.view(p.carol).Todo {
		got = append(got, todo.Text)
	}
	if all := strings.Join(got, "\n"); !strings.Contains(all, "The inputs don't fit into the memory") || !strings.Contains(all, "keep its inputs on a disk") {
		t.Errorf("is told %s", all)
	}
}
