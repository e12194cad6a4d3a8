// Package atls is the agent's channel: gRPC transport credentials on TLS 1.3,
// the value that names a connection, and attested TLS on it.
//
// In attested mode the two sides exchange evidence after the TLS handshake,
// inside the channel and before gRPC says its first byte. It binds the value
// that Info carries as Exporter (RFC 8446, section 7.5; RFC 9266), for evidence
// inside the handshake can be relayed by whoever gets hold of the ephemeral key;
// and with it role, the attester's own TLS key and the peer's nonce, for an
// exporter alone could be reflected. docs/attested-tls.md has every byte.
//
// Invariants:
//   - TLS 1.3 and nothing older; no session tickets and no 0-RTT, so that each
//     connection has an exporter value of its own.
//   - A client without exactly one reason to trust the server is an error; a
//     server that is given a client CA talks to nobody without a certificate of
//     it.
//   - What one side demands the other gives, and nothing else, or there is no
//     connection: there is no falling back from attested mode, which has a
//     protocol name of its own in TLS. Its TLS keys are made in this process.
//   - Evidence is made for the connection, unless both sides agreed to an older
//     one, which Info.Cached then says.
//   - Nobody waits for another: not for a peer that stalls, and for a report no
//     longer than it takes. Whatever a peer says is bounded before it is read.
package atls

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
)

const (
	// exporterLabel separates our use of the exporter from everybody's.
	exporterLabel = "EXPORTER-cocos-v1-channel"
	// ExporterSize in bytes.
	ExporterSize = 32
)

// Info is what is known of an established connection. It is gRPC's AuthInfo.
type Info struct {
	credentials.CommonAuthInfo
	// Exporter is the same on both ends and on no other connection.
	Exporter [ExporterSize]byte
	// PeerSPKI is the SHA-256 of the peer's SubjectPublicKeyInfo; HasPeer is
	// false for a client that showed no certificate.
	PeerSPKI [sha256.Size]byte
	HasPeer  bool
	// Instance is the DER SubjectPublicKeyInfo of the instance key of the VM at
	// the attested end, the same on both ends (where both are attested: the
	// server's); empty where no evidence was exchanged.
	Instance []byte
	// Attestation is what this side appraised; nil where it did not.
	Attestation *Attestation
	// Cached: the evidence is older than the connection, which the instance key
	// vouches for. Nothing secret is sent over such a connection.
	Cached bool
}

// AuthType implements credentials.AuthInfo.
func (Info) AuthType() string { return "atls" }

// InfoFrom finds the connection of a call: on a server in the handler's
// context, on a client in the context of its per-call credentials.
func InfoFrom(ctx context.Context) (Info, error) {
	if r, ok := credentials.RequestInfoFromContext(ctx); ok {
		if info, ok := r.AuthInfo.(Info); ok {
			return info, nil
		}
	}
	if p, ok := peer.FromContext(ctx); ok {
		if info, ok := p.AuthInfo.(Info); ok {
			return info, nil
		}
	}
	return Info{}, errors.New("the call did not come over this package's TLS")
}

// FormatKey is "sha256:" and 64 hexadecimal digits.
func FormatKey(sum [sha256.Size]byte) string { return keyPrefix + hex.EncodeToString(sum[:]) }

const keyPrefix = "sha256:"

// ParseKey takes what FormatKey returns.
func ParseKey(s string) (sum [sha256.Size]byte, err error) {
	digits, ok := strings.CutPrefix(s, keyPrefix)
	b, err := hex.DecodeString(digits)
	if !ok || err != nil || len(b) != len(sum) || strings.ToLower(digits) != digits {
		return sum, fmt.Errorf("%q is not %q and %d lower-case hexadecimal digits", s, keyPrefix, 2*len(sum))
	}
	return [sha256.Size]byte(b), nil
}
