package keys_test

import (
	"crypto/ed25519"
	"crypto/x509"
	"encoding/hex"
	"strings"
	"testing"

	"github.com/ultravioletrs/cocos/keys"
)

// One signature, R the neutral point and S zero, verifies for a key of small
// order whatever was signed, if that happens to suit the key's order: its holder
// could deny everything, and anybody could say it.
func TestKeysOfSmallOrder(t *testing.T) {
	forged := make([]byte, ed25519.SignatureSize)
	forged[0] = 1
	for _, y := range []string{
		"0000000000000000000000000000000000000000000000000000000000000000",
		"0100000000000000000000000000000000000000000000000000000000000000",
		"26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
		"c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
		"ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
		"edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
		"eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
	} {
		b, err := hex.DecodeString(y)
		if err != nil {
			t.Fatal(err)
		}
		hits := 0
		for _, sign := range []byte{0, 0x80} {
			k := ed25519.PublicKey(append(b[:31:31], b[31]|sign))
			for i := range byte(64) {
				if ed25519.Verify(k, []byte{i}, forged) {
					hits++
				}
			}
			spki, err := x509.MarshalPKIXPublicKey(k)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := keys.ParsePublic(spki); err == nil || !strings.Contains(err.Error(), "small order") {
				t.Errorf("%x: %v", []byte(k), err)
			}
		}
		if hits == 0 {
			t.Errorf("%s is of no small order: no signature was forged", y)
		}
	}
}
