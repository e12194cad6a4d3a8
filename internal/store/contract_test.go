package store_test

import (
	"errors"
	"fmt"
	"reflect"
	"testing"
	"time"

	"github.com/ultravioletrs/cocos/internal/computations"
	"github.com/ultravioletrs/cocos/internal/store"
	"github.com/ultravioletrs/cocos/internal/store/storetest"
	"github.com/ultravioletrs/cocos/keys"
	"github.com/ultravioletrs/cocos/manifest"
)

type (
	id     = computations.ID
	reader = computations.Reader
	writer = computations.Writer
)

// contract is what computations.Store promises; both databases keep all of it.
var contract = []struct {
	name string
	test func(t *testing.T, s *store.Store)
}{
	{"users", testUsers},
	{"credentials", testCredentials},
	{"expired credentials", testExpireCredentials},
	{"workspaces and members", testWorkspaces},
	{"invitations", testInvitations},
	{"settings", testSettings},
	{"keys", testKeys},
	{"assets", testAssets},
	{"computations", testComputations},
	{"selecting computations", testSelectComputations},
	{"a frozen manifest", testFrozen},
	{"stages", testStages},
	{"parts", testParts},
	{"approvals", testApprovals},
	{"runs", testRuns},
	{"selecting runs", testSelectRuns},
	{"the queue", testQueue},
	{"entries", testEntries},
	{"selecting entries", testSelectEntries},
	{"entries that can't be kept as they are", testDirtyEntries},
	{"expired entries", testExpire},
	{"receipts", testReceipts},
	{"hosts", testHosts},
	{"tokens of enrolment", testEnrolTokens},
	{"audit", testAudit},
	{"what isn't there", testMissing},
	{"what is taken", testTaken},
	{"what is named and isn't there", testDangling},
	{"transactions", testTransactions},
	{"pages", testPages},
}

func TestContract(t *testing.T) {
	storetest.Each(t, func(t *testing.T, fresh func(testing.TB) store.Config) {
		for _, c := range contract {
			t.Run(c.name, func(t *testing.T) { c.test(t, storetest.Open(t, fresh(t))) })
		}
	})
}

// now is in nanoseconds, and not of this time zone.
var now = time.Date(2027, 3, 4, 5, 6, 7, 891234567, time.UTC)

func update(t testing.TB, s *store.Store, f func(w writer) error) {
	t.Helper()
	if err := s.Update(t.Context(), f); err != nil {
		t.Fatal(err)
	}
}

// put updates with what can only go right.
func put(t testing.TB, s *store.Store, puts ...func(w writer) error) {
	t.Helper()
	update(t, s, func(w writer) error {
		for _, p := range puts {
			if err := p(w); err != nil {
				return err
			}
		}
		return nil
	})
}

func view(t testing.TB, s *store.Store, f func(r reader) error) {
	t.Helper()
	if err := s.View(t.Context(), f); err != nil {
		t.Fatal(err)
	}
}

func refused(t testing.TB, s *store.Store, want error, f func(w writer) error) {
	t.Helper()
	if err := s.Update(t.Context(), f); !errors.Is(err, want) {
		t.Errorf("got %v, want %v", err, want)
	}
}

// same reads with get and compares.
func same[T any](t testing.TB, s *store.Store, want T, get func(r reader) (T, error)) {
	t.Helper()
	view(t, s, func(r reader) error {
		got, err := get(r)
		if err == nil && !reflect.DeepEqual(got, want) {
			t.Errorf("got  %+v\nwant %+v", got, want)
		}
		return err
	})
}

// ids reads a list and compares what its members are called.
func ids[T any](t testing.TB, s *store.Store, want []id, name func(T) id, get func(r reader) ([]T, error)) {
	t.Helper()
	view(t, s, func(r reader) error {
		list, err := get(r)
		var got []id
		for _, v := range list {
			got = append(got, name(v))
		}
		if err == nil && !reflect.DeepEqual(got, want) {
			t.Errorf("got %v, want %v", got, want)
		}
		return err
	})
}

