package console

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	eventv1 "github.com/ultravioletrs/cocos/api/event/v1"
	"github.com/ultravioletrs/cocos/attest/sim"
	"github.com/ultravioletrs/cocos/internal/vm"
	"github.com/ultravioletrs/cocos/keys"
	"github.com/ultravioletrs/cocos/manifest"
	"github.com/ultravioletrs/cocos/receipt"
)

const password = "seven lanterns over the fjord"

// participant is a person with a browser and a machine.
type participant struct {
	*person
	*machine
	email string
}

func (b *browsers) participant(name, email string) *participant {
	return &participant{b.person(name), newMachine(b.t), email}
}

// follow types the commands that the page gives for what is to be done next, as
// they stand there; to the sign-in it adds who signs in, which a person is asked
// for. It returns what was typed.
func (p *participant) follow() []string {
	p.person.t.Helper()
	var lines []string
	p.do(chromedp.Evaluate(`[...document.querySelectorAll(".card.next .command code")].map(c => c.textContent)`, &lines))
	for _, line := range lines {
		if strings.HasPrefix(line, "cocos-cli login ") {
			p.file("password", password)
			line += " --email " + p.email + " --password-file password"
		}
		p.types(line)
	}
	return lines
}

// invited opens an invitation's link and makes an account.
func (p *participant) invited(link, name string) {
	p.person.t.Helper()
	p.open(link)
	p.fill("Your name", name, "Password", password, "Password, once more", password)
	p.press("Make an account and join")
}

