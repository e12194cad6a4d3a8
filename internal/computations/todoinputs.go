package computations

import (
	"slices"
	"strings"

	"github.com/ultravioletrs/cocos/manifest"
)

// algorithmThere tells whether the program and every file beside it have arrived.
func (t *steps) algorithmThere(there map[string]bool) bool {
	return there["algorithm"] && !slices.ContainsFunc(t.v.Frozen.Algorithm.Files, func(f manifest.File) bool { return !there["file "+f.Name] })
}

// algorithm is how the program is brought with what is beside it. What is there
// already is not sent again.
func (t *steps) algorithm() (text string, words []string) {
	a := &t.v.Frozen.Algorithm
	words = t.bring("algo", t.file(t.v.Draft.Algorithm.Asset, "algorithm.py"), a.Content())
	text = "Send the algorithm, straight to the VM and not through this service. Its digest is compared before anything leaves."
	if len(a.Files) == 0 {
		return text, words
	}
	for _, f := range a.Files {
		words = append(words, "--file", f.Name+"="+f.Name)
		if f.Content().Committed() {
			words = append(words, "--file-salt", f.Name+"="+f.Name+".salt")
		}
	}
	return "Send the algorithm and the files beside it, straight to the VM and not through this service. Their digests are compared before anything leaves. " +
		"After each = stands where the file or folder lies on your machine: put in your own place.", words
}

// fetched is what the owner of a dataset that the agent fetches does in a run; no
// words: the owner's key broker does the rest. file is the dataset's on the owner's
// machine, most likely.
func (t *steps) fetched(d *manifest.Dataset, file string) (text string, words []string) {
	s := &d.Source
	text = "The VM fetches the dataset " + d.Name + " itself, from " + source(s) + ": there is nothing to upload. "
	if s.Broker != "" {
		return text + "It asks your key broker, " + s.Broker + ", for what it takes. Let the broker run until the dataset is there.", nil
	}
	words = []string{"data", "provide", "--name", d.Name}
	switch s.Encryption {
	case manifest.Age:
		words = append(words, "--age-identity", file+".key")
	case manifest.OCICrypt:
		words = append(words, "--private-key", file+".key")
	default:
		words = append(words, "--from-env")
	}
	if d.Content().Committed() {
		words = append(words, "--salt", file+".salt")
	}
	if s.Encryption == "" {
		return text + "Where its server asks who is there, hand your credentials over, to the VM alone: from the environment, as the command's help says.", words
	}
	return text + "Hand over the key, to the VM alone: it goes there after the same checks as an upload, and not through this service. Put in the file in which you keep it; if its server asks for credentials, too, the command's help says how they go along.", words
}

// source says in short where a dataset lies.
func source(s *manifest.Source) string {
	if s.Endpoint != "" {
		return s.URL + " at " + s.Endpoint
	}
	return s.URL
}

// brokered tells whether a broker releases the key of a dataset of the asker's. It
// appraises by the owner's policy, whether or not the computation has attested TLS.
func (t *steps) brokered() bool {
	return t.me != nil && slices.ContainsFunc(t.v.Draft.Datasets, func(slot DatasetSlot) bool {
		d, _ := t.v.Frozen.Dataset(slot.Name)
		return slot.Provider == t.me.User && d.Source.Broker != ""
	})
}

// brokers are for the asker's datasets whose keys a broker releases: it has to run
// before a VM asks it.
func (t *steps) brokers() {
	if t.me == nil {
		return
	}
	var told []string
	for _, slot := range t.v.Draft.Datasets {
		d, _ := t.v.Frozen.Dataset(slot.Name)
		if b := d.Source.Broker; slot.Provider == t.me.User && b != "" && !slices.Contains(told, b) {
			told = append(told, b)
			salt := ""
			if d.Content().Committed() {
				salt = " The dataset " + d.Name + " is named by a commitment: what the broker releases must be JSON with its salt, too."
			}
			t.add(ComputationShow, "Have your key broker run, at "+b+": a VM asks it for what it takes to read your data, and it answers by your own policy. "+
				"After each = stands a file with what the VM takes; put in your own: an age identity, a private key (PEM or JWK), or JSON, which has room for credentials and a salt, too, "+
				"as docs/data.md at https://github.com/ultravioletrs/cocos says. The command's help says how the broker gets its certificate."+salt, t.serveBroker(b))
		}
	}
}

// serveBroker runs a broker for all datasets of the asker's that name it.
func (t *steps) serveBroker(broker string) string {
	words := []string{"broker", "serve", "--url", broker, "--provider", strings.TrimSuffix(t.v.KeyFile, ".pem") + ".pub.pem",
		"--policy", PolicyFile, "--manifest", t.v.ManifestFile()}
	var has []string
	for _, slot := range t.v.Draft.Datasets {
		d, _ := t.v.Frozen.Dataset(slot.Name)
		if r := d.Source.Resource; slot.Provider == t.me.User && d.Source.Broker == broker && !slices.Contains(has, r) {
			has = append(has, r)
			words = append(words, "--resource", r+"="+t.file(slot.Asset, slot.Name)+".key")
		}
	}
	return CommandLine(words...)
}