// world is what most rows refer to.
type world struct {
	ann, bob  computations.User
	ws, other computations.Workspace
	draft     computations.Computation
	frozen    computations.Computation
	host      computations.Host
	run       computations.Run
	annKey    keys.Private
}

func newWorld(t testing.TB, s *store.Store) *world {
	t.Helper()
	k, err := keys.Generate(keys.Ed25519)
	if err != nil {
		t.Fatal(err)
	}
	w := &world{
		ann:    computations.User{ID: "user-ann", Email: "ann@example.org", Name: "Ann", EmailVerified: true, Created: now},
		bob:    computations.User{ID: "user-bob", Email: "bob@example.org", Name: "Bob", Created: now},
		ws:     computations.Workspace{ID: "ws", Name: "Hospital", Created: now},
		other:  computations.Workspace{ID: "ws-other", Name: "Another", Created: now},
		annKey: k,
	}
	w.draft = computations.Computation{ID: "comp-draft", Workspace: w.ws.ID, Creator: w.ann.ID, Created: now, Revision: 1,
		Draft: computations.Draft{Name: "Mean Age", TEE: manifest.TEESNP}}
	w.frozen = w.freeze(t, "comp-frozen", k.Public())
	w.host = computations.Host{ID: "host", Name: "rack 1", Serial: "0a", Enrolled: now}
	w.run = computations.Run{ID: "run-1", Computation: w.frozen.ID, Workspace: w.ws.ID, Number: 1, State: computations.RunQueued,
		By: w.ann.ID, Created: now}
	update(t, s, func(wr writer) error {
		return errors.Join(wr.PutUser(w.ann), wr.PutUser(w.bob), wr.PutWorkspace(w.ws), wr.PutWorkspace(w.other),
			wr.PutComputation(w.draft), wr.PutComputation(w.frozen), wr.PutHost(w.host), wr.PutRun(w.run))
	})
	return w
}

// freeze makes a computation whose manifest the keys must approve.
func (w *world) freeze(t testing.TB, name id, approvers ...keys.Public) computations.Computation {
	t.Helper()
	m := manifest.Manifest{Version: manifest.Version, ID: string(name), Name: string(name), Nonce: manifest.Nonce{1}, TEE: manifest.TEENone,
		Algorithm: manifest.Algorithm{Type: manifest.Binary, SHA256: manifest.Sum([]byte(name)), Size: 3, Provider: w.annKey.Public()},
		Consumers: []keys.Public{w.annKey.Public()}, Approvals: approvers}
	f, err := manifest.Freeze(m)
	if err != nil {
		t.Fatal(err)
	}
	return computations.Computation{ID: name, Workspace: w.ws.ID, Creator: w.ann.ID, Created: now, Revision: 3, Manifest: f.Raw,
		Digest: f.Digest, Frozen: now, Draft: computations.Draft{Name: "Frozen " + string(name), TEE: manifest.TEENone}}
}

