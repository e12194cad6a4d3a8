package computations

import (
	"time"

	"github.com/ultravioletrs/cocos/manifest"
)

// Host is a machine whose Manager has enrolled.
type Host struct {
	ID   ID
	Name string
	// Serial is that of the newest client certificate, in hexadecimal; a Manager
	// shows it, or the one before until the new one was seen.
	Serial, PreviousSerial string
	CertificateExpires     time.Time
	Enrolled               time.Time
	// Revoked is zero for a host that may connect.
	Revoked time.Time
	// Cordoned: it gets no new runs. Draining: also, and its runs are being
	// waited for.
	Cordoned, Draining bool
	// Report is what its Manager said last.
	Report HostReport
	// Contact is when it was last heard of; Connected whether its stream is open.
	Contact   time.Time
	Connected bool
	// Process is the service process that holds the stream.
	Process string
	// Address is where it was connected from.
	Address string
	// Active counts runs that it was given and that haven't ended.
	Active int
}

// HostReport is what a Manager says of its host. Nothing in it is checked: it
// decides where a run is tried, never what a participant trusts.
type HostReport struct {
	Instance string         `json:"instance,omitzero"`
	Version  string         `json:"version,omitzero"`
	EOS      string         `json:"eos,omitzero"`
	TEEs     []manifest.TEE `json:"tees,omitzero"`
	// Capacity is how many VMs it runs at most; zero: it doesn't say, and is taken
	// as without bound.
	Capacity int `json:"capacity,omitzero"`
	// Running counts all VMs there, of others, too.
	Running int `json:"running,omitzero"`
	// Closed: it takes no runs at present, for it shuts down, or has just said that
	// it has no room.
	Closed bool `json:"closed,omitzero"`
	// Refusals is this service's own count: how often it said that it has no room,
	// though it had told of some, since it last accepted a run.
	Refusals int `json:"refusals,omitzero"`
	// MemoryFree and MemoryTotal in bytes; Load is its one-minute average.
	MemoryFree  int64     `json:"memory_free,omitzero"`
	MemoryTotal int64     `json:"memory_total,omitzero"`
	CPUs        int       `json:"cpus,omitzero"`
	Load        float64   `json:"load,omitzero"`
	Images      []Image   `json:"images,omitzero"`
	Findings    []Finding `json:"findings,omitzero"`
}

// Image is a guest image that a host has.
type Image struct {
	// Digest names it: SHA-256 in hexadecimal of its description.
	Digest string `json:"digest"`
	// Measurements by register, such as "snp" or "mrtd", in hexadecimal.
	Measurements map[string]string `json:"measurements,omitzero"`
}

// Finding is one thing that `cocos-manager check` looked at.
type Finding struct {
	Name    string `json:"name"`
	Verdict string `json:"verdict"`
	Found   string `json:"found"`
	Needed  string `json:"needed,omitzero"`
	Mend    string `json:"mend,omitzero"`
}

// EnrolToken lets one host in, once.
type EnrolToken struct {
	ID ID
	// Name is what the host will be called.
	Name    string
	Hash    [32]byte
	By      ID
	Created time.Time
	Expires time.Time
	// Host is who used it; empty: nobody yet.
	Host ID
}
