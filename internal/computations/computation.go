package computations

import (
	"time"

	"github.com/go-json-experiment/json"

	"github.com/ultravioletrs/cocos/keys"
	"github.com/ultravioletrs/cocos/manifest"
)

// Computation is one description of what is to be computed, from its draft on.
type Computation struct {
	ID        ID
	Workspace ID
	Creator   ID
	Created   time.Time
	// Draft can be changed until it is frozen.
	Draft Draft
	// Revision counts the draft's changes: a change is made to the one last seen.
	Revision int64
	// Manifest is the frozen manifest; nil for a draft. Digest is its SHA-256.
	Manifest []byte
	Digest   manifest.Digest
	Frozen   time.Time
	// CopiedFrom is the computation whose draft this one began with; may be empty.
	CopiedFrom ID
	// Archived is zero for one that lists show.
	Archived time.Time
	// LastRun is the newest run's state, for lists; empty: none.
	LastRun RunState
}

// Stage is how far a computation has come.
type Stage string

// The stages before its first run; afterwards the newest run's state tells.
const (
	StageDraft     Stage = "draft"
	StageApprovals Stage = "approvals" // frozen, and approvals are missing
	StageReady     Stage = "ready"     // may be run
)

// Draft is a manifest in the making. Its members name users, keys and assets of
// the service; freezing replaces them by public keys, digests and sizes.
type Draft struct {
	Name        string        `json:"name"`
	Description string        `json:"description,omitzero"`
	TEE         manifest.TEE  `json:"tee"`
	AttestedTLS bool          `json:"attested_tls"`
	Algorithm   AlgorithmSlot `json:"algorithm"`
	Datasets    []DatasetSlot `json:"datasets,omitzero"`
	Consumers   []ID          `json:"consumers,omitzero"`
	// Outputs have no Release: Release below has it, by users.
	Outputs manifest.Outputs `json:"outputs,omitzero"`
	// Release says who gets what; empty: each consumer gets everything.
	Release []ReleaseSlot `json:"release,omitzero"`
	// Scratch says whether a run has a disk for its inputs; ScratchBytes is its size,
	// if somebody chose one: a multiple of 1 MiB. Then Scratch is empty.
	Scratch      Scratch `json:"scratch,omitzero"`
	ScratchBytes int64   `json:"scratch_bytes,omitzero"`
	// Approvers are those who must approve; empty: every party, where the
	// computation is attested, and else nobody.
	Approvers []ID `json:"approvers,omitzero"`
	// Keys are the parties' choices among their keys.
	Keys map[ID]ID `json:"keys,omitzero"`
	// Image is the digest of the guest image that a host must have, as hosts
	// report it; empty: any.
	Image string `json:"image,omitzero"`
	// TTL is how long a run's VM may live; zero: as long as its host allows.
	TTL time.Duration `json:"-"`
}

// ReleaseSlot is a manifest's Release of one user.
type ReleaseSlot struct {
	Consumer ID       `json:"consumer"`
	Files    []string `json:"files,omitzero"`
	Output   bool     `json:"output,omitzero"`
}

// draftFields are a Draft's members but TTL; draftJSON is all of it in JSON, where
// a duration is as Go writes it, such as "2h30m0s".
type (
	draftFields Draft
	draftJSON   struct {
		draftFields
		TTL string `json:"ttl,omitzero"`
	}
)

// MarshalJSON implements json.Marshaler.
func (d Draft) MarshalJSON() ([]byte, error) {
	j := draftJSON{draftFields: draftFields(d)}
	if d.TTL != 0 {
		j.TTL = d.TTL.String()
	}
	return json.Marshal(j, json.Deterministic(true))
}

// UnmarshalJSON implements json.Unmarshaler.
func (d *Draft) UnmarshalJSON(b []byte) error {
	var j draftJSON
	if err := json.Unmarshal(b, &j, json.RejectUnknownMembers(true)); err != nil {
		return err
	}
	if j.TTL != "" {
		ttl, err := time.ParseDuration(j.TTL)
		if err != nil {
			return err
		}
		j.draftFields.TTL = ttl
	}
	*d = Draft(j.draftFields)
	return nil
}

// AlgorithmSlot is the place of the algorithm.
type AlgorithmSlot struct {
	Provider ID `json:"provider,omitzero"`
	// Asset is empty until the provider names one.
	Asset  ID                `json:"asset,omitzero"`
	Args   []string          `json:"args,omitzero"`
	Env    map[string]string `json:"env,omitzero"`
	Limits manifest.Limits   `json:"limits,omitzero"`
}