func testMissing(t *testing.T, s *store.Store) {
	newWorld(t, s)
	for name, get := range map[string]func(r reader) error{
		"User":                func(r reader) error { _, err := r.User("x"); return err },
		"UserByEmail":         func(r reader) error { _, err := r.UserByEmail("x"); return err },
		"UserBySubject":       func(r reader) error { _, err := r.UserBySubject("x", "y"); return err },
		"UserBySubject empty": func(r reader) error { _, err := r.UserBySubject("", ""); return err },
		"Credential":          func(r reader) error { _, err := r.Credential([32]byte{1}); return err },
		"Workspace":           func(r reader) error { _, err := r.Workspace("x"); return err },
		"Member":              func(r reader) error { _, err := r.Member("ws", "x"); return err },
		"Invitation":          func(r reader) error { _, err := r.Invitation("x"); return err },
		"InvitationByHash":    func(r reader) error { _, err := r.InvitationByHash([32]byte{1}); return err },
		"Key":                 func(r reader) error { _, err := r.Key("x"); return err },
		"KeyByFingerprint":    func(r reader) error { _, err := r.KeyByFingerprint("x"); return err },
		"Asset":               func(r reader) error { _, err := r.Asset("x"); return err },
		"Computation":         func(r reader) error { _, err := r.Computation("x"); return err },
		"Computation empty":   func(r reader) error { _, err := r.Computation(""); return err },
		"Run":                 func(r reader) error { _, err := r.Run("x"); return err },
		"Receipt":             func(r reader) error { _, err := r.Receipt("run-1"); return err },
		"Host":                func(r reader) error { _, err := r.Host("x"); return err },
		"HostBySerial":        func(r reader) error { _, err := r.HostBySerial("x"); return err },
		"HostBySerial empty":  func(r reader) error { _, err := r.HostBySerial(""); return err },
		"EnrolToken":          func(r reader) error { _, err := r.EnrolToken([32]byte{1}); return err },
	} {
		if err := s.View(t.Context(), get); !errors.Is(err, computations.ErrNoRow) {
			t.Errorf("%s: %v, want ErrNoRow", name, err)
		}
	}
	for name, change := range map[string]func(w writer) error{
		"LockRun":          func(w writer) error { _, err := w.LockRun("x"); return err },
		"TouchCredential":  func(w writer) error { return w.TouchCredential("x", now) },
		"DeleteCredential": func(w writer) error { return w.DeleteCredential("user-ann", "x") },
		"DeleteMember":     func(w writer) error { return w.DeleteMember("ws", "user-ann") },
		"SetParts":         func(w writer) error { return w.SetParts("x", "user-ann", []computations.Part{computations.PartViewer}) },
		"Append": func(w writer) error {
			_, err := w.Append([]computations.Entry{{Run: "x", Type: computations.EntryLog, Source: "agent"}})
			return err
		},
	} {
		if err := s.Update(t.Context(), change); !errors.Is(err, computations.ErrNoRow) {
			t.Errorf("%s: %v, want ErrNoRow", name, err)
		}
	}
}

func testTaken(t *testing.T, s *store.Store) {
	w := newWorld(t, s)
	key := computations.Key{ID: "key", User: w.ann.ID, Public: w.annKey.Public(), Created: now}
	subject := computations.User{ID: "user-oidc", Email: "oidc@example.org", Issuer: "i", Subject: "s"}
	credential := computations.Credential{ID: "cred", User: w.ann.ID, Kind: computations.Session, Hash: [32]byte{1}}
	invitation := computations.Invitation{ID: "inv", Workspace: w.ws.ID, Email: "x@y", By: w.ann.ID, Hash: [32]byte{1}}
	token := computations.EnrolToken{ID: "enrol", By: w.ann.ID, Hash: [32]byte{1}}
	update(t, s, func(wr writer) error {
		return errors.Join(wr.PutKey(key), wr.PutUser(subject), wr.PutCredential(credential), wr.PutInvitation(invitation), wr.PutEnrolToken(token))
	})
	for name, change := range map[string]func(wr writer) error{
		"email": func(wr writer) error { return wr.PutUser(computations.User{ID: "z", Email: w.ann.Email}) },
		"subject": func(wr writer) error {
			return wr.PutUser(computations.User{ID: "z", Email: "z", Issuer: "i", Subject: "s"})
		},
		"credential's hash": func(wr writer) error {
			return wr.PutCredential(computations.Credential{ID: "z", User: w.bob.ID, Hash: [32]byte{1}})
		},
		"invitation's hash": func(wr writer) error { i := invitation; i.ID = "z"; return wr.PutInvitation(i) },
		"token's hash":      func(wr writer) error { e := token; e.ID = "z"; return wr.PutEnrolToken(e) },
		"key in use":        func(wr writer) error { k := key; k.ID, k.User = "z", w.bob.ID; return wr.PutKey(k) },
		"run's number":      func(wr writer) error { r := w.run; r.ID = "z"; return wr.PutRun(r) },
		"digest":            func(wr writer) error { c := w.frozen; c.ID = "z"; return wr.PutComputation(c) },
		"host's serial":     func(wr writer) error { return wr.PutHost(computations.Host{ID: "z", Serial: w.host.Serial}) },
	} {
		if err := s.Update(t.Context(), change); !errors.Is(err, computations.ErrTaken) {
			t.Errorf("%s: %v, want ErrTaken", name, err)
		}
	}
}

