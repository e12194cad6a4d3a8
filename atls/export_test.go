package atls

import (
	"crypto/tls"
	"time"

	"google.golang.org/grpc/credentials"
)

const AttestedProtocol = attestedProtocol

// Certificate is what a thief would have of an identity.
func (i Identity) Certificate() tls.Certificate { return i.cert }

// Hurry makes credentials less patient.
func Hurry(c credentials.TransportCredentials, d time.Duration) { c.(*transport).patience = d }
