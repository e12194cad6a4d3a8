package console_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ultravioletrs/cocos/attest/sim"
	"github.com/ultravioletrs/cocos/internal/computations"
	"github.com/ultravioletrs/cocos/internal/console"
	"github.com/ultravioletrs/cocos/internal/store"
	"github.com/ultravioletrs/cocos/keys"
	"github.com/ultravioletrs/cocos/manifest"
	"github.com/ultravioletrs/cocos/receipt"
)

// Words that stand in the names of what belongs to the first workspace: where a
// stranger's answer has one, something has leaked.
const (
	mark      = "Lighthouse"
	innerMark = "Foghorn"
)

const publicURL = "http://localhost:7080"

// people of the fixture, and their roles in the first workspace.
var people = map[string]computations.Role{
	"ada": computations.RoleAdministrator, "mona": computations.RoleManager,
	"carl": computations.RoleMember, "edith": computations.RoleMember, "rune": computations.RoleMember, "vera": computations.RoleMember,
	"dora": computations.RoleMember, "alan": computations.RoleMember, "rita": computations.RoleMember,
	"nemo": computations.RoleMember, // without a part
	"olga": "",                      // the operator
	"bob":  "",                      // administrator of the other workspace
	"stan": "",                      // in no workspace
	"ines": "",                      // was invited
	"lost": computations.RoleAdministrator,
}

// partsOf are people's parts in every computation of the first workspace.
var partsOf = map[string][]computations.Part{
	"carl": {computations.PartCreator}, "edith": {computations.PartEditor}, "rune": {computations.PartRunner}, "vera": {computations.PartViewer},
	"dora": {computations.PartDataset}, "alan": {computations.PartAlgorithm}, "rita": {computations.PartConsumer},
}

// world is a filled database, and a console before it.
type world struct {
	t   testing.TB
	dir string
	svc *computations.Service
	db  *store.Store
	con *console.Console
	srv *httptest.Server
	log *bytes.Buffer

	users map[string]computations.ID
	who   map[string]computations.Identity
	// secrets are sessions by person, and those of links by what they are for.
	secrets map[string]string
	// things are ids by name.
	things   map[string]computations.ID
	keys     map[string]keys.Private
	receipt  []byte
	approval manifest.Approval
	export   []byte
}

// cheap hashes passwords quickly, and badly.
var cheap = computations.PasswordCost{MemoryKiB: 64, Passes: 1, Threads: 1}

var (
	once     sync.Once
	original *world
)

