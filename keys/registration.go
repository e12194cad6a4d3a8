package keys

import "time"

// PurposeRegistration: fields are the service's public address, the email address
// of the account there, the key's SPKI and the time (RFC 3339, UTC, in seconds).
const PurposeRegistration Purpose = "cocos/v1/registration"

// RegistrationText is what the holder of key signs to register it as that of the
// account of an email address, at the service of this public address. The signer
// forms it from what it knows itself: a service never says what is to be signed.
func RegistrationText(service, email string, key Public, at time.Time) Text {
	return Text{Purpose: PurposeRegistration, Fields: [][]byte{
		[]byte(service), []byte(email), key.SPKI(), []byte(at.UTC().Format(time.RFC3339)),
	}}
}
