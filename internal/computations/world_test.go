package computations_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	c "github.com/ultravioletrs/cocos/internal/computations"
	"github.com/ultravioletrs/cocos/internal/store"
	"github.com/ultravioletrs/cocos/internal/store/storetest"
	"github.com/ultravioletrs/cocos/keys"
	"github.com/ultravioletrs/cocos/manifest"
)

const (
	serviceName = "https://cocos.example.org"
	password    = "seven green bottles"
)

// cheap hashes keep the tests quick.
var cheap = c.PasswordCost{MemoryKiB: 64, Passes: 1, Threads: 1}

// clock is one that tests move.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (k *clock) Now() time.Time {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.now
}

func (k *clock) pass(d time.Duration) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.now = k.now.Add(d)
}

// world is a service with people, on a database of its own.
type world struct {
	*c.Service
	t     *testing.T
	ctx   context.Context
	store *store.Store
	clock *clock
	op    *person
}

// person is somebody who is signed in.
type person struct {
	c.Identity
	session string
	key     keys.Private
	keyID   c.ID
}

func newWorld(t *testing.T) *world { return worldOn(t, storetest.SQLite) }

// worldOn is a world on a kind of database.
func worldOn(t *testing.T, fresh func(testing.TB) store.Config) *world {
	t.Helper()
	w := bare(t, fresh)
	link, err := w.Bootstrap(w.ctx)
	if err != nil {
		t.Fatal(err)
	}
	session, err := w.RedeemLink(w.ctx, secretIn(t, link), "Olga Operator", "op@example.org", password, "test")
	w.op = w.signedIn(session, err)
	return w
}

// bare is a world without anybody.
func bare(t *testing.T, fresh func(testing.TB) store.Config) *world {
	t.Helper()
	w := &world{t: t, ctx: t.Context(), clock: &clock{now: time.Date(2026, 11, 29, 12, 0, 0, 0, time.UTC)}}
	config := fresh(t)
	config.Now = w.clock.Now
	w.store = storetest.Open(t, config)
	w.Service = w.service(cheap)
	return w
}

