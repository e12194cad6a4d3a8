// Package ttl shows that a VM lives no longer than its host or its request
// allows, and that the next one waits for its place.
package ttl

import (
	"context"
	"strings"
	"testing"

	"github.com/google/uuid"

	managerv1 "github.com/ultravioletrs/cocos/api/manager/v1"
	"github.com/ultravioletrs/cocos/internal/vm"
	"github.com/ultravioletrs/cocos/test/computations/server"
	"github.com/ultravioletrs/cocos/test/e2e/harness"
)

func TestTimeToLive(t *testing.T) {
	h := harness.Start(t, harness.Env("MANAGER_MAX_TTL=25s"), harness.Env("MANAGER_MAX_VMS=1"))
	r := h.Submit(server.Computation{Algorithm: harness.Algorithm(t), Args: []string{"sum"}}, nil)
	r.Event(vm.EventBooting, harness.BootLimit)

	ask := func(seconds uint32) (id string, refusal *managerv1.Refusal) {
		t.Helper()
		id = uuid.NewString()
		h.Server.Submit(&managerv1.RunRequest{RunId: id, Manifest: r.Manifest.Raw, TtlSeconds: seconds})
		ctx, cancel := context.WithTimeout(t.Context(), harness.EndLimit)
		defer cancel()
		reply, _, err := h.Server.Reply(ctx, id)
		if err != nil {
			t.Fatal(err)
		}
		return id, reply.GetRefusal()
	}
	if _, refusal := ask(5); !strings.Contains(refusal.String(), "NO_CAPACITY") || !strings.Contains(refusal.String(), "MANAGER_MAX_VMS") {
		t.Errorf("a second VM: %v", refusal)
	}
	// Its request said nothing: it has what the host allows.
	expired := r.Event(vm.EventExpired, harness.RunLimit)
	r.Event(vm.EventStopping, harness.EndLimit)
	r.Event(vm.EventExited, harness.EndLimit)
	r.Gone()
	if !strings.Contains(expired.GetMessage(), "25s") {
		t.Errorf("the event says %q", expired.GetMessage())
	}

	if _, refusal := ask(26); !strings.Contains(refusal.String(), "NO_CAPACITY") || !strings.Contains(refusal.String(), "MANAGER_MAX_TTL") {
		t.Errorf("a second more than the host allows: %v", refusal)
	}
	id, refusal := ask(3)
	if refusal != nil {
		t.Fatalf("in the place of the first: %v", refusal)
	}
	ctx, cancel := context.WithTimeout(t.Context(), harness.RunLimit)
	defer cancel()
	for _, kind := range []string{vm.EventExpired, vm.EventExited, vm.EventRemoved} {
		if _, err := h.Server.EventOfKind(ctx, id, kind); err != nil {
			t.Fatalf("%v; the Manager's log:\n%s", err, h.ManagerLog())
		}
	}
}