// testDangling: what names something that isn't there is refused.
func testDangling(t *testing.T, s *store.Store) {
	w := newWorld(t, s)
	for name, change := range map[string]func(wr writer) error{
		"credential's user":  func(wr writer) error { return wr.PutCredential(computations.Credential{ID: "z", User: "x"}) },
		"member's user":      func(wr writer) error { return wr.PutMember(computations.Member{Workspace: w.ws.ID, User: "x"}) },
		"member's workspace": func(wr writer) error { return wr.PutMember(computations.Member{Workspace: "x", User: w.ann.ID}) },
		"computation's workspace": func(wr writer) error {
			return wr.PutComputation(computations.Computation{ID: "z", Workspace: "x", Creator: w.ann.ID})
		},
		"run's host": func(wr writer) error { r := w.run; r.Host = "x"; return wr.PutRun(r) },
		"receipt's run": func(wr writer) error {
			return wr.PutReceipt(computations.Receipt{Run: "x", Raw: []byte("r"), By: w.ann.ID})
		},
	} {
		if err := s.Update(t.Context(), change); !errors.Is(err, computations.ErrNoRow) {
			t.Errorf("%s: %v, want ErrNoRow", name, err)
		}
	}
}

func testTransactions(t *testing.T, s *store.Store) {
	w := newWorld(t, s)
	stop := errors.New("stop")
	carol := computations.User{ID: "user-carol", Email: "carol@example.org"}
	isThere := func(want bool) {
		t.Helper()
		view(t, s, func(r reader) error {
			_, err := r.User(carol.ID)
			if there := err == nil; there != want {
				t.Errorf("carol there: %v (%v), want %v", there, err, want)
			}
			return nil
		})
	}
	refused(t, s, stop, func(wr writer) error { return errors.Join(wr.PutUser(carol), stop) })
	isThere(false)

	// What failed is over, whatever the caller makes of it.
	refused(t, s, computations.ErrTaken, func(wr writer) error {
		err := wr.PutUser(computations.User{ID: "z", Email: w.ann.Email})
		if !errors.Is(err, computations.ErrTaken) {
			t.Errorf("got %v, want ErrTaken", err)
		}
		if err := wr.PutUser(carol); !errors.Is(err, computations.ErrTaken) {
			t.Errorf("after a failure: %v", err)
		}
		return nil
	})
	isThere(false)

	// f's own words for it count.
	refused(t, s, stop, func(wr writer) error {
		if err := wr.PutUser(computations.User{ID: "z", Email: w.ann.Email}); errors.Is(err, computations.ErrTaken) {
			return stop
		}
		return nil
	})

	// What isn't there is no failure.
	update(t, s, func(wr writer) error {
		if _, err := wr.User(carol.ID); !errors.Is(err, computations.ErrNoRow) {
			return fmt.Errorf("got %w, want ErrNoRow", err)
		}
		return wr.PutUser(carol)
	})
	isThere(true)

	func() {
		defer func() {
			if recover() == nil {
				t.Error("the panic got lost")
			}
		}()
		s.Update(t.Context(), func(wr writer) error {
			if err := wr.PutUser(computations.User{ID: "user-dora", Email: "dora@example.org"}); err != nil {
				t.Error(err)
			}
			panic("oops")
		})
	}()
	view(t, s, func(r reader) error {
		if n, err := r.CountUsers(); n != 3 || err != nil {
			t.Errorf("%d users, %v", n, err)
		}
		return nil
	})
	if err := s.Check(t.Context()); err != nil {
		t.Error(err)
	}
}