// TestThreePeople go from their invitations to the receipt: Ingrid describes the
// computation and brings the algorithm, Anders brings the data, Mei gets the
// result. What they do on their own machines is what the pages tell them to type.
func TestThreePeople(t *testing.T) {
	s := startService(t)
	b := newBrowsers(t, s.url)

	// The operator, and the first user.
	grace := b.participant("Grace", "grace@example.org")
	grace.open(s.link)
	grace.inspect("link-first")
	grace.fill("Email address", grace.email, "Your name", "Grace Okafor", "Password", password, "Password, once more", password)
	grace.press("Begin")
	grace.inspect("home-empty")
	grace.open("/hosts")
	grace.inspect("hosts-empty")
	grace.open("/users/new")
	grace.fill("Email address", "ingrid@example.org", "Name", "Ingrid Solberg")
	grace.inspect("user-new")
	grace.press("Make the account")
	grace.inspect("user-link")
	link := grace.commands()[0]

	ingrid := b.participant("Ingrid", "ingrid@example.org")
	ingrid.open(link)
	ingrid.inspect("link")
	ingrid.fill("Password", password, "Password, once more", "another one entirely")
	ingrid.press("Set the password")
	ingrid.sees("One thing has to be mended", "is another password than the first")
	ingrid.inspect("link-faults")
	ingrid.fill("Password", password, "Password, once more", password)
	ingrid.press("Set the password")
	ingrid.press("New workspace")
	ingrid.inspect("workspace-new")
	ingrid.fill("Name", "Nordfjord Tumour Registry")
	ingrid.press("Make the workspace")
	ingrid.inspect("dashboard-empty")

	// The draft.
	ingrid.press("New computation")
	ingrid.fill("Name", "Survival by stage", "Description", "Median survival by tumour stage, over the scans of two hospitals.\nOnly the table leaves the VM.", "File name", "scans.csv")
	ingrid.choose("Who brings it", "Ingrid Solberg")
	ingrid.put("Arguments", "--by\nstage")
	ingrid.tick("Simulated TEE")
	ingrid.inspect("draft-new")
	ingrid.press("Add a dataset")
	ingrid.press("Remove dataset 2")
	ingrid.press("Save the draft")
	ingrid.sees("The draft is saved.", "nobody is named to bring the dataset scans.csv", "Your parts: Creator and algorithm provider.")
	ingrid.inspect("computation-draft")
	computation := ingrid.path()
	short := computation[len(computation)-8:]
	manifestFile := "manifest-" + short + ".json"

	// Two invitations.
	anders, mei := b.participant("Anders", "anders@example.org"), b.participant("Mei", "mei@example.org")
	invite := func(email, part string) string {
		ingrid.open(computation)
		ingrid.press("Invite somebody")
		ingrid.fill("Email address", email)
		ingrid.tick(part)
		if email == anders.email {
			ingrid.inspect("invitation-new")
		}
		ingrid.press("Make the link")
		if email == anders.email {
			ingrid.inspect("invitation-link")
		}
		return ingrid.commands()[0]
	}
	toAnders, toMei := invite(anders.email, "Dataset provider"), invite(mei.email, "Consumer")

	// Anders knows nothing of all this: the pages tell him.
	anders.open(toAnders)
	anders.sees("Ingrid Solberg", "Survival by stage", "Dataset provider: brings a dataset")
	anders.inspect("invitation")
	anders.invited(toAnders, "Anders Lund")
	if anders.path() != computation {
		t.Fatalf("Anders arrives at %s", anders.path())
	}
	anders.inspect("computation-invited")
	anders.file("scans.csv", "stage,months\n1,61\n2,40\n")
	typed := anders.follow()
	if want := []string{"cocos-cli login ", "cocos-cli keys --out anders", "cocos-cli keys register anders.pem", "cocos-cli assets add scans.csv --kind dataset"}; len(typed) < len(want) {
		t.Fatalf("Anders is told %q", typed)
	} else {
		for i := range want {
			if !strings.HasPrefix(typed[i], want[i]) {
				t.Errorf("Anders is told to type %q, want %q", typed[i], want[i])
			}
		}
	}
	anders.open(computation)
	anders.choose("The dataset scans.csv", "scans")
	anders.press("Bring this")
	anders.sees("Your choice is saved.", "You have brought all that this draft asks of you.")
	anders.inspect("computation-brought")
	anders.open("/keys")
	anders.inspect("keys")

	mei.invited(toMei, "Mei Tanaka")
	mei.follow()

	// Ingrid brings the algorithm, and freezes.
	ingrid.file("algorithm.py", "print('stage')\n")
	ingrid.open(computation)
	ingrid.follow()
	ingrid.open(computation)
	ingrid.choose("The algorithm", "algorithm")
	ingrid.press("Bring this")
	ingrid.open("/w/" + workspaceOf(ingrid) + "/members")
	ingrid.inspect("members")
	ingrid.open(computation)
	ingrid.sees("Everything is there.")
	ingrid.inspect("computation-complete")
	ingrid.press("Freeze the manifest")
	ingrid.inspect("freeze")
	ingrid.press("Freeze the manifest")
	ingrid.sees("It never changes again.", "Approvals are missing from Ingrid Solberg, Anders Lund, Mei Tanaka.")
	ingrid.inspect("computation-frozen")

	// Everybody knows everybody's key from the telephone.
	everybody := []*participant{ingrid, anders, mei}
	for _, p := range everybody {
		for _, o := range everybody {
			name := strings.TrimSuffix(o.email, "@example.org")
			fingerprint := strings.TrimSpace(o.types("cocos-cli keys show " + name + ".pem"))
			if p != o {
				p.types("cocos-cli contacts add " + name + " --fingerprint " + regexp.MustCompile(`sha256:[0-9a-f]{64}`).FindString(fingerprint))
			}
		}
	}
	for _, p := range everybody[:2] {
		p.open(computation)
		p.follow()
	}
	// Mei approves with the other command, and hands its answer in by the browser.
	mei.open(computation)
	mei.sees("Approvals are missing from Mei Tanaka.")
	mei.inspect("computation-approvals")
	mei.press("hand the approval in here")
	mei.inspect("approve")
	mei.types("cocos-cli computations manifest " + strings.TrimPrefix(computation, "/c/") + " --out " + manifestFile)
	mei.types(mei.commands()[0])
	mei.put("Or its text", "{}")
	mei.press("Hand in the approval")
	mei.sees("is not what cocos-cli manifest approve prints")
	mei.do(chromedp.SetUploadFiles(`input[type="file"]`, []string{filepath.Join(mei.dir, "approval.json")}, chromedp.ByQuery))
	mei.press("Hand in the approval")
	mei.sees("Your approval is in.", "Everybody whom the manifest asks has approved.")

	// No host can run it yet; then one can.
	ingrid.open(computation)
	ingrid.press("Dry run")
	ingrid.sees("A run can’t go ahead yet.", "No host has sim.")
	ingrid.inspect("dry-run")
	ingrid.press("Start a run")
	ingrid.sees("Queued")
	ingrid.inspect("run-queued")
	run := ingrid.path()
	grace.open("/hosts/enrol")
	grace.fill("Name of the host", "rack2-sim1")
	grace.inspect("enrol")
	grace.press("Make the command")
	grace.inspect("enrol-command")
	h := enrol(t, grace.commands()[0])
	request, agent := h.accept()

	runs(t, s, h, request.GetRunId(), agent.port, ingrid, request.GetManifest())
	anders.open(computation)
	anders.sees("Send the dataset scans.csv", "cocos-cli data scans.csv --name scans.csv --agent 127.0.0.1:"+itoa(agent.port)+" --key anders.pem --manifest "+manifestFile+" --policy policy.json", "SIMULATED", "can’t vouch for it")
	anders.inspect("computation-running")
	// He has a policy of his own, and types what he is told: the dataset is there.
	anders.file("policy.json", agent.policy)
	anders.follow()
	agent.has("scans.csv")
	finish(h, request.GetRunId(), ingrid)

	// The receipt comes with the result, to Mei's machine.
	mei.file("receipt.json", makeReceipt(t, request.GetRunId(), request.GetManifest(), everybody))
	mei.open(run)
	mei.do(chromedp.Click(`//summary[contains(., "Hand in a receipt")]`, chromedp.BySearch),
		chromedp.SetUploadFiles(`#receipt-file`, []string{filepath.Join(mei.dir, "receipt.json")}, chromedp.ByQuery))
	mei.press("Hand it in")
	mei.sees("The receipt is handed in.", "It is about the manifest of this computation.", "The agent had 3 approvals, all that the manifest asks for.", "The TEE was SIMULATED by its host.", "cocos-cli receipt verify run-"+short+"-1.receipt.json")
	mei.inspect("run-receipt")
	mei.open(computation)
	mei.sees("What the receipt says", "Finished")
	mei.inspect("computation-finished")
	if got := mei.fetch(run + "/receipt.json"); got != mei.read("receipt.json") {
		t.Errorf("the receipt that is offered is another than the one that was handed in: %.200s", got)
	}
	if got := mei.fetch(computation + "/manifest.json"); got != string(request.GetManifest()) {
		t.Errorf("the manifest that is offered is another than the one that ran: %.200s", got)
	}
	// Only consumers have it.
	anders.open(run)
	if words := anders.words(); strings.Contains(words, "What the receipt says") {
		t.Error("Anders sees the receipt")
	}
	tour(t, grace, ingrid, anders, computation)
}

