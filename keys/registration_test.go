package keys_test

import (
	"testing"
	"time"

	"github.com/ultravioletrs/cocos/keys"
)

// A proof of possession depends on each thing that it is for.
func TestRegistrationText(t *testing.T) {
	k, err := keys.Generate(keys.Ed25519)
	if err != nil {
		t.Fatal(err)
	}
	other, err := keys.Generate(keys.Ed25519)
	if err != nil {
		t.Fatal(err)
	}
	at := time.Date(2026, 11, 29, 12, 0, 0, 0, time.UTC)
	text := keys.RegistrationText("https://a.example", "b@c.example", k.Public(), at)
	sig, err := k.Sign(text)
	if err != nil {
		t.Fatal(err)
	}
	if err := k.Public().Verify(keys.RegistrationText("https://a.example", "b@c.example", k.Public(), at.In(time.FixedZone("x", 3600)).Add(time.Millisecond)), sig); err != nil {
		t.Errorf("the same second in another zone: %v", err)
	}
	for name, bad := range map[string]keys.Text{
		"service": keys.RegistrationText("https://b.example", "b@c.example", k.Public(), at),
		"email":   keys.RegistrationText("https://a.example", "c@c.example", k.Public(), at),
		"shifted": keys.RegistrationText("https://a.exampleb", "@c.example", k.Public(), at),
		"key":     keys.RegistrationText("https://a.example", "b@c.example", other.Public(), at),
		"time":    keys.RegistrationText("https://a.example", "b@c.example", k.Public(), at.Add(time.Second)),
		"purpose": {Purpose: keys.PurposeApproval, Fields: text.Fields},
	} {
		if err := k.Public().Verify(bad, sig); err == nil {
			t.Errorf("it holds for another %s", name)
		}
	}
}