func TestMain(m *testing.M) {
	code := m.Run()
	if original != nil {
		if err := os.RemoveAll(original.dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

// newWorld returns a copy of the filled database with a console before it; both
// close with the test.
func newWorld(t testing.TB, change ...func(*console.Config)) *world {
	t.Helper()
	once.Do(func() {
		dir, err := os.MkdirTemp("", "console-*")
		if err != nil {
			t.Fatal(err)
		}
		w := &world{
			t: t, dir: dir, users: map[string]computations.ID{}, who: map[string]computations.Identity{}, secrets: map[string]string{},
			things: map[string]computations.ID{}, keys: map[string]keys.Private{},
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
	w.check(err)
	path := filepath.Join(t.TempDir(), "cocos.db")
	w.check(os.WriteFile(path, b, 0o600))
	w.open(path)
	w.log = &bytes.Buffer{}
	cfg := console.Config{Service: w.svc, PublicURL: publicURL, Log: slog.New(slog.NewTextHandler(w.log, &slog.HandlerOptions{Level: slog.LevelDebug}))}
	for _, f := range change {
		f(&cfg)
	}
	w.con, err = console.New(cfg)
	w.check(err)
	w.srv = httptest.NewUnstartedServer(nil)
	w.srv.Config = w.con.Server(w.con)
	w.srv.Start()
	t.Cleanup(func() {
		w.con.Close()
		w.srv.Close()
		w.close()
	})
	return &w
}

func (w *world) open(path string) {
	var err error
	w.db, err = store.Open(context.Background(), store.Config{Path: path})
	w.check(err)
	w.svc, err = computations.New(computations.Config{Store: w.db, Name: publicURL, PasswordCost: cheap, Log: slog.New(slog.NewTextHandler(io.Discard, nil))})
	w.check(err)
}

// close takes the database away.
func (w *world) close() {
	w.t.Helper()
	if w.db != nil {
		w.check(w.db.Close())
		w.db = nil
	}
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

// change changes somebody's account, past all rules.
func (w *world) change(name string, f func(*computations.User)) {
	w.t.Helper()
	w.put(func(tx computations.Writer) error {
		u, err := tx.User(w.users[name])
		if err != nil {
			return err
		}
		f(&u)
		return tx.PutUser(u)
	})
}

// secretOf makes a credential's secret out of a name.
func secretOf(prefix, name string) string {
	return (prefix + name + "-------------------------------------------")[:len(prefix)+43]
}

// credential lets somebody in.
func (w *world) credential(user string, kind computations.CredentialKind, secret string, life time.Duration) computations.ID {
	id := computations.NewID()
	w.put(func(tx computations.Writer) error {
		return tx.PutCredential(computations.Credential{
			ID: id, User: w.users[user], Kind: kind, Name: user + "'s", Hash: computations.HashSecret(secret), Client: "a test",
			Created: time.Now(), Expires: time.Now().Add(life), Used: time.Now(),
		})
	})
	return id
}

func (w *world) fill() {
	ctx := context.Background()
	for name := range people {
		w.users[name] = computations.NewID()
		w.put(func(tx computations.Writer) error {
			return tx.PutUser(computations.User{
				ID: w.users[name], Email: name + "@example.org", EmailVerified: true, Name: strings.ToUpper(name[:1]) + name[1:], Operator: name == "olga", Created: time.Now(),
			})
		})
		w.secrets[name] = secretOf("cs_", name)
		w.things[name+"'s session"] = w.credential(name, computations.Session, w.secrets[name], 12*time.Hour)
		var err error
		w.who[name], err = w.svc.Authenticate(ctx, w.secrets[name])
		w.check(err)
	}
	for user, ws := range map[string]string{"ada": "workspace", "bob": "other workspace"} {
		label := "Elsewhere"
		if user == "ada" {
			label = mark
		}
		made, err := w.svc.CreateWorkspace(ctx, w.who[user], label)
		w.check(err)
		w.things[ws] = made.ID
	}
	for name, role := range people {
		if role != "" && name != "ada" {
			w.put(func(tx computations.Writer) error {
				return tx.PutMember(computations.Member{Workspace: w.things["workspace"], User: w.users[name], Role: role, Joined: time.Now()})
			})
		}
	}
	for _, name := range []string{"dora", "alan", "rita"} {
		w.things[name+"'s key"] = w.register(name)
	}
	w.things["algorithm"] = w.asset("alan", mark+" model", computations.AssetAlgorithm)
	w.things["dataset"] = w.asset("dora", mark+" tides", computations.AssetDataset)
	w.fillComputations()
	w.fillInvitations()
	w.put(func(tx computations.Writer) error {
		h := computations.Host{
			ID: computations.NewID(), Name: "host-1", Serial: "01", Enrolled: time.Now(), Contact: time.Now(), CertificateExpires: time.Now(),
			Report: computations.HostReport{
				TEEs: []manifest.TEE{manifest.TEESim}, Capacity: 4, MemoryFree: 1 << 30, MemoryTotal: 2 << 30, CPUs: 2, Version: "1.2.3",
				Images:   []computations.Image{{Digest: strings.Repeat("ab", 32), Measurements: map[string]string{"sim": strings.Repeat("cd", 48)}}},
				Findings: []computations.Finding{{Name: "kvm", Verdict: "ok", Found: "works"}, {Name: "sev", Verdict: "missing", Found: "no /dev/sev", Needed: "/dev/sev", Mend: "load kvm_amd"}},
			},
		}
		w.things["host"] = h.ID
		return tx.PutHost(h)
	})
	token, _, err := w.svc.CreateEnrolToken(ctx, w.who["olga"], "host-2", time.Hour)
	w.check(err)
	w.things["enrol token"] = token.ID
	// One who had everything, and whose account was disabled.
	w.put(func(tx computations.Writer) error {
		u, err := tx.User(w.users["lost"])
		u.Disabled = true
		if err != nil {
			return err
		}
		return tx.PutUser(u)
	})
}

func (w *world) register(name string) computations.ID {
	k, err := keys.Generate(keys.Ed25519)
	w.check(err)
	w.keys[name] = k
	at := time.Now()
	sig, err := k.Sign(keys.RegistrationText(publicURL, name+"@example.org", k.Public(), at))
	w.check(err)
	made, err := w.svc.RegisterKey(context.Background(), w.who[name], computations.RegisterKey{Name: name, Public: k.Public(), At: at, Signature: sig})
	w.check(err)
	return made.ID
}

func (w *world) asset(owner, name string, kind computations.AssetKind) computations.ID {
	a := computations.Asset{Workspace: w.things["workspace"], Name: name, Kind: kind, SHA256: manifest.Sum([]byte(name)), Size: 10}
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

// fillComputations makes computations of every stage, with the same people in all.
func (w *world) fillComputations() {
	ctx := context.Background()
	for _, name := range []string{"draft", "complete", "frozen", "ready", "queued", "busy", "done"} {
		d := computations.Draft{
			Name: innerMark + " " + name, TEE: manifest.TEESim, AttestedTLS: true,
			Algorithm: computations.AlgorithmSlot{Provider: w.users["alan"], Asset: w.things["algorithm"], Args: []string{"--fast"}},
			Datasets:  []computations.DatasetSlot{{Name: "tides", Provider: w.users["dora"], Asset: w.things["dataset"]}},
			Consumers: []computations.ID{w.users["rita"]},
		}
		if name == "draft" {
			d.Datasets[0].Asset, d.Algorithm.Asset = "", ""
		}
		c, err := w.svc.CreateComputation(ctx, w.who["carl"], w.things["workspace"], d)
		w.check(err)
		w.things[name] = c.ID
		for _, other := range []string{"edith", "rune", "vera"} {
			w.check(w.svc.SetParts(ctx, w.who["carl"], c.ID, w.users[other], partsOf[other]))
		}
		if name == "draft" {
			w.export, err = w.svc.ExportComputation(ctx, w.who["carl"], c.ID)
			w.check(err)
		}
		if name == "draft" || name == "complete" {
			continue
		}
		c, err = w.svc.Freeze(ctx, w.who["carl"], c.ID, c.Revision)
		w.check(err)
		f, err := manifest.Parse(c.Manifest)
		w.check(err)
		var approvals []manifest.Approval
		for _, by := range []string{"alan", "dora", "rita"} {
			a, err := f.Approve(w.keys[by])
			w.check(err)
			approvals = append(approvals, a)
			if name != "frozen" {
				w.check(w.svc.Approve(ctx, w.who[by], c.ID, a))
			}
		}
		if name == "frozen" {
			w.approval = approvals[2] // rita's
			continue
		}
		if name == "ready" {
			continue
		}
		run, err := w.svc.StartRun(ctx, w.who["rune"], c.ID)
		w.check(err)
		w.things[name+" run"] = run.ID
		if name != "queued" {
			w.told(run, f, name == "done", approvals)
		}
	}
}

// told has a run tell what a host would.
func (w *world) told(run computations.Run, f manifest.Frozen, done bool, approvals []manifest.Approval) {
	event := func(source string, n int64, kind string, attributes map[string]string) computations.Entry {
		return computations.Entry{
			Run: run.ID, Type: computations.EntryEvent, Source: source, Sequence: n, Time: time.Now(), Level: "info", Kind: kind,
			Message: innerMark + " says " + kind, Attributes: attributes,
		}
	}
	entries := []computations.Entry{
		event("manager", 1, "run.accepted", nil), event("shim", 1, "vm.booting", nil),
		event("agent", 1, "agent.ready", map[string]string{"tee": "sim", "attested": "true", "simulated": "true", "manifest_digest": f.Digest.String(), "instance": "sha256:" + strings.Repeat("1", 64)}),
		event("agent", 2, "input.received", map[string]string{"kind": "algorithm"}),
		{Run: run.ID, Type: computations.EntryLog, Source: "shim", Time: time.Now(), Level: "warn", Message: "a call was refused"},
	}
	run.State, run.Started, run.Simulated, run.AgentState = computations.RunRunning, time.Now(), true, "AwaitingInputs"
	run.AgentAddress, run.AgentKey = "192.0.2.7:6100", "sha256:"+strings.Repeat("2", 64)
	if done {
		entries = append(entries, event("agent", 3, "input.received", map[string]string{"kind": "dataset", "name": "tides"}),
			event("agent", 4, "agent.state", map[string]string{"to": "Running"}), event("agent", 5, "agent.state", map[string]string{"to": "ResultReady"}))
		run.State, run.Ended, run.AgentState = computations.RunFinished, time.Now(), "Released"
	}
	w.put(func(tx computations.Writer) error {
		if _, err := tx.Append(entries); err != nil {
			return err
		}
		return tx.PutRun(run)
	})
	if !done {
		return
	}
	authority, err := sim.LoadOrCreate(filepath.Join(w.dir, "sim"))
	w.check(err)
	instance, err := keys.Generate(keys.Ed25519)
	w.check(err)
	zero := 0
	w.receipt, err = receipt.Make(context.Background(), receipt.Request{
		Attester: authority.Attester([48]byte(bytes.Repeat([]byte{7}, 48)), f.Digest), Instance: instance, Manifest: f,
		Approvals: approvals, Run: string(run.ID), Outcome: receipt.Succeeded, ExitStatus: &zero,
		Result: &receipt.Result{SHA256: manifest.Sum([]byte("result")), Size: 6}, Started: time.Now(), Finished: time.Now(),
	})
	w.check(err)
	w.check(w.svc.SubmitReceipt(context.Background(), w.who["rita"], run.ID, w.receipt))
}

func (w *world) fillInvitations() {
	ctx := context.Background()
	for name, email := range map[string]string{"invitation": "somebody@example.org", "my invitation": "ines@example.org", "new invitation": "new@example.org"} {
		inv, secret, err := w.svc.Invite(ctx, w.who["ada"], computations.Invite{Workspace: w.things["workspace"], Email: email})
		w.check(err)
		w.things[name], w.secrets[name] = inv.ID, secret
	}
	w.secrets["link"] = secretOf("cl_", "stan")
	w.credential("stan", computations.SignInLink, w.secrets["link"], time.Hour)
	w.things["token"] = w.credential("carl", computations.AccessToken, secretOf("ct_", "carl"), time.Hour)
	w.secrets["token"] = secretOf("ct_", "carl")
	w.secrets["expired"] = secretOf("cs_", "expired")
	w.credential("ada", computations.Session, w.secrets["expired"], -time.Hour)
}

// reply is all that a browser gets.
type reply struct {
	status int
	header http.Header
	body   string
}

// to is where a reply sends the browser; empty: nowhere.
func (r reply) to() string { return r.header.Get("Location") }

// browser is one, with its cookies; it follows no redirection by itself.
type browser struct {
	w *world
	c *http.Client
}

// browse begins as somebody; empty: as nobody.
func (w *world) browse(name string) *browser {
	jar, err := cookiejar.New(nil)
	w.check(err)
	b := &browser{w, &http.Client{Jar: jar, Timeout: time.Minute, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}}
	if name != "" {
		u, err := url.Parse(w.srv.URL)
		w.check(err)
		jar.SetCookies(u, []*http.Cookie{{Name: "cocos", Value: w.secrets[name], Path: "/"}})
	}
	return b
}

func (b *browser) get(path string) reply { return b.do(http.MethodGet, path, nil, nil) }

// post sends a form as a page of the console does.
func (b *browser) post(path string, form url.Values) reply {
	return b.do(http.MethodPost, path, form, http.Header{"Sec-Fetch-Site": {"same-origin"}})
}

func (b *browser) do(method, path string, form url.Values, header http.Header) reply {
	b.w.t.Helper()
	var body io.Reader
	if form != nil {
		body = strings.NewReader(form.Encode())
	}
	req, err := http.NewRequest(method, b.w.srv.URL+path, body)
	b.w.check(err)
	if form != nil {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	for k, v := range header {
		req.Header[k] = v
	}
	res, err := b.c.Do(req)
	b.w.check(err)
	defer func() { b.w.check(res.Body.Close()) }()
	text, err := io.ReadAll(res.Body)
	b.w.check(err)
	return reply{res.StatusCode, res.Header, string(text)}
}

// revision is that of a draft, as a form has it.
func (w *world) revision(name string) string {
	c, err := w.svc.Computation(context.Background(), w.who["carl"], w.things[name])
	w.check(err)
	return fmt.Sprint(c.Revision)
}

func jsonText(w *world, v any) string {
	b, err := json.Marshal(v)
	w.check(err)
	return string(b)
}