// workspaceOf is where the person is.
func workspaceOf(p *participant) string {
	p.person.t.Helper()
	var to string
	p.do(chromedp.AttributeValue(`.where a`, "href", &to, nil, chromedp.ByQuery))
	return strings.TrimPrefix(to, "/w/")
}

// fetch is what the browser downloads from an address of the console.
func (p *person) fetch(path string) string {
	p.t.Helper()
	var text string
	p.do(chromedp.Evaluate(`fetch("`+path+`").then(r => r.text())`, &text, awaited))
	return text
}

// runs has the VM come up while Ingrid watches, who doesn't touch anything.
func runs(t *testing.T, s *service, h *host, run string, port int, ingrid *participant, raw []byte) {
	const agent, shim = eventv1.Source_SOURCE_AGENT, eventv1.Source_SOURCE_SHIM
	f, err := manifest.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	watching := func(what, js string) {
		t.Helper()
		ingrid.do(chromedp.Poll(js, nil, chromedp.WithPollingTimeout(patience)))
		if p := ingrid.path(); p != "/r/"+run {
			t.Fatalf("%s: Ingrid is at %s", what, p)
		}
	}
	h.tells(run, eventv1.Source_SOURCE_MANAGER, vm.EventAccepted, "the run was accepted", "agent_port", itoa(port))
	h.tells(run, shim, vm.EventStarting, "the VM is being started", "tee", "sim", "simulated", "true")
	h.tells(run, shim, vm.EventBooting, "QEMU runs; waiting for the agent", "qemu_pid", "4711")
	watching("the VM boots", `document.querySelector('[data-step="boot"]').className === "done" && document.querySelector("#run-state").textContent.includes("Starting")`)
	h.tells(run, agent, vm.EventReady, "the agent is ready", "agent_key", "sha256:"+strings.Repeat("a9", 32), "manifest_digest", f.Digest.String(),
		"tee", "sim", "attested", "true", "simulated", "true", "instance", "sha256:"+strings.Repeat("1e", 32))
	for i := range 40 {
		h.logs(run, agent, eventv1.Level_LEVEL_INFO, "line %d of the agent", i+1)
	}
	h.logs(run, shim, eventv1.Level_LEVEL_WARN, "a call was refused: ROLE_NOT_GRANTED")
	watching("the agent is ready", `document.querySelector("#run-state").textContent.includes("Running") && [...document.querySelectorAll(".entry .msg")].some(m => m.textContent.startsWith("a call was refused"))`)
	h.tells(run, agent, vm.EventInput, "received the algorithm", "kind", "algorithm")
	watching("the algorithm arrives", `document.querySelector('[data-step="algorithm"]').className === "done"`)
	// In order, each once, though the page was never loaded anew.
	eachOnce := func(want int) {
		t.Helper()
		var lines []string
		ingrid.do(chromedp.Evaluate(`[...document.querySelectorAll(".entry .msg")].map(m => m.textContent).filter(m => m.startsWith("line "))`, &lines))
		if len(lines) != want {
			t.Errorf("the page has %d lines of the agent, want %d", len(lines), want)
		}
		for i, line := range lines {
			if !strings.HasPrefix(line, "line "+itoa(i+1)+" ") {
				t.Errorf("line %d is %q", i+1, line)
			}
		}
	}
	eachOnce(40)
	// A proxy that answers for the service while that is away ends a stream for good,
	// as browsers see it: the page asks for another.
	ingrid.cut = true
	way := throughProxy(t, s.url)
	ingrid.open(way.URL + "/r/" + run)
	watching("the page is live again", `document.querySelector("#live-text").textContent === "Live"`)
	way.cut(true)
	for i := range 20 {
		h.logs(run, agent, eventv1.Level_LEVEL_INFO, "line %d of the agent", 41+i)
	}
	watching("the way is cut", `document.querySelector("#live-text").textContent !== "Live"`)
	for end := time.Now().Add(patience); way.refused.Load() < 2; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the page doesn't come again")
		}
	}
	way.cut(false)
	h.logs(run, agent, eventv1.Level_LEVEL_INFO, "line 61 of the agent")
	watching("the way is open again", `document.querySelector("#live-text").textContent === "Live" && [...document.querySelectorAll(".entry .msg")].some(m => m.textContent.startsWith("line 61 "))`)
	eachOnce(61)
	var untimely []string
	ingrid.do(chromedp.Evaluate(`[...document.querySelectorAll(".entry time")].map(t => t.textContent).filter(t => !/^\d{1,2} \w+,? (at )?\d\d:\d\d:\d\d \S+$/.test(t))`, &untimely))
	if len(untimely) > 0 {
		t.Errorf("lines say %q, and not their day, hour and zone", untimely)
	}
	ingrid.open("/r/" + run)
	ingrid.cut = false
	ingrid.inspect("run-live")
	ingrid.open("/r/" + run + "?level=warn")
	ingrid.sees("a call was refused")
	if strings.Contains(ingrid.words(), "line 7 of the agent") {
		t.Error("the filter lets lines of another level through")
	}
	ingrid.inspect("run-filtered")
	ingrid.open("/r/" + run)
}

