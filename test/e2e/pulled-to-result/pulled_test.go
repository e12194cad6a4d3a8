// Package pulled shows that an agent in a VM takes datasets from where their owner
// keeps them, through its host: from an S3-compatible store with the key that the
// owner's broker releases to it after attestation, from an image registry with a key
// that the owner hands over, and from a web server. A broker whose policy does not
// fit releases nothing, and the dataset's provider alone learns why.
package pulled

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containers/ocicrypt/blockcipher"
	"github.com/containers/ocicrypt/config"
	"github.com/containers/ocicrypt/keywrap/jwe"

	"github.com/ultravioletrs/cocos/attest"
	"github.com/ultravioletrs/cocos/attest/sim"
	"github.com/ultravioletrs/cocos/internal/keybroker"
	"github.com/ultravioletrs/cocos/internal/vm"
	"github.com/ultravioletrs/cocos/keys"
	"github.com/ultravioletrs/cocos/manifest"
	"github.com/ultravioletrs/cocos/test/e2e/harness"
	"github.com/ultravioletrs/cocos/test/servers"
)

const resource = "hospital-a/key/scans"

// world is alice with an algorithm, bob with three datasets elsewhere, and a host.
type world struct {
	t          *testing.T
	host       *harness.Host
	alice, bob *harness.Party
	manifest   manifest.Frozen
	run        *harness.Run
	policy     map[string]string // by name
	broker     string            // HOST:PORT
	secret     string            // file
	cert, key  string            // of the broker
	content    map[string][]byte
	imageKey   string // file
}

func write(t *testing.T, name string, b []byte) string {
	t.Helper()
	if err := os.WriteFile(name, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// encrypted is a layer as skopeo and others write it.
func encrypted(t *testing.T, b []byte, to *rsa.PublicKey) servers.Layer {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(to)
	if err != nil {
		t.Fatal(err)
	}
	h, err := blockcipher.NewLayerBlockCipherHandler()
	if err != nil {
		t.Fatal(err)
	}
	r, finish, err := h.Encrypt(bytes.NewReader(b), blockcipher.AES256CTR)
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	o, err := finish()
	if err != nil {
		t.Fatal(err)
	}
	private, errPrivate := json.Marshal(o.Private)
	public, errPublic := json.Marshal(o.Public)
	pub := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
	wrapped, err := jwe.NewKeyWrapper().WrapKeys(&config.EncryptConfig{Parameters: map[string][][]byte{"pubkeys": {pub}}}, private)
	if err != nil || errPrivate != nil || errPublic != nil {
		t.Fatal(err, errPrivate, errPublic)
	}
	return servers.Layer{
		MediaType: "application/vnd.oci.image.layer.v1.tar+encrypted", Content: sealed,
		Annotations: map[string]string{
			"org.opencontainers.image.enc.keys.jwe": base64.StdEncoding.EncodeToString(wrapped),
			"org.opencontainers.image.enc.pubopts":  base64.StdEncoding.EncodeToString(public),
		},
	}
}

// newWorld keeps the datasets where they are taken from, and starts the run.
func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, content: map[string][]byte{}, policy: map[string]string{}}
	w.host = harness.Start(t, harness.Env("MANAGER_QEMU_ENABLE_SIM=true"),
		harness.Env("MANAGER_EGRESS=on"), harness.Env("MANAGER_EGRESS_ALLOW=127.0.0.0/8"))
	w.alice, w.bob = w.host.NewParty("alice"), w.host.NewParty("bob")
	w.alice.Knows(w.bob)
	w.bob.Knows(w.alice)
	for i, name := range []string{"scans", "labels", "open"} {
		b := make([]byte, 300_000+i)
		_, _ = rand.Read(b)
		w.content[name] = b
	}
	// In a store, encrypted with age, its key with the broker.
	store := servers.StartS3(t)
	identity, sealed := filepath.Join(w.bob.Dir, "scans.key"), filepath.Join(w.bob.Dir, "scans.age")
	w.bob.MustCLI("encrypt", w.bob.File("scans", w.content["scans"]), "--new-identity", identity, "--out", sealed)
	store.Bucket(t, "hospital-a")
	store.Put(t, "hospital-a", "scans.age", read(t, sealed))
	w.secret = w.bob.File("scans.json", w.secretText(read(t, identity), store))
	w.broker = fmt.Sprintf("127.0.0.1:%d", harness.FreePort(t))
	cert, key := harness.Certificate(t)
	w.cert, w.key = write(t, filepath.Join(w.bob.Dir, "broker.pem"), cert), write(t, filepath.Join(w.bob.Dir, "broker.key"), key)
	// In a registry, encrypted with ocicrypt.
	registry := servers.StartRegistry(t)
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	w.imageKey = w.bob.File("labels.key", pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(rsaKey)}))
	image := registry.Push(t, "public/labels", encrypted(t, w.content["labels"], &rsaKey.PublicKey))
	// On a web server, as it is.
	web := httptest.NewTLSServer(http.HandlerFunc(func(out http.ResponseWriter, r *http.Request) {
		http.ServeContent(out, r, "open", time.Time{}, bytes.NewReader(w.content["open"]))
	}))
	t.Cleanup(web.Close)
	webCA := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: web.Certificate().Raw})

	w.freeze(map[string]manifest.Source{
		"scans": {
			URL: "s3://hospital-a/scans.age", Endpoint: store.Endpoint, Region: store.Region, Encryption: manifest.Age,
			Broker: "https://" + w.broker, Resource: resource, Authorities: store.Authority + string(cert),
		},
		"labels": {
			URL: "oci://" + registry.Host + "/public/labels@" + image, Encryption: manifest.OCICrypt,
			Redirects: []string{registry.Tokens}, Authorities: registry.Authority,
		},
		"open": {URL: web.URL + "/open", Authorities: string(webCA)},
	})
	w.run = w.host.SubmitApproved(w.manifest, w.alice.Approve(w.manifest), w.bob.Approve(w.manifest))
	return w
}

