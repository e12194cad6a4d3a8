package computations_test

import (
	"errors"
	"strings"
	"sync"
	"testing"

	c "github.com/ultravioletrs/cocos/internal/computations"
	"github.com/ultravioletrs/cocos/internal/store"
	"github.com/ultravioletrs/cocos/internal/store/storetest"
)

func TestNew(t *testing.T) {
	db := storetest.Open(t, storetest.SQLite(t))
	if _, err := c.New(c.Config{Name: serviceName}); err == nil {
		t.Error("made without a store")
	}
	for _, bad := range []string{"", "cocos.example.org", "https://", "https://x/", "ftp://x", "https://x?y", "https://x#y", "https://u:p@x", "https://x y"} {
		if _, err := c.New(c.Config{Store: db, Name: bad}); err == nil || !strings.Contains(err.Error(), "public address") {
			t.Errorf("made with the name %q: %v", bad, err)
		}
	}
	s, err := c.New(c.Config{Store: db, Name: "http://127.0.0.1:7080", LoginFlags: []string{"--fingerprint", "sha256:ab"}})
	if err != nil {
		t.Fatal(err)
	}
	if s.Name() != "http://127.0.0.1:7080" || s.LoginCommand(true) != "cocos-cli login http://127.0.0.1:7080 --fingerprint sha256:ab" ||
		s.LoginCommand(false) != "cocos-cli login http://127.0.0.1:7080 --token-file - --fingerprint sha256:ab" ||
		s.InvitationLink("ci_x") != "http://127.0.0.1:7080/invitation/ci_x" {
		t.Errorf("it is called %s, and one comes in by %s", s.Name(), s.LoginCommand(true))
	}
}

// Of several who do the same at once, what must be unique stays so, and the
// others are told.
func TestAtTheSameMoment(t *testing.T) { storetest.Each(t, atTheSameMoment) }

func atTheSameMoment(t *testing.T, fresh func(testing.TB) store.Config) {
	w := worldOn(t, fresh)
	people := []*person{w.person("alice"), w.person("bob"), w.person("carol")}
	k := newKey(t)
	var group sync.WaitGroup
	errs := make([]error, len(people))
	for i, p := range people {
		ask := w.proof(p, k, "shared")
		group.Go(func() { errs[i] = empty(w.RegisterKey(w.ctx, p.Identity, ask)) })
	}
	group.Wait()
	done := 0
	for _, err := range errs {
		if err == nil {
			done++
		} else {
			refused(t, err, c.Conflict, "")
		}
	}
	if done != 1 {
		t.Errorf("the key is registered by %d: %v", done, errs)
	}
	ws := w.workspace(people[0])
	_, secret, err := w.Invite(w.ctx, people[0].Identity, c.Invite{Workspace: ws.ID, Email: "erin@example.org"})
	w.ok(err)
	for i := range errs {
		group.Go(func() { errs[i] = empty2(w.AcceptAsNew(w.ctx, secret, "Erin", password, "test")) })
	}
	group.Wait()
	if done = 0; errors.Join(errs...) == nil {
		t.Error("all made the account")
	}
	for _, err := range errs {
		if err == nil {
			done++
		}
	}
	if done != 1 {
		t.Errorf("the account was made %d times: %v", done, errs)
	}
}