func itoa(n int) string { b, _ := json.Marshal(n); return string(b) }

// finish takes the run to its end.
func finish(h *host, run string, ingrid *participant) {
	const agent = eventv1.Source_SOURCE_AGENT
	h.tells(run, agent, vm.EventInput, "received the dataset scans.csv", "kind", "dataset", "name", "scans.csv")
	h.tells(run, agent, vm.EventState, "Running: all inputs are there", "from", "AwaitingInputs", "to", "Running")
	h.tells(run, agent, vm.EventState, "ResultReady: the algorithm ended", "from", "Running", "to", "ResultReady")
	h.tells(run, agent, vm.EventState, "Released: every consumer has the result", "from", "ResultReady", "to", "Released")
	h.tells(run, eventv1.Source_SOURCE_SHIM, vm.EventExited, "the VM has ended", "exit_status", "0")
	h.tells(run, eventv1.Source_SOURCE_MANAGER, vm.EventRemoved, "nothing of the VM is left")
	ingrid.do(chromedp.Poll(`document.querySelector("#run-state").textContent.includes("Finished") && document.querySelector("#live").hidden`, nil, chromedp.WithPollingTimeout(patience)))
	ingrid.open("/r/" + run)
	ingrid.inspect("run-finished")
}

// makeReceipt is what the agent in a simulated TEE would have made.
func makeReceipt(t *testing.T, run string, raw []byte, people []*participant) string {
	t.Helper()
	f, err := manifest.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	authority, err := sim.LoadOrCreate(filepath.Join(t.TempDir(), "sim"))
	if err != nil {
		t.Fatal(err)
	}
	instance, err := keys.Generate(keys.Ed25519)
	if err != nil {
		t.Fatal(err)
	}
	var approvals []manifest.Approval
	for _, p := range people {
		b, err := os.ReadFile(filepath.Join(p.dir, strings.TrimSuffix(p.email, "@example.org")+".pem"))
		if err != nil {
			t.Fatal(err)
		}
		k, err := keys.ParsePrivatePEM(b)
		if err != nil {
			t.Fatal(err)
		}
		a, err := f.Approve(k)
		if err != nil {
			t.Fatal(err)
		}
		approvals = append(approvals, a)
	}
	zero := 0
	made, err := receipt.Make(context.Background(), receipt.Request{
		Attester: authority.Attester([48]byte(bytes.Repeat([]byte{0xc0}, 48)), f.Digest), Instance: instance, Manifest: f, Approvals: approvals,
		Run: run, Outcome: receipt.Succeeded, ExitStatus: &zero, Result: &receipt.Result{SHA256: manifest.Sum([]byte("result")), Size: 4096},
		Started: time.Now().Add(-time.Minute), Finished: time.Now(),
	})
	if err != nil {
		t.Fatal(err)
	}
	return string(made)
}