// secretText has what the agent needs for the store, and to read what is there.
func (w *world) secretText(identity []byte, store *servers.S3) []byte {
	w.t.Helper()
	var line string
	for l := range strings.Lines(string(identity)) {
		if strings.HasPrefix(l, "AGE-SECRET-KEY-") {
			line = strings.TrimSpace(l)
		}
	}
	b, err := json.Marshal(map[string]any{
		"age": []string{line}, "s3": map[string]string{"access_key": store.AccessKey, "secret_key": store.SecretKey},
	})
	if err != nil || line == "" {
		w.t.Fatalf("no identity in %d bytes, %v", len(identity), err)
	}
	return b
}

func (w *world) freeze(sources map[string]manifest.Source) {
	w.t.Helper()
	algorithm := read(w.t, harness.Algorithm(w.t))
	m := manifest.Manifest{
		Version: manifest.Version, ID: "pulled", Name: "pulled", Nonce: manifest.Nonce{1}, TEE: manifest.TEESim, AttestedTLS: true,
		Algorithm: manifest.Algorithm{
			Type: manifest.Binary, Args: []string{"sum"}, Provider: w.alice.Key, SHA256: manifest.Sum(algorithm), Size: int64(len(algorithm)),
		},
		Consumers: []keys.Public{w.alice.Key}, Approvals: []keys.Public{w.alice.Key, w.bob.Key},
		ScratchBytes: 64 << 20, // what is pulled goes there, in a VM that is appraised
	}
	for _, name := range []string{"labels", "open", "scans"} {
		b := w.content[name]
		m.Datasets = append(m.Datasets, manifest.Dataset{
			Name: name, Provider: w.bob.Key, SHA256: manifest.Sum(b), Size: int64(len(b)), Source: sources[name],
		})
	}
	var err error
	if w.manifest, err = manifest.Freeze(m); err != nil {
		w.t.Fatal(err)
	}
}

