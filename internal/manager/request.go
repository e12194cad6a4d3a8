package manager

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"math"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/ultravioletrs/cocos/internal/vm"
	"github.com/ultravioletrs/cocos/keys"
	"github.com/ultravioletrs/cocos/manifest"
)

// Reason says why a request is refused; the list is fixed.
type Reason string

// The reasons.
const (
	Invalid       Reason = "INVALID"        // the request is wrong; the same one never passes
	Unsupported   Reason = "UNSUPPORTED"    // this version can't do what is asked
	NoCapacity    Reason = "NO_CAPACITY"    // not on this host, or not now
	NotFound      Reason = "NOT_FOUND"      // no such run
	AlreadyExists Reason = "ALREADY_EXISTS" // the run_id belongs to another manifest
	Internal      Reason = "INTERNAL"       // the host failed
)

// Fault is one thing wrong with a request.
type Fault struct {
	Reason Reason
	// Field is a path such as "manifest/datasets/0/sha256"; may be empty.
	Field   string
	Message string
	// Hint says what to do about it.
	Hint string
}

// FaultsError puts faults into one line.
func FaultsError(faults []Fault) string {
	lines := make([]string, len(faults))
	for i, f := range faults {
		lines[i] = strings.TrimSpace(f.Field + " " + f.Message)
	}
	return strings.Join(lines, "; ")
}

// RunRequest asks for one execution of a manifest; nothing in it is trusted.
type RunRequest struct {
	RunID     string
	Manifest  []byte
	Approvals []Approval
	Agent     AgentConfig
	// TTLSeconds is how long the VM may live; 0: as long as the host allows.
	TTLSeconds uint32
	// Traceparent is a W3C trace context; may be empty.
	Traceparent string
}

// Approval is a signature over the manifest digest, as it came.
type Approval struct {
	PublicKey []byte // DER SubjectPublicKeyInfo
	Signature []byte
}

// AgentConfig is what a request sets in the agent, as it came.
type AgentConfig struct {
	Port          uint32
	LogLevel      string
	ServerCert    []byte // PEM, as are the next two
	ServerKey     []byte
	ClientCACerts []byte
}

// Reply answers a RunRequest: with faults, or with the agent's host port.
type Reply struct {
	RunID  string
	Port   uint16
	Faults []Fault
	// repeated: the run was there already, and nothing was started.
	repeated bool
}

// verdict is a request that was found good.
type verdict struct {
	frozen    manifest.Frozen
	approvals []manifest.Approval
	agent     vm.AgentConfig
	// life is how long the VM may live, in seconds; 0: for ever.
	life int
	// trace is the request's trace context, or empty.
	trace string
}

// maxPEM bounds each PEM field, in bytes.
const maxPEM = 256 << 10

// judge finds every fault of a request, and touches nothing.
func judge(req RunRequest, host Host, now time.Time) (verdict, []Fault) {
	var (
		v verdict
		j judgement
	)
	if id, err := uuid.Parse(req.RunID); err != nil || id.String() != req.RunID || id == uuid.Nil {
		j.invalid("run_id", "use a random UUID in lower case, such as 0b9c7d3e-5a1f-4c2b-8e6d-7f0a1b2c3d4e",
			"%q is not a UUID in its canonical form", req.RunID)
	}
	frozen, err := manifest.Parse(req.Manifest)
	if err != nil {
		j.manifest("manifest", err)
	} else {
		v.frozen = frozen
		j.tee(&frozen, host)
		j.ownKey(&frozen, req.Agent)
		j.fits(&frozen, host)
		j.egress(&frozen, host)
	}
	v.approvals = j.approvals(req.Approvals, err == nil, &frozen)
	v.agent = j.agent(req.Agent, host, now)
	v.life = j.life(req.TTLSeconds, host.Limits)
	if traceparent.MatchString(req.Traceparent) && !noTrace.MatchString(req.Traceparent) {
		v.trace = req.Traceparent
	}
	return v, j.faults
}

// A trace context is https://www.w3.org/TR/trace-context/ section 3.2, version
// 00, with neither id of zeros. What is none is no fault: the run goes untraced.
var (
	traceparent = regexp.MustCompile(`^00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$`)
	noTrace     = regexp.MustCompile(`^00-(0{32}|[0-9a-f]{32}-0{16})-`)
)

type judgement struct{ faults []Fault }

func (j *judgement) add(reason Reason, field, hint, format string, args ...any) {
	j.faults = append(j.faults, Fault{Reason: reason, Field: field, Message: fmt.Sprintf(format, args...), Hint: hint})
}

