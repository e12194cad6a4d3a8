package computations

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/ultravioletrs/cocos/internal/vm"
	"github.com/ultravioletrs/cocos/manifest"
)

// take is what parties do with a run that hasn't ended.
func (t *steps) take(r Reader, run *Run) error {
	var send []Todo
	if flags, reachable := run.AgentFlags(t.v.Frozen.AttestedTLS); reachable && run.State == RunRunning {
		flags = append(flags, "--key", t.v.KeyFile, "--manifest", t.v.ManifestFile())
		if t.v.Frozen.AttestedTLS {
			flags = append(flags, "--policy", PolicyFile)
		}
		there, err := arrivals(r, run.ID)
		if err != nil {
			return err
		}
		send = t.exchange(run, flags, there)
	}
	if len(send) == 0 {
		t.add(RunShow, fmt.Sprintf("Run %d is %s%s, and needs nothing of you now. Watch it here, or in a terminal.", run.Number, run.State, because(run.Reason)),
			CommandLine("computations", "watch", string(t.v.ID)))
		return t.refused(r, run)
	}
	if !t.me.MustApprove {
		t.fetchManifest(RunShow)
	}
	serves := slices.ContainsFunc(send, func(o Todo) bool { return strings.HasPrefix(o.Command, CommandLine("broker", "serve")) })
	if t.v.Frozen.AttestedTLS || serves {
		t.policy()
	}
	if !t.v.Frozen.AttestedTLS {
		t.add(RunShow, "This computation is not attested: nothing but the host's word says who answers, and the host can read all of it.", "")
	}
	if run.Simulated {
		t.add(RunShow, "SIMULATED: the host says that its TEE is the simulated one, which protects nothing. Only your own policy can accept that.", "")
	}
	t.all = append(t.all, send...)
	return nil
}

// arrivals are what the agent said that arrived: "algorithm", "file NAME" beside it,
// "dataset NAME", and "result FINGERPRINT" at the consumer with this key.
func arrivals(r Reader, run ID) (map[string]bool, error) {
	there := map[string]bool{}
	for _, kind := range []string{vm.EventInput, vm.EventReleased} {
		said, err := r.Entries(run, EntryFilter{Types: []EntryType{EntryEvent}, Sources: []string{"agent"}, Kind: kind})
		if err != nil {
			return nil, err
		}
		for _, e := range said {
			switch {
			case kind == vm.EventReleased:
				there["result "+e.Attributes["consumer"]] = true
			case e.Attributes["kind"] == "algorithm":
				there["algorithm"] = true
			case e.Attributes["kind"] == "file":
				there["file "+e.Attributes["name"]] = true
			default:
				there["dataset "+e.Attributes["name"]] = true
			}
		}
	}
	return there, nil
}

// policy is for those who will talk to an agent that shows evidence.
func (t *steps) policy() {
	t.add(RunShow, "Have your own policy at hand, as "+PolicyFile+": which TEE and which software you accept. If you have none, make it from an image that you chose to trust: "+
		"cocos-cli policy init --tee "+string(t.v.Frozen.TEE)+" --image FOLDER > "+PolicyFile+". The command asks by name for what else it has to know, such as how many CPUs the VM has; "+
		"take none of that from this page. Look at what the policy accepts.", CommandLine("policy", "check", PolicyFile))
}

// exchange is what the asker sends to the agent or gets from it, but for what is
// there already.
func (t *steps) exchange(run *Run, flags []string, there map[string]bool) []Todo {
	if t.me == nil {
		return nil
	}
	var all []Todo
	add := func(text string, words []string) {
		all = append(all, Todo{Action: RunShow, Text: text, Command: CommandLine(append(words, flags...)...)})
	}
	d := &t.v.Draft
	if run.AgentState == "" || run.AgentState == "AwaitingInputs" {
		if d.Algorithm.Provider == t.me.User && !t.algorithmThere(there) {
			add(t.algorithm())
		}
		for _, slot := range d.Datasets {
			switch frozen, _ := t.v.Frozen.Dataset(slot.Name); {
			case slot.Provider != t.me.User || there["dataset "+slot.Name]:
			case !frozen.Source.IsZero():
				text, words := t.fetched(&frozen, t.file(slot.Asset, slot.Name))
				if words != nil {
					add(text, words)
					continue
				}
				serve := t.serveBroker(frozen.Source.Broker) // of all datasets that name it
				if slices.ContainsFunc(all, func(o Todo) bool { return o.Command == serve }) {
					serve = ""
				}
				all = append(all, Todo{Action: RunShow, Text: text, Command: serve})
			default:
				add("Send the dataset "+slot.Name+", straight to the VM and not through this service. Its digest is compared before anything leaves.",
					append(t.bring("data", t.file(slot.Asset, slot.Name), frozen.Content()), "--name", slot.Name))
			}
		}
	}
	if slices.Contains(d.Consumers, t.me.User) && (t.me.Key == nil || !there["result "+t.me.Key.Fingerprint()]) {
		out := run.ResultFolder()
		add("Fetch the result when there is one. It is verified before it is unpacked, into the folder "+out+".",
			[]string{"result", "--wait", "--out", out})
	}
	return all
}

// bring is the command that brings a file, with its salt where the manifest has a
// commitment.
func (t *steps) bring(command, file string, c manifest.Content) []string {
	words := []string{command, file}
	if c.Committed() {
		words = append(words, "--salt", file+".salt")
	}
	return words
}

func because(reason string) string {
	if reason == "" {
		return ""
	}
	return " (" + reason + ")"
}

// AgentFlags are those by which a command finds a run's agent; attested: its
// evidence says who it is, else the key that the host told does. The values come
// from the host: where they are no address and no key there are no flags.
func (r *Run) AgentFlags(attested bool) (flags []string, ok bool) {
	if !IsAgentAddress(r.AgentAddress) {
		return nil, false
	}
	flags = []string{"--agent", r.AgentAddress}
	if attested {
		return flags, true
	}
	if !IsAgentKey(r.AgentKey) {
		return nil, false
	}
	return append(flags, "--agent-key", r.AgentKey), true
}

// plainWord needs no quotes in a shell.
var plainWord = regexp.MustCompile(`^[A-Za-z0-9_./:@%+=,-]+$`)

// CommandLine is a line for a shell that starts cocos-cli: each word is taken as
// it is, whoever chose it.
func CommandLine(words ...string) string {
	line := "cocos-cli"
	for _, w := range words {
		if !plainWord.MatchString(w) {
			w = "'" + strings.ReplaceAll(w, "'", `'\''`) + "'"
		}
		line += " " + w
	}
	return line
}