func read(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// policies are one that takes the image of this tree, and one that takes another.
func (w *world) policies() {
	w.t.Helper()
	root := filepath.Join(w.host.StateDir, vm.SimDir, sim.RootFile)
	out, _ := w.bob.MustCLI("policy", "init", "--tee", "sim", "--image", filepath.Join(harness.Root(), "cmd", "manager", "img"),
		"--vcpus", "1", "--sim-root", root, "--accept-simulation", attest.SimConsent)
	w.policy["right"] = w.bob.File("policy.json", []byte(out))
	p, err := attest.ParsePolicy([]byte(out))
	if err != nil {
		w.t.Fatal(err)
	}
	p.Simulated.Measurements = []attest.Hex{make(attest.Hex, 48)}
	b, err := p.Bytes()
	if err != nil {
		w.t.Fatal(err)
	}
	w.policy["other"] = w.bob.File("other.json", b)
}

// args of a call to the agent.
func (w *world) args(p *harness.Party, args ...string) []string {
	return append(args, "--agent", w.run.Address, "--policy", w.policy["right"], "--key", p.KeyFile,
		"--manifest", p.File("pulled.json", w.manifest.Raw))
}

// input is what State says of a dataset to somebody.
type input struct {
	Name     string `json:"name"`
	Complete bool   `json:"complete"`
	Pulling  bool   `json:"pulling"`
	Problem  string `json:"problem"`
}

func (w *world) input(p *harness.Party, role, name string) (found input) {
	w.t.Helper()
	out, _ := p.MustCLI(w.args(p, "state", "--role", role, "--json")...)
	var state struct{ Inputs []input }
	if err := json.Unmarshal([]byte(out), &state); err != nil {
		w.t.Fatalf("%v in %s", err, out)
	}
	for _, in := range state.Inputs {
		if in.Name == name {
			return in
		}
	}
	w.t.Fatalf("no %s in %s", name, out)
	return
}

// until waits for what State says to bob.
func (w *world) until(name, what string, is func(input) bool) (in input) {
	w.t.Helper()
	w.host.Until(what, harness.BootLimit, func() bool {
		in = w.input(w.bob, "dataset-provider", name)
		return is(in)
	})
	return in
}

// serve runs bob's broker; stop ends it and returns what it recorded.
func (w *world) serve(policy string) (stop func() []keybroker.Record) {
	w.t.Helper()
	out, end := w.bob.Interruptible("broker", "serve", "--json", "--url", "https://"+w.broker, "--listen", w.broker, "--tls-cert", w.cert, "--tls-key", w.key,
		"--provider", strings.TrimSuffix(w.bob.KeyFile, ".pem")+".pub.pem", "--manifest", w.bob.File("pulled.json", w.manifest.Raw),
		"--policy", w.policy[policy], "--resource", resource+"="+w.secret)
	recorded := make(chan []keybroker.Record, 1)
	go func() {
		var all []keybroker.Record
		for lines := bufio.NewScanner(out); lines.Scan(); {
			var r keybroker.Record
			if json.Unmarshal(lines.Bytes(), &r) == nil {
				all = append(all, r)
			}
		}
		recorded <- all
	}()
	for deadline := time.Now().Add(harness.EndLimit); ; time.Sleep(50 * time.Millisecond) {
		c, err := net.Dial("tcp", w.broker)
		if err == nil {
			c.Close()
			break
		}
		if time.Now().After(deadline) {
			w.t.Fatalf("the broker can't be reached: %v; %v", err, end())
		}
	}
	return func() []keybroker.Record {
		w.t.Helper()
		if err := end(); err != nil {
			w.t.Errorf("the broker: %v", err)
		}
		return <-recorded
	}
}

func TestPulledToResult(t *testing.T) {
	w := newWorld(t)
	w.run.Ready()
	w.policies()

	// What needs nothing is there by itself; the broker is not, yet.
	w.until("open", "the dataset of the web server", func(in input) bool { return in.Complete })
	in := w.until("scans", "a broker that is missed", func(in input) bool { return in.Problem != "" })
	if !in.Pulling || !strings.Contains(in.Problem, "the broker https://"+w.broker+" can't be reached") {
		t.Errorf("without a broker: %+v", in)
	}

	// A broker whose policy does not fit.
	stop := w.serve("other")
	in = w.until("scans", "the broker's refusal", func(in input) bool { return !in.Pulling && in.Problem != "" })
	if in.Complete || !strings.Contains(in.Problem, "sim.measurement") {
		t.Errorf("the provider is told %+v", in)
	}
	if other := w.input(w.alice, "consumer", "scans"); other.Problem == "" || strings.Contains(other.Problem, "sim.") || other.Complete {
		t.Errorf("others are told %+v", other)
	}
	for _, r := range stop() {
		if r.Event != keybroker.EventRefused || r.Reason != "AttestationError" || !strings.Contains(r.Detail, "sim.measurement: expected") {
			t.Errorf("it recorded %+v", r)
		}
	}

	// One whose policy fits, and told to, the agent asks again.
	stop = w.serve("right")
	_, stderr := w.bob.MustCLI(w.args(w.bob, "data", "provide", "--name", "scans")...)
	if !strings.Contains(stderr, "SIMULATED") {
		t.Errorf("nothing says SIMULATED:\n%s", stderr)
	}
	w.until("scans", "the dataset of the store", func(in input) bool { return in.Complete })
	released := 0
	for _, r := range stop() {
		if r.Event == keybroker.EventReleased && r.Resource == resource && r.Manifest == w.manifest.Digest.String() && r.Simulated {
			released++
		}
	}
	if released != 1 {
		t.Errorf("%d releases are recorded", released)
	}

	// A key by hand.
	if in := w.input(w.bob, "dataset-provider", "labels"); in.Complete || !strings.Contains(in.Problem, "data provide") {
		t.Errorf("without its key: %+v", in)
	}
	w.bob.MustCLI(w.args(w.bob, "data", "provide", "--name", "labels", "--private-key", w.imageKey)...)
	w.until("labels", "the dataset of the registry", func(in input) bool { return in.Complete })

	w.alice.MustCLI(w.args(w.alice, "algo", harness.Algorithm(t))...)
	dir := filepath.Join(w.alice.Dir, "result")
	w.alice.MustCLI(w.args(w.alice, "result", "--wait", "--out", dir)...)
	var want strings.Builder
	for _, name := range []string{"labels", "open", "scans"} {
		fmt.Fprintf(&want, "%x  datasets/%s\n", sha256.Sum256(w.content[name]), name)
	}
	if got := string(read(t, filepath.Join(dir, "results", "sums.txt"))); got != want.String() {
		t.Errorf("the algorithm saw\n%swhat lies elsewhere is\n%s", got, want.String())
	}
	// The host carries the connections, and learns of arrivals; why one waits, what is
	// asked for and what is released it does not read.
	for _, word := range []string{"AGE-SECRET", resource, "sim.measurement"} {
		if strings.Contains(w.run.History(), word) {
			t.Errorf("the host reads %q:\n%s", word, w.run.History())
		}
	}
}