func (j *judgement) invalid(field, hint, format string, args ...any) {
	j.add(Invalid, field, hint, format, args...)
}

// manifest turns the faults of package manifest into faults of the request.
func (j *judgement) manifest(root string, err error) {
	var faults manifest.Faults
	if !errors.As(err, &faults) {
		j.invalid(root, "freeze the manifest anew", "%v", err)
		return
	}
	for _, f := range faults {
		j.invalid(root+f.Path, "correct the manifest, freeze it and have it approved again", "%s", f.Message)
	}
}

// tee refuses what this host can't vouch for. It fails closed: a TEE that is not
// known here is refused as well. A manifest that asks for none runs in any VM.
func (j *judgement) tee(f *manifest.Frozen, host Host) {
	const other = "ask for a host with that TEE, or freeze the manifest with another"
	kind := host.kind()
	switch offers := kind.Attests(); {
	case f.TEE == manifest.TEENone && f.AttestedTLS: // Validate refuses it, too
		j.add(Unsupported, "manifest/attested_tls", other, "is true, and nothing could vouch for the VM")
	case f.TEE == manifest.TEENone, f.TEE == offers:
	case f.TEE == manifest.TEESGX:
		j.add(Unsupported, "manifest/tee", "run the agent under Gramine for this manifest, or freeze it with another TEE",
			"is %q: a Manager starts virtual machines, for which no enclave can vouch", f.TEE)
	case kind == "":
		j.add(Unsupported, "manifest/tee", other, "is %q: the VMs of this host are plain", f.TEE)
	case offers == manifest.TEENone:
		j.add(Unsupported, "manifest/tee", other, "is %q: the VMs of this host have %s, which vouches for none and counts as plain", f.TEE, kind)
	default:
		j.add(Unsupported, "manifest/tee", other, "is %q: the VMs of this host have %s", f.TEE, kind)
	}
	if h := host.HostData; h != nil && !bytes.Equal(h, f.Digest[:]) {
		j.add(Unsupported, "manifest", "ask for that manifest, or for another host; the host's operator can unset MANAGER_QEMU_HOST_DATA",
			"has the digest %s; this host starts VMs for the manifest %x alone (MANAGER_QEMU_HOST_DATA)", f.Digest, h)
	}
}

// ownKey refuses the creator's TLS material for a run with attested TLS, where
// the VM's own key alone counts: it could only be mistaken for protection.
func (j *judgement) ownKey(f *manifest.Frozen, in AgentConfig) {
	if !f.AttestedTLS {
		return
	}
	for _, v := range []struct {
		field string
		value []byte
	}{{"server_cert", in.ServerCert}, {"server_key", in.ServerKey}, {"client_ca_certs", in.ClientCACerts}} {
		if len(v.value) > 0 {
			j.invalid("agent_config/"+v.field, "leave it out: with attested TLS the key is made in the VM, and every call is signed by a key of the manifest",
				"is set, but the manifest asks for attested TLS")
		}
	}
}

// life is how long the VM may live, in seconds.
func (j *judgement) life(asked uint32, l Limits) int {
	most := int64(l.MaxLife / time.Second)
	if l.MaxLife > 0 {
		most = max(1, most) // 0 would be for ever
	}
	switch {
	case l.MaxLife > 0 && int64(asked) > most:
		j.add(NoCapacity, "ttl_seconds", "ask for less, or for 0: as long as the host allows; the host's operator can raise MANAGER_MAX_TTL",
			"is %d; a VM of this host may live for %d seconds (MANAGER_MAX_TTL)", asked, most)
	case asked == 0:
		return int(most)
	}
	return int(asked)
}

func (j *judgement) approvals(in []Approval, haveManifest bool, frozen *manifest.Frozen) []manifest.Approval {
	out := make([]manifest.Approval, 0, len(in))
	for i, a := range in {
		k, err := keys.ParsePublic(a.PublicKey)
		if err != nil {
			j.invalid(fmt.Sprintf("approvals/%d/public_key", i), "send the DER SubjectPublicKeyInfo that the manifest names", "%v", err)
			continue
		}
		out = append(out, manifest.Approval{PublicKey: k, Signature: a.Signature})
	}
	if !haveManifest || len(out) != len(in) {
		return nil // what is missing can't be told yet
	}
	var faults manifest.Faults
	if err := frozen.CheckApprovals(out); errors.As(err, &faults) {
		for _, f := range faults {
			j.invalid(strings.TrimPrefix(f.Path, "/"), "send one signature over the manifest digest by each key in the manifest's approvals", "%s", f.Message)
		}
	} else if err != nil {
		j.invalid("approvals", "send one signature for each key in the manifest's approvals", "%v", err)
	}
	return out
}

