package userapi_test

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"

	"github.com/ultravioletrs/cocos/attest/sim"
	"github.com/ultravioletrs/cocos/internal/computations"
	"github.com/ultravioletrs/cocos/internal/computations/userapi"
	"github.com/ultravioletrs/cocos/internal/store"
	"github.com/ultravioletrs/cocos/keys"
	"github.com/ultravioletrs/cocos/manifest"
	"github.com/ultravioletrs/cocos/receipt"
)

// Words that stand in every name of the first workspace, and of its computations:
// where a stranger's answer has one, something has leaked.
const (
	mark      = "harbour"
	innerMark = "tidal"
)

const serviceName = "https://cocos.example.org"

// world is a filled database: two workspaces, and people of every kind. It is made
// once; each test works on a copy.
type world struct {
	t   testing.TB
	dir string
	svc *computations.Service
	db  *store.Store

	users   map[string]computations.ID
	who     map[string]computations.Identity
	secrets map[string]string // by person
	// links are secrets by what they are for.
	links map[string]string
	// things are ids by name; those of the other workspace begin with "other ".
	things map[string]computations.ID
	kinds  map[computations.ID]string
	keys   map[string]keys.Private
	// receipt of the run "run", and approval of the computation "frozen" by rita.
	receipt  []byte
	approval manifest.Approval
}

// people of the fixture, and their roles in the first workspace.
var people = map[string]computations.Role{
	"ada": computations.RoleAdministrator, "mona": computations.RoleManager,
	"carl": computations.RoleMember, "edith": computations.RoleMember, "rune": computations.RoleMember, "vera": computations.RoleMember,
	"dora": computations.RoleMember, "alan": computations.RoleMember, "rita": computations.RoleMember,
	"nemo": computations.RoleMember, // without a part
	"dan":  computations.RoleAdministrator,
	"olga": "", "bob": "", "stan": "", "ines": "",
}

// parts in every computation of the first workspace.
var partsOf = map[string][]computations.Part{
	"carl": {computations.PartCreator}, "edith": {computations.PartEditor}, "rune": {computations.PartRunner}, "vera": {computations.PartViewer},
	"dora": {computations.PartDataset}, "alan": {computations.PartAlgorithm}, "rita": {computations.PartConsumer},
	"dan": {computations.PartEditor, computations.PartRunner},
}

// cheap hashes passwords quickly, and badly.
var cheap = computations.PasswordCost{MemoryKiB: 64, Passes: 1, Threads: 1}

func (w *world) open(path string) {
	db, err := store.Open(context.Background(), store.Config{Path: path})
	if err != nil {
		w.t.Fatal(err)
	}
	w.db = db
	w.svc, err = computations.New(computations.Config{Store: db, Name: serviceName, PasswordCost: cheap, Log: slog.New(slog.NewTextHandler(io.Discard, nil))})
	if err != nil {
		w.t.Fatal(err)
	}
}

var (
	once     sync.Once
	original *world
)

// newWorld returns a copy of the filled database, which closes with the test.
func newWorld(t testing.TB) *world {
	t.Helper()
	once.Do(func() {
		dir, err := os.MkdirTemp("", "userapi-*")
		if err != nil {
			t.Fatal(err)
		}
		w := &world{
			t: t, dir: dir, users: map[string]computations.ID{}, who: map[string]computations.Identity{}, secrets: map[string]string{},
			links: map[string]string{}, things: map[string]computations.ID{}, kinds: map[computations.ID]string{}, keys: map[string]keys.Private{},
		}
		w.open(filepath.Join(dir, "original.db"))
		w.fill()
		w.check(w.db.Backup(context.Background(), filepath.Join(dir, "copy.db")))
		w.check(w.db.Close())
		original = w
	})
	if original == nil {
		t.Fatal("the fixture could not be made")
	}
	w := *original
	w.t = t
	b, err := os.ReadFile(filepath.Join(original.dir, "copy.db"))
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "cocos.db")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	w.open(path)
	t.Cleanup(func() { w.check(w.db.Close()) })
	return &w
}

