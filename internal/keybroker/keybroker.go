// Package keybroker releases keys to attested VMs: both ends of the Key Broker
// Service protocol of Confidential Containers (KBS, version 0.4.0), for evidence of
// this project's form. A data owner runs the Server; the agent is the client.
//
// In the protocol the client asks for a challenge, answers it with evidence that
// binds the challenge's nonce and a key of its own, and then gets resources,
// encrypted to that key. The evidence is that of attested TLS, with a leaf for the
// request (atls.BrokerEvidence), so that one report serves everybody who waits.
//
// Invariants:
//   - Nothing is released but to a VM whose evidence the owner's policy accepts,
//     which enforces a manifest that the owner approved, in the TEE that it asks
//     for, and which is the one instance of it; and then only what datasets of the
//     owner in this manifest name. A broker that is told nothing releases nothing.
//   - Evidence binds the broker's address, its nonce and the key to which it
//     encrypts: it is good for one session, at one broker.
//   - A stranger takes no memory beyond its call. Bodies, sessions, their times and
//     the evidence that is appraised at once are bounded.
//   - Each release and each refusal is told to Record. A refusal tells the client
//     which claims failed, and never what would have been accepted.
//   - The client speaks https with its broker, follows no redirect, and believes
//     nothing else than what it decrypted with the key that it made.
package keybroker

import (
	"crypto/sha512"
	"fmt"
	"strings"
	"unicode"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/ultravioletrs/cocos/atls"
	"github.com/ultravioletrs/cocos/attest"
	"github.com/ultravioletrs/cocos/keys"
	"github.com/ultravioletrs/cocos/manifest"
)

// Version of the protocol that both ends speak; the server takes no other, for
// none has evidence in the same place.
const Version = "0.4.0"

// MaxResource bounds what one resource holds, in bytes.
const MaxResource = 64 << 10

// Names of the protocol.
const (
	prefix        = "/kbs/v0"
	authPath      = prefix + "/auth"
	attestPath    = prefix + "/attest"
	resourcePath  = prefix + "/resource/"
	sessionCookie = "kbs-session-id"
	errorPrefix   = "https://github.com/confidential-containers/kbs/errors/"
)

// Bounds of messages, in bytes.
const (
	maxAuth     = 4 << 10
	maxAttest   = 1 << 20
	maxToken    = 64 << 10
	maxSealed   = 2*MaxResource + 16<<10 // base64 and headers
	maxNonce    = 1024
	maxDetail   = 400 // of a refusal, in characters
	maxKeyBytes = 4 << 10
)

// teeNames are the protocol's words for the TEEs. What is simulated goes by the
// one that is for tests alone.
var teeNames = map[attest.Type]string{attest.SNP: "snp", attest.TDX: "tdx", attest.SGX: "sgx", attest.Sim: "sample"}

func teeOf(name string) (attest.Type, bool) {
	for t, n := range teeNames {
		if n == name {
			return t, true
		}
	}
	return "", false
}

// request is the client's first message.
type request struct {
	Version     string         `json:"version"`
	TEE         string         `json:"tee"`
	ExtraParams jsontext.Value `json:"extra-params,omitzero"`
}

// challenge answers it.
type challenge struct {
	Nonce       string         `json:"nonce"`
	ExtraParams jsontext.Value `json:"extra-params"`
}

// attestation is the client's second message. Init data are no part of this
// evidence: what a VM was started for is its manifest.
type attestation struct {
	InitData    jsontext.Value `json:"init-data,omitzero"`
	RuntimeData jsontext.Value `json:"runtime-data"`
	TEEEvidence teeEvidence    `json:"tee-evidence"`
}

type runtimeData struct {
	Nonce     string         `json:"nonce"`
	TEEPubkey jsontext.Value `json:"tee-pubkey"`
}

type teeEvidence struct {
	Primary    primaryEvidence `json:"primary_evidence"`
	Additional string          `json:"additional_evidence"`
}

// evidenceFormat names the form of primaryEvidence.
const evidenceFormat = "cocos/v1"

// primaryEvidence is what stands in the protocol's place for a TEE's evidence.
type primaryEvidence struct {
	Format string `json:"format"`
	// Manifest is what the VM says that it enforces; the report binds it.
	Manifest manifest.Digest `json:"manifest_digest"`
	atls.BrokerEvidence
}

// tokenMessage answers an attestation.
type tokenMessage struct {
	Token string `json:"token"`
}

// errorInformation is what a refusal carries (RFC 7807).
type errorInformation struct {
	Type   string `json:"type"`
	Detail string `json:"detail"`
}

// digest is the SHA-512 of runtime data in canonical form (RFC 8785), whatever
// form they came in.
func digest(runtimeData jsontext.Value) ([sha512.Size]byte, error) {
	canonical := runtimeData.Clone()
	if err := canonical.Canonicalize(); err != nil {
		return [sha512.Size]byte{}, fmt.Errorf("runtime-data: %w", err)
	}
	return sha512.Sum512(canonical), nil
}

// decode reads one of our own messages: members that are not known, or twice
// there, are errors.
func decode(b []byte, to any) error {
	return json.Unmarshal(b, to, json.RejectUnknownMembers(true))
}

// printable is a peer's text for people: without control characters, and cut.
func printable(s string) string {
	var b strings.Builder
	for n, r := range []rune(strings.ToValidUTF8(s, "�")) {
		switch {
		case n == maxDetail:
			return b.String() + "…"
		case !unicode.IsPrint(r):
			r = ' '
		}
		b.WriteRune(r)
	}
	return b.String()
}

// releases are the resources that a manifest names at the broker with this
// address, in the manifest's order. It is an error if a dataset of anybody but the
// owner names the broker: the agent would use the owner's key for what others
// chose, and send the owner's credentials to their servers.
func releases(m *manifest.Manifest, broker string, owner keys.Public) ([]string, error) {
	var resources []string
	for i, d := range m.Datasets {
		if d.Source.Broker != broker {
			continue
		}
		if !d.Provider.Equal(owner) {
			return nil, fmt.Errorf("/datasets/%d (%s) is another provider's and names this broker: the owner's key would serve what is not the owner's", i, d.Name)
		}
		resources = append(resources, d.Source.Resource)
	}
	return resources, nil
}