// tour looks at the pages that the journey didn't come by.
func tour(t *testing.T, grace, ingrid, anders *participant, computation string) {
	ws := "/w/" + workspaceOf(ingrid)
	for name, path := range map[string]string{
		"dashboard": ws, "computations": ws + "/computations", "computations-none": ws + "/computations?text=zzz", "import": ws + "/computations/import",
		"assets": ws + "/assets", "asset-new": ws + "/assets/new", "audit": ws + "/audit", "workspace-settings": ws + "/settings", "settings": "/settings",
		"home": "/?all=1", "runs": computation + "/runs", "archive": computation + "/archive",
	} {
		ingrid.open(path)
		ingrid.inspect(name)
	}
	ingrid.open(ws + "/assets")
	ingrid.press("scans")
	ingrid.inspect("asset-of-another")
	ingrid.open(computation)
	ingrid.press("Copy")
	ingrid.sees("This is the copy.")
	ingrid.open(ingrid.path() + "/people")
	ingrid.inspect("people")
	// A label is that of the person beside whom it stands: who comes last is changed.
	last := fmt.Sprintf("(%s)[last()]", byLabel("Viewer"))
	var before, after string
	ingrid.do(chromedp.AttributeValue(last+`/ancestor::form`, "action", &before, nil, chromedp.BySearch), chromedp.Click(`(//label[starts-with(normalize-space(.), "Viewer")])[last()]`, chromedp.BySearch),
		chromedp.Evaluate(`[...document.querySelectorAll('input[value="viewer"]:checked')].map(e => e.form.getAttribute("action")).join()`, &after))
	if before != after {
		t.Errorf("the label of %s changes %s", before, after)
	}
	ingrid.open("/nothing-here")
	ingrid.inspect("not-found")
	ingrid.open("/settings")
	ingrid.fill("Name of a new token", "nightly")
	ingrid.press("Make a token")
	ingrid.sees("The token is made.", "Revoke the token nightly")
	ingrid.inspect("token")
	anders.open(ws + "/audit")
	anders.inspect("denied")
	for name, path := range map[string]string{"hosts": "/hosts", "users": "/users", "service-audit": "/audit", "service": "/service"} {
		grace.open(path)
		grace.inspect(name)
	}
	grace.open("/hosts")
	grace.press("rack2-sim1")
	grace.inspect("host")
	grace.press("Cordon")
	grace.sees("The host gets no new runs.", "Cordoned")
	grace.press("Revoke")
	grace.inspect("host-revoke")
	grace.open("/settings")
	grace.do(chromedp.Click(`form[action="/sign-out"] button`, chromedp.ByQuery), chromedp.WaitVisible(`input[type="password"]`, chromedp.ByQuery))
	grace.inspect("sign-in")
}
