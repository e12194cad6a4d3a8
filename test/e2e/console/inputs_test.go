package console

import (
	"strings"
	"testing"

	"github.com/chromedp/chromedp"
)

// TestInputs: who has no command line registers a script with files and packages, and
// a dataset that the VM fetches, and sees both on the page where they are approved.
func TestInputs(t *testing.T) {
	s := startService(t)
	p := newBrowsers(t, s.url).participant("Grace", "grace@example.org")
	p.open(s.link)
	p.fill("Email address", p.email, "Your name", "Grace Okafor", "Password", password, "Password, once more", password)
	p.press("Begin")
	p.open("/workspaces/new")
	p.fill("Name", "Nordfjord Tumour Registry")
	p.press("Make the workspace")
	ws := p.path()
	p.open("/keys")
	p.follow()
	unfold := func(summary string) {
		t.Helper()
		p.do(chromedp.Click(`//summary[starts-with(normalize-space(.), "`+summary+`")]`, chromedp.BySearch))
	}
	p.open(ws + "/assets/new?kind=algorithm")
	p.fill("Name", "train.py", "SHA-256", strings.Repeat("a1", 32), "Size in bytes", "2210")
	unfold("Files and Python packages")
	p.put("Files and folders", `{"path":"requirements.txt","kind":"file","sha256":"`+strings.Repeat("b2", 32)+`","size":48}
{"path":"wheels","kind":"archive","sha256":"`+strings.Repeat("c3", 31)+`","size":41943040}`)
	p.fill("Name of the requirements.txt", "requirements.txt", "Name of the folder of wheels", "wheels")
	p.press("Register")
	p.sees("One thing has to be mended", "can't be read: file 2, sha256 has 62 characters")
	p.inspect("asset-new-files-faults")
	p.put("Files and folders", `{"path":"requirements.txt","kind":"file","sha256":"`+strings.Repeat("b2", 32)+`","size":48}
{"path":"wheels","kind":"archive","sha256":"`+strings.Repeat("c3", 32)+`","size":41943040}`)
	p.press("Register")
	p.sees("The asset is registered.", "Folder wheels", "installed from wheels without a network")
	p.inspect("asset-files")

	p.open(ws + "/assets/new?kind=dataset")
	p.fill("Name", "slides", "SHA-256", strings.Repeat("d4", 32), "Size in bytes", "858993459200", "Unpacked, at most", "900 GB")
	unfold("The VM fetches the dataset itself")
	p.fill("Address", "s3://tumour-registry/slides.age", "Server of an s3:// address", "https://s3.hospital.example", "Its region", "eu-north-1",
		"Your key broker", "http://keys.hospital.example", "What the broker has", "default/key/slides")
	p.tick("age")
	p.put("Other servers that these may send the VM to", "cdn.hospital.example:443")
	p.press("Register")
	p.sees("Your key broker is \"http://keys.hospital.example\"; expected a URL that begins with")
	p.inspect("asset-new-source-faults")
	p.fill("Your key broker", "https://keys.hospital.example")
	p.press("Register")
	p.sees("The asset is registered.", "Encrypted with age", "keys.hospital.example:443")
	p.inspect("asset-source")

	p.open(ws + "/computations/new")
	p.fill("Name", "Tumours on slides", "File name", "slides")
	p.tick("Simulated TEE")
	p.choose("Who brings it", "Grace Okafor")
	p.do(chromedp.Click(`//fieldset[starts-with(normalize-space(legend), "Who gets the result")]//label[1]`, chromedp.BySearch))
	// The first dataset's provider: the second control of that name.
	p.do(chromedp.Evaluate(`(s => { s.value = [...s.options].find(o => o.text.includes("Grace")).value; return true })(document.querySelector('select[name="datasets/0/provider"]'))`, nil))
	unfold("Where and how long it runs")
	p.inspect("draft-disk")
	p.press("Save the draft")
	p.choose("The algorithm", "train.py")
	p.press("Bring this")
	p.choose("The dataset slides", "slides")
	p.press("Bring this as the dataset slides")
	p.sees("Nothing is missing.", "The agent connects to these servers", "s3.hospital.example:443", "that the VM encrypts")
	p.inspect("computation-inputs")
	p.press("Freeze the manifest")
	p.sees("The agent will connect to cdn.hospital.example:443", "Inputs lie on a disk of")
	p.inspect("freeze-inputs")
	p.press("Freeze the manifest")
	p.inspect("computation-inputs-frozen")
	p.press("hand the approval in here")
	p.sees("The agent connects to these servers", "keys.hospital.example:443", "Folder wheels")
	p.inspect("approve-inputs")
}