// DatasetSlot is the place of a dataset.
type DatasetSlot struct {
	// Name is the entry in the algorithm's datasets folder.
	Name     string `json:"name"`
	Provider ID     `json:"provider,omitzero"`
	Asset    ID     `json:"asset,omitzero"`
}

// Approval is a party's signature on a frozen manifest.
type Approval struct {
	Computation ID
	User        ID
	manifest.Approval
	At time.Time
}

// Party is what a person brings to a computation, for pages and lists.
type Party struct {
	User        ID
	Email, Name string
	Parts       []Part
	// Key is the chosen one; nil: none yet.
	Key *keys.Public
	// MustApprove and Approved tell of the frozen manifest.
	MustApprove bool
	Approved    time.Time
}

// RunState is where a run is.
type RunState string

// The states of a run. Queued: no host has it. Offered: a host was asked, and
// stays the only one until it has answered. Starting: it accepted. Running: the
// agent takes inputs, computes or holds the result.
const (
	RunQueued   RunState = "queued"
	RunOffered  RunState = "offered"
	RunStarting RunState = "starting"
	RunRunning  RunState = "running"
	RunFinished RunState = "finished"
	RunFailed   RunState = "failed"
	RunStopped  RunState = "stopped"
)

// Ended tells whether nothing more happens in this state.
func (s RunState) Ended() bool { return s == RunFinished || s == RunFailed || s == RunStopped }

// Run is one execution of a frozen manifest.
type Run struct {
	ID          ID
	Computation ID
	Workspace   ID
	// Number counts a computation's runs from 1.
	Number int64
	State  RunState
	// Reason tells people why it is in this state, such as why it waits.
	Reason string
	By     ID
	// Host has it, from Offered on; empty: none.
	Host ID
	// AgentAddress is host:port where participants reach the agent; AgentKey the
	// digest of its TLS key. Both as the host tells, and checked by the client.
	AgentAddress string
	AgentKey     string
	// AgentState is the agent's own, such as "AwaitingInputs"; empty: not told yet.
	AgentState string
	// Simulated: the host says that the TEE is the simulated one.
	Simulated bool
	// StopAsked is when somebody asked for its end; zero: nobody.
	StopAsked time.Time
	TTL       time.Duration
	// Refused are the hosts that refused it, which are not asked again.
	Refused []ID
	// Trace is the W3C traceparent of the request; may be empty.
	Trace   string
	Created time.Time
	Started time.Time
	Ended   time.Time
}

// EntryType says whether an entry is an event or a log line.
type EntryType string

// The types of entry.
const (
	EntryEvent EntryType = "event"
	EntryLog   EntryType = "log"
)

// Entry is what a run told: an event, or a line of its log.
type Entry struct {
	Run ID
	// Position counts a run's entries from 1 in the order of their commit; no
	// entry appears later at a position below one that was seen.
	Position int64
	Type     EntryType
	// Source is "agent", "shim", "manager", or "service" for the service's own.
	Source string
	// Sequence is an event's number from its source; zero for a log line.
	Sequence int64
	// Time is the source's clock.
	Time time.Time
	// Level of a log line: "debug", "info", "warn", "error"; "info" for events.
	Level string
	// Kind of an event, such as "agent.ready".
	Kind       string
	Message    string
	Attributes map[string]string
	// Dropped counts the log lines lost just before this one.
	Dropped   int64
	Committed time.Time
	// Told is how much the run has told with this entry, in bytes; Append alone says it.
	Told int64
}

// Bytes is how much an entry tells.
func (e *Entry) Bytes() int64 {
	n := len(e.Source) + len(e.Kind) + len(e.Message)
	for k, v := range e.Attributes {
		n += len(k) + len(v)
	}
	return int64(n)
}

// entrySize is what an entry takes beside its texts, in bytes, about.
const entrySize = 256

// Size is what the entry takes in memory, in bytes, about.
func (e *Entry) Size() int {
	n := entrySize + len(e.Message)
	for name, value := range e.Attributes {
		n += len(name) + len(value)
	}
	return n
}

// Receipt is what a consumer handed in: only consumers of the computation see it.
type Receipt struct {
	Run ID
	// Raw is the receipt as receipt.Parse reads it.
	Raw []byte
	By  ID
	At  time.Time
	// Simulated and Succeeded are what it says.
	Simulated bool
	Succeeded bool
}