// of is the same world in a test below w's own.
func (w *world) of(t testing.TB) *world {
	same := *w
	same.t = t
	return &same
}

func TestMain(m *testing.M) {
	code := m.Run()
	if original != nil {
		os.RemoveAll(original.dir) //nolint:errcheck // a temporary folder
	}
	os.Exit(code)
}

func (w *world) check(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// put writes into the database, past all rules.
func (w *world) put(f func(computations.Writer) error) {
	w.t.Helper()
	w.check(w.db.Update(context.Background(), f))
}

// name notes a thing.
func (w *world) name(name, kind string, id computations.ID) computations.ID {
	w.things[name], w.kinds[id] = id, kind
	return id
}

// secretOf makes a credential's secret out of a name.
func secretOf(prefix, name string) string {
	return (prefix + name + "-------------------------------------------")[:len(prefix)+43]
}

// credential lets somebody in.
func (w *world) credential(user string, kind computations.CredentialKind, secret string, expires time.Duration) computations.ID {
	id := computations.NewID()
	w.put(func(tx computations.Writer) error {
		return tx.PutCredential(computations.Credential{
			ID: id, User: w.users[user], Kind: kind, Name: user + "'s", Hash: computations.HashSecret(secret),
			Created: time.Now(), Expires: time.Now().Add(expires), Used: time.Now(),
		})
	})
	return id
}

func (w *world) fill() {
	ctx := context.Background()
	for name := range people {
		w.users[name] = w.name(name, "user", computations.NewID())
		w.put(func(tx computations.Writer) error {
			return tx.PutUser(computations.User{
				ID: w.users[name], Email: name + "@example.org", EmailVerified: true, Name: name, Operator: name == "olga" || name == "dan", Created: time.Now(),
			})
		})
		w.secrets[name] = secretOf("cs_", name)
		w.credential(name, computations.Session, w.secrets[name], time.Hour)
		var err error
		w.who[name], err = w.svc.Authenticate(ctx, w.secrets[name])
		w.check(err)
	}
	for user, ws := range map[string]string{"ada": "workspace", "bob": "other workspace"} {
		label := "Elsewhere"
		if user == "ada" {
			label = "The " + mark
		}
		made, err := w.svc.CreateWorkspace(ctx, w.who[user], label)
		w.check(err)
		w.name(ws, "workspace", made.ID)
	}
	for name, role := range people {
		if role != "" && name != "ada" {
			w.put(func(tx computations.Writer) error {
				return tx.PutMember(computations.Member{Workspace: w.things["workspace"], User: w.users[name], Role: role, Joined: time.Now()})
			})
		}
	}
	for _, name := range []string{"dora", "alan", "rita", "bob"} {
		thing := name + "'s key"
		if name == "bob" {
			thing = "other key"
		}
		w.name(thing, "key", w.register(name))
	}
	w.name("algorithm", "asset", w.asset("alan", "workspace", mark+" model", computations.AssetAlgorithm))
	w.name("dataset", "asset", w.asset("dora", "workspace", mark+" tides", computations.AssetDataset))
	w.name("other asset", "asset", w.asset("bob", "other workspace", "elsewhere", computations.AssetDataset))
	w.computations()
	w.invitations()
	w.hosts()
	// Dan had everything, and then his account was disabled.
	w.put(func(tx computations.Writer) error {
		u, err := tx.User(w.users["dan"])
		if err != nil {
			return err
		}
		u.Disabled = true
		return tx.PutUser(u)
	})
}

func (w *world) register(name string) computations.ID {
	k, err := keys.Generate(keys.Ed25519)
	w.check(err)
	w.keys[name] = k
	at := time.Now()
	sig, err := k.Sign(keys.RegistrationText(serviceName, name+"@example.org", k.Public(), at))
	w.check(err)
	made, err := w.svc.RegisterKey(context.Background(), w.who[name], computations.RegisterKey{Name: name, Public: k.Public(), At: at, Signature: sig})
	w.check(err)
	return made.ID
}

func (w *world) asset(owner, workspace, name string, kind computations.AssetKind) computations.ID {
	a := computations.Asset{Workspace: w.things[workspace], Name: name, Kind: kind, SHA256: manifest.Sum([]byte(name)), Size: 10}
	if kind == computations.AssetAlgorithm {
		a.Type = manifest.Python
		a.Files = []manifest.File{{Name: mark + "-weights", SHA256: manifest.Sum([]byte("weights")), Size: 5}}
	} else {
		a.Source = manifest.Source{URL: "https://data.example/" + mark + ".age", Encryption: manifest.Age}
	}
	made, err := w.svc.CreateAsset(context.Background(), w.who[owner], a)
	w.check(err)
	return made.ID
}

// computations of every stage, with the same people in all.
func (w *world) computations() {
	ctx := context.Background()
	for _, name := range []string{"draft", "complete", "frozen", "ready", "busy", "done"} {
		d := computations.Draft{
			Name: innerMark + " " + name, TEE: manifest.TEESim, AttestedTLS: true,
			Algorithm: computations.AlgorithmSlot{Provider: w.users["alan"], Asset: w.things["algorithm"]},
			Datasets:  []computations.DatasetSlot{{Name: "tides", Provider: w.users["dora"], Asset: w.things["dataset"]}},
			Consumers: []computations.ID{w.users["rita"]}, Approvers: []computations.ID{w.users["rita"]},
		}
		if name == "draft" {
			d.Datasets[0].Asset, d.Algorithm.Asset = "", ""
		}
		c, err := w.svc.CreateComputation(ctx, w.who["carl"], w.things["workspace"], d)
		w.check(err)
		w.name(name, "computation", c.ID)
		for _, other := range []string{"edith", "rune", "vera", "dan"} {
			w.check(w.svc.SetParts(ctx, w.who["carl"], c.ID, w.users[other], partsOf[other]))
		}
		if name == "draft" || name == "complete" {
			continue
		}
		c, err = w.svc.Freeze(ctx, w.who["carl"], c.ID, c.Revision)
		w.check(err)
		f, err := manifest.Parse(c.Manifest)
		w.check(err)
		approval, err := f.Approve(w.keys["rita"])
		w.check(err)
		if name == "frozen" {
			w.approval = approval
			continue
		}
		w.check(w.svc.Approve(ctx, w.who["rita"], c.ID, approval))
		if name == "ready" {
			continue
		}
		run, err := w.svc.StartRun(ctx, w.who["rune"], c.ID)
		w.check(err)
		if name == "busy" {
			w.name("queued run", "run", run.ID)
			continue
		}
		w.name("run", "run", run.ID)
		w.ended(run, f)
	}
	other, err := w.svc.CreateComputation(ctx, w.who["bob"], w.things["other workspace"], computations.Draft{Name: "elsewhere", TEE: manifest.TEENone})
	w.check(err)
	w.name("other computation", "computation", other.ID)
	otherRun := computations.Run{ID: computations.NewID(), Computation: other.ID, Workspace: other.Workspace, Number: 1, State: computations.RunFinished, By: w.users["bob"], Created: time.Now(), Ended: time.Now()}
	w.put(func(tx computations.Writer) error { return tx.PutRun(otherRun) })
	w.name("other run", "run", otherRun.ID)
}

// ended has told something, and left a receipt.
func (w *world) ended(run computations.Run, f manifest.Frozen) {
	authority, err := sim.LoadOrCreate(filepath.Join(w.dir, "sim"))
	w.check(err)
	instance, err := keys.Generate(keys.Ed25519)
	w.check(err)
	zero := 0
	w.receipt, err = receipt.Make(context.Background(), receipt.Request{
		Attester: authority.Attester([48]byte(bytes.Repeat([]byte{7}, 48)), f.Digest), Instance: instance, Manifest: f,
		Approvals: []manifest.Approval{mustApprove(w, f)}, Run: string(run.ID), Outcome: receipt.Succeeded, ExitStatus: &zero,
		Result: &receipt.Result{SHA256: manifest.Sum([]byte("result")), Size: 6}, Started: time.Now(), Finished: time.Now(),
	})
	w.check(err)
	run.State, run.Started, run.Ended, run.Simulated = computations.RunFinished, time.Now(), time.Now(), true
	w.put(func(tx computations.Writer) error {
		var entries []computations.Entry
		for i := range int64(3) {
			entries = append(entries, computations.Entry{
				Run: run.ID, Type: computations.EntryEvent, Source: "agent", Sequence: i + 1, Time: time.Now(), Level: "info", Kind: "agent.state", Message: innerMark,
			})
		}
		if _, err := tx.Append(entries); err != nil {
			return err
		}
		return tx.PutRun(run)
	})
	w.check(w.svc.SubmitReceipt(context.Background(), w.who["rita"], run.ID, w.receipt))
}

func mustApprove(w *world, f manifest.Frozen) manifest.Approval {
	a, err := f.Approve(w.keys["rita"])
	w.check(err)
	return a
}

func (w *world) invitations() {
	ctx := context.Background()
	for name, ask := range map[string]computations.Invite{
		"invitation":       {Workspace: w.things["workspace"], Email: "somebody@example.org"},
		"my invitation":    {Workspace: w.things["workspace"], Email: "ines@example.org"},
		"new invitation":   {Workspace: w.things["workspace"], Email: "new@example.org"},
		"other invitation": {Workspace: w.things["other workspace"], Email: "else@example.org"},
	} {
		by := "ada"
		if name == "other invitation" {
			by = "bob"
		}
		inv, secret, err := w.svc.Invite(ctx, w.who[by], ask)
		w.check(err)
		w.name(name, "invitation", inv.ID)
		w.links[name] = secret
	}
	w.links["link"] = secretOf("cl_", "stan")
	w.credential("stan", computations.SignInLink, w.links["link"], time.Hour)
	second := secretOf("ct_", "carl")
	w.name("token", "credential", w.credential("carl", computations.AccessToken, second, time.Hour))
	w.name("other token", "credential", w.credential("bob", computations.AccessToken, secretOf("ct_", "bob"), time.Hour))
}

func (w *world) hosts() {
	w.put(func(tx computations.Writer) error {
		h := computations.Host{ID: computations.NewID(), Name: "host-1", Serial: "01", Enrolled: time.Now(), Contact: time.Now(), CertificateExpires: time.Now()}
		w.name("host", "host", h.ID)
		return tx.PutHost(h)
	})
	token, _, err := w.svc.CreateEnrolToken(context.Background(), w.who["olga"], "host-2", time.Hour)
	w.check(err)
	w.name("enrol token", "token", token.ID)
}

// served is an API that answers, and a connection to it.
type served struct {
	*grpc.ClientConn
	api    *userapi.API
	server *grpc.Server
}

// serve puts the API before the world.
func (w *world) serve(change ...func(*userapi.Config)) *served {
	w.t.Helper()
	c := userapi.Config{Service: w.svc, Version: "1.2.3", Log: slog.New(slog.NewTextHandler(io.Discard, nil))}
	for _, f := range change {
		f(&c)
	}
	api, err := userapi.New(c)
	w.check(err)
	s := grpc.NewServer(api.ServerOptions()...)
	api.Register(s)
	l := bufconn.Listen(1 << 20)
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	conn, err := grpc.NewClient("passthrough:///api", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) }))
	w.check(err)
	w.t.Cleanup(func() {
		conn.Close() //nolint:errcheck // a test's client
		s.Stop()
		if err := <-done; err != nil {
			w.t.Error(err)
		}
	})
	return &served{conn, api, s}
}