// LogLevels are those of an agent.
func LogLevels() []string { return []string{"debug", "info", "warn", "error"} }

func (j *judgement) agent(in AgentConfig, host Host, now time.Time) vm.AgentConfig {
	out := vm.AgentConfig{
		Port: host.GuestPort, LogLevel: "info",
		ServerCert: in.ServerCert, ServerKey: in.ServerKey, ClientCACerts: in.ClientCACerts,
		Address: host.GuestAddress, Gateway: host.GuestGateway,
	}
	switch {
	case in.Port > math.MaxUint16:
		j.invalid("agent_config/port", "use a TCP port, or 0 for the usual one", "is %d; expected 0 to 65535", in.Port)
	case in.Port != 0:
		out.Port = uint16(in.Port)
	}
	switch {
	case in.LogLevel == "":
	case slices.Contains(LogLevels(), in.LogLevel):
		out.LogLevel = in.LogLevel
	default:
		j.invalid("agent_config/log_level", "use one of the levels, or leave it empty", "is %q; expected one of %q", in.LogLevel, LogLevels())
	}
	j.serverCert(in, now)
	j.clientCAs(in.ClientCACerts)
	return out
}

func (j *judgement) serverCert(in AgentConfig, now time.Time) {
	const certField, keyField = "agent_config/server_cert", "agent_config/server_key"
	const hint = "send a PEM certificate with its PEM private key, or neither: the agent then makes its own"
	if !j.bounded(certField, in.ServerCert) || !j.bounded(keyField, in.ServerKey) {
		return
	}
	switch {
	case len(in.ServerCert) == 0 && len(in.ServerKey) == 0:
		return
	case len(in.ServerCert) == 0:
		j.invalid(certField, hint, "is missing, but server_key is there")
		return
	case len(in.ServerKey) == 0:
		j.invalid(keyField, hint, "is missing, but server_cert is there")
		return
	}
	certs, err := parseCertificates(in.ServerCert)
	if err != nil {
		j.invalid(certField, hint, "%v", err)
		return
	}
	if _, err := tls.X509KeyPair(in.ServerCert, in.ServerKey); err != nil {
		j.invalid(keyField, hint, "does not go with server_cert: %v", err)
	}
	if leaf := certs[0]; now.After(leaf.NotAfter) {
		j.invalid(certField, "renew the certificate", "expired on %s", leaf.NotAfter.UTC().Format(time.RFC3339))
	} else if now.Before(leaf.NotBefore) {
		j.invalid(certField, "check the clock of this host", "is valid only from %s on", leaf.NotBefore.UTC().Format(time.RFC3339))
	}
}

func (j *judgement) clientCAs(in []byte) {
	const field = "agent_config/client_ca_certs"
	if len(in) == 0 || !j.bounded(field, in) {
		return
	}
	certs, err := parseCertificates(in)
	if err != nil {
		j.invalid(field, "send PEM certificates of the authorities that sign clients", "%v", err)
		return
	}
	for i, c := range certs {
		if !c.IsCA {
			j.invalid(field, "send the certificate of the authority, not of a client", "certificate %d (%s) is not of an authority", i+1, c.Subject)
		}
	}
}

func (j *judgement) bounded(field string, b []byte) bool {
	if len(b) > maxPEM {
		j.invalid(field, "send only the certificates that are needed", "has %d bytes; at most %d are allowed", len(b), maxPEM)
		return false
	}
	return true
}

// parseCertificates takes one or more CERTIFICATE blocks and nothing else.
func parseCertificates(b []byte) ([]*x509.Certificate, error) {
	var certs []*x509.Certificate
	for rest := b; len(strings.TrimSpace(string(rest))) > 0; {
		var block *pem.Block
		block, rest = pem.Decode(rest)
		if block == nil {
			return nil, errors.New("is not PEM")
		}
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("has a PEM block %q; expected only CERTIFICATE", block.Type)
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("certificate %d can't be read: %w", len(certs)+1, err)
		}
		certs = append(certs, c)
	}
	if len(certs) == 0 {
		return nil, errors.New("has no certificate")
	}
	return certs, nil
}

func digestOf(raw []byte) manifest.Digest { return manifest.Sum(raw) }