// service is another one on the same database.
func (w *world) service(cost c.PasswordCost) *c.Service {
	w.t.Helper()
	s, err := c.New(c.Config{
		Store: w.store, Name: serviceName, Now: w.clock.Now, PasswordCost: cost,
		Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return s
}

// secretIn is the end of a link.
func secretIn(t *testing.T, link string) string {
	t.Helper()
	i := strings.LastIndex(link, "/")
	if !strings.HasPrefix(link, serviceName+"/") || i < 0 {
		t.Fatalf("link %q does not begin with %s", link, serviceName)
	}
	return link[i+1:]
}

func (w *world) signedIn(session string, err error) *person {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
	id, err := w.Authenticate(w.ctx, session)
	if err != nil {
		w.t.Fatal(err)
	}
	return &person{Identity: id, session: session}
}

// person makes an account by way of an operator, and signs in.
func (w *world) person(name string) *person {
	w.t.Helper()
	_, link, err := w.CreateUser(w.ctx, w.op.Identity, name+"@example.org", name, false)
	if err != nil {
		w.t.Fatal(err)
	}
	session, err := w.RedeemLink(w.ctx, secretIn(w.t, link), "", "", password, "test")
	return w.signedIn(session, err)
}

// op2 is the operator, who signs in again after time has passed.
func (w *world) op2() *person {
	w.t.Helper()
	return w.again(w.op)
}

// person2 is person after time has passed.
func (w *world) person2(name string) *person {
	w.t.Helper()
	w.op = w.op2()
	return w.person(name)
}

// again signs p in again.
func (w *world) again(p *person) *person {
	w.t.Helper()
	session, err := w.SignIn(w.ctx, p.Email, password, "test", "192.0.2.99")
	back := w.signedIn(session, err)
	back.key, back.keyID = p.key, p.keyID
	return back
}

func (w *world) workspace(by *person) c.Workspace {
	w.t.Helper()
	ws, err := w.CreateWorkspace(w.ctx, by.Identity, "Hospitals")
	w.ok(err)
	return ws
}

// join makes p a member.
func (w *world) join(ws c.Workspace, admin, p *person, role c.Role) {
	w.t.Helper()
	inv, _, err := w.Invite(w.ctx, admin.Identity, c.Invite{Workspace: ws.ID, Email: p.Email, Role: role})
	w.ok(err)
	_, err = w.AcceptMyInvitation(w.ctx, p.Identity, inv.ID)
	w.ok(err)
}

func newKey(t *testing.T) keys.Private {
	t.Helper()
	k, err := keys.Generate(keys.Ed25519)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// proof registers a key of p's.
func (w *world) proof(p *person, k keys.Private, name string) c.RegisterKey {
	w.t.Helper()
	at := w.clock.Now()
	sig, err := k.Sign(keys.RegistrationText(serviceName, p.Email, k.Public(), at))
	w.ok(err)
	return c.RegisterKey{Name: name, Public: k.Public(), At: at, Signature: sig}
}

// withKey gives p a key, called as the CLI calls its files.
func (w *world) withKey(p *person) *person {
	w.t.Helper()
	p.key = newKey(w.t)
	name, _, _ := strings.Cut(p.Email, "@")
	k, err := w.RegisterKey(w.ctx, p.Identity, w.proof(p, p.key, name))
	w.ok(err)
	p.keyID = k.ID
	return p
}

func (w *world) asset(p *person, ws c.Workspace, kind c.AssetKind, name string) c.Asset {
	w.t.Helper()
	a := c.Asset{Workspace: ws.ID, Name: name, Kind: kind, SHA256: manifest.Sum([]byte(name)), Size: int64(len(name))}
	if kind == c.AssetAlgorithm {
		a.Type = manifest.Python
	}
	a, err := w.CreateAsset(w.ctx, p.Identity, a)
	w.ok(err)
	return a
}

// play is a computation with its people: alice made it and is administrator of
// its workspace, dave brings the algorithm, bob the dataset, carol gets the
// result. All have keys, and each named what they bring.
type play struct {
	*world
	alice, bob, carol, dave *person
	ws                      c.Workspace
	algorithm, dataset      c.Asset
	id                      c.ID
}

// template is a play on SQLite, which others begin as copies of.
var template struct {
	sync.Once
	play     play
	database []byte
}

func newPlay(t *testing.T) *play {
	t.Helper()
	template.Do(func() {
		p := playOn(t, storetest.SQLite)
		template.database = p.copied()
		template.play = *p
	})
	if template.database == nil {
		t.Fatal("the test that should have made the template failed")
	}
	p := template.play
	p.world = bare(t, storedIn(template.database))
	again := func(who *person) *person { copied := *who; return &copied }
	p.op = again(template.play.op)
	p.alice, p.bob, p.carol, p.dave = again(p.alice), again(p.bob), again(p.carol), again(p.dave)
	return &p
}

// copied is the database of an SQLite world as it is now.
func (w *world) copied() []byte {
	w.t.Helper()
	path := filepath.Join(w.t.TempDir(), "copy.db")
	w.ok(w.store.Backup(w.ctx, path))
	b, err := os.ReadFile(path)
	w.ok(err)
	return b
}

// storedIn begins with such a database.
func storedIn(database []byte) func(testing.TB) store.Config {
	return func(t testing.TB) store.Config {
		config := storetest.SQLite(t)
		if err := os.WriteFile(config.Path, database, 0o600); err != nil {
			t.Fatal(err)
		}
		return config
	}
}

func playOn(t *testing.T, fresh func(testing.TB) store.Config) *play {
	t.Helper()
	w := worldOn(t, fresh)
	p := &play{world: w}
	p.alice, p.bob, p.carol, p.dave = w.person("alice"), w.withKey(w.person("bob")), w.withKey(w.person("carol")), w.withKey(w.person("dave"))
	p.ws = w.workspace(p.alice)
	for _, m := range []*person{p.bob, p.carol, p.dave} {
		w.join(p.ws, p.alice, m, c.RoleMember)
	}
	p.algorithm = w.asset(p.dave, p.ws, c.AssetAlgorithm, "lin_reg.py")
	p.dataset = w.asset(p.bob, p.ws, c.AssetDataset, "iris.csv")
	made, err := w.CreateComputation(w.ctx, p.alice.Identity, p.ws.ID, p.draft())
	w.ok(err)
	p.id = made.ID
	return p
}

func (p *play) draft() c.Draft {
	return c.Draft{
		Name: "Mean of it all", Description: "What it says.", TEE: manifest.TEESim, AttestedTLS: true,
		Algorithm: c.AlgorithmSlot{Provider: p.dave.User, Asset: p.algorithm.ID, Args: []string{"--fast"}, Env: map[string]string{"A": "b"}},
		Datasets:  []c.DatasetSlot{{Name: "iris.csv", Provider: p.bob.User, Asset: p.dataset.ID}},
		Consumers: []c.ID{p.carol.User},
		TTL:       time.Hour,
	}
}

func (p *play) view(who *person) c.View {
	p.t.Helper()
	v, err := p.Computation(p.ctx, who.Identity, p.id)
	p.ok(err)
	return v
}

// freeze freezes it, by alice.
func (p *play) freeze() c.Computation {
	p.t.Helper()
	f, err := p.Freeze(p.ctx, p.alice.Identity, p.id, p.view(p.alice).Revision)
	p.ok(err)
	return f
}

// approval is what a participant's own client makes.
func (p *play) approval(who *person) manifest.Approval {
	p.t.Helper()
	f, err := manifest.Parse(p.view(who).Manifest)
	p.ok(err)
	a, err := f.Approve(who.key)
	p.ok(err)
	return a
}

func (p *play) approve(all ...*person) {
	p.t.Helper()
	for _, who := range all {
		p.ok(p.Approve(p.ctx, who.Identity, p.id, p.approval(who)))
	}
}

// ready freezes it and has all approve.
func (p *play) ready() {
	p.t.Helper()
	p.freeze()
	p.approve(p.bob, p.carol, p.dave)
}

// run starts a run, and gives it to a host as a scheduler would.
func (p *play) run() c.Run {
	p.t.Helper()
	run, err := p.StartRun(p.ctx, p.alice.Identity, p.id)
	p.ok(err)
	return run
}

// put changes a run as those who speak with hosts do.
func (w *world) put(run c.ID, change func(*c.Run)) {
	w.t.Helper()
	w.ok(w.store.Update(w.ctx, func(x c.Writer) error {
		r, err := x.LockRun(run)
		if err != nil {
			return err
		}
		change(&r)
		x.Signal(c.RunTopic(run))
		return x.PutRun(r)
	}))
}

func (w *world) ok(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// kindOf is the kind of the refusal; "OK" for none, "BROKEN" for what no user
// should cause.
func kindOf(err error) c.Kind {
	var e *c.Error
	switch {
	case err == nil:
		return "OK"
	case errors.As(err, &e):
		return e.Kind
	}
	return "BROKEN"
}

// refused wants an error of this kind with this text in it.
func refused(t *testing.T, err error, kind c.Kind, text string) {
	t.Helper()
	if got := kindOf(err); got != kind || err != nil && !strings.Contains(err.Error(), text) {
		t.Errorf("got %s (%v), want %s with %q", got, err, kind, text)
	}
}
