package vm

import "fmt"

// Refusal is why an agent ends its VM instead of serving: the attribute reason
// of agent.refused where participants appraise the VM. The host learns no more
// than the word and Text, which depend on nothing secret.
type Refusal string

// The refusals.
const (
	RefusedTEE           Refusal = "tee"
	RefusedReport        Refusal = "report"
	RefusedManifest      Refusal = "manifest"
	RefusedGuest         Refusal = "guest"
	RefusedApprovals     Refusal = "approvals"
	RefusedConfiguration Refusal = "configuration"
	RefusedNetwork       Refusal = "network"
	RefusedRoom          Refusal = "room"
	RefusedScratch       Refusal = "scratch"
	RefusedSession       Refusal = "session"
	RefusedInternal      Refusal = "internal"
)

var refusals = map[Refusal]string{
	RefusedTEE:           "the manifest asks for another TEE than this VM has",
	RefusedReport:        "the VM's TEE gives no report",
	RefusedManifest:      "the VM was launched for another manifest",
	RefusedGuest:         "the kernel command line is not that of an attested guest",
	RefusedApprovals:     "an approval is missing, wrong, doubled or not asked for",
	RefusedConfiguration: "the run request sets what attested mode does not take: a server certificate, its key or client CAs",
	RefusedNetwork:       "the network can't be configured as the host says",
	RefusedRoom:          "the VM has too little memory for the manifest's inputs, or too small a scratch disk",
	RefusedScratch:       "the VM's disks are not those that the manifest asks for",
	RefusedSession:       "the host broke the session's protocol",
	RefusedInternal:      "the agent failed",
}

// Refusals lists them in the order in which texts show them.
func Refusals() []Refusal {
	return []Refusal{
		RefusedTEE, RefusedReport, RefusedManifest, RefusedGuest, RefusedApprovals,
		RefusedConfiguration, RefusedNetwork, RefusedRoom, RefusedScratch, RefusedSession, RefusedInternal,
	}
}

// Text says it to people; empty for a word that is none.
func (r Refusal) Text() string { return refusals[r] }

// Refused is an error that ends a VM with a Refusal. Its text is for those who
// may read more than Why.
type Refused struct {
	Why Refusal
	err error
}

// Refuse makes a *Refused, as fmt.Errorf does.
func Refuse(why Refusal, format string, args ...any) error {
	return &Refused{why, fmt.Errorf(format, args...)}
}

func (r *Refused) Error() string { return "refused: " + r.err.Error() }

func (r *Refused) Unwrap() error { return r.err }
