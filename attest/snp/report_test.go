package snp_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/ultravioletrs/cocos/attest/snp"
)

// full is a report with no field left at zero, of the version.
func full(version uint32) *snp.Report {
	r := new(snp.Report)
	v := reflect.ValueOf(r).Elem()
	n := byte(0)
	var fill func(v reflect.Value)
	fill = func(v reflect.Value) {
		n++
		switch v.Kind() {
		case reflect.Bool:
			v.SetBool(true)
		case reflect.Array:
			for i := range v.Len() {
				fill(v.Index(i))
			}
		case reflect.Struct:
			for i := range v.NumField() {
				fill(v.Field(i))
			}
		default:
			v.SetUint(uint64(n%100) + 1)
		}
	}
	fill(v)
	r.Version, r.Signer, r.SignatureAlgo = version, snp.VLEK, snp.SignatureECDSAP384
	if version < 3 {
		r.CPUIDFamily, r.CPUIDModel, r.CPUIDStepping = 0, 0, 0
	}
	if version < 5 {
		r.LaunchMitigations, r.CurrentMitigations = 0, 0
	}
	return r
}

func TestMarshalAndParseAgree(t *testing.T) {
	for version := uint32(snp.MinVersion); version <= snp.MaxVersion; version++ {
		want := full(version)
		b := snp.Marshal(want)
		got, err := snp.Parse(b)
		if err != nil {
			t.Fatalf("version %d: %v", version, err)
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("version %d: got %+v\nwant %+v", version, got, want)
		}
		if !bytes.Equal(snp.Marshal(got), b) {
			t.Errorf("version %d: written again it differs", version)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	for name, tt := range map[string]struct {
		version uint32
		change  func(b []byte) []byte
		want    string
	}{
		"short":                   {3, func(b []byte) []byte { return b[:len(b)-1] }, "has 1183 bytes"},
		"long":                    {3, func(b []byte) []byte { return append(b, 0) }, "has 1185 bytes"},
		"nothing":                 {3, func([]byte) []byte { return nil }, "has 0 bytes"},
		"version 1":               {3, func(b []byte) []byte { b[0] = 1; return b }, "version 1"},
		"version 6":               {5, func(b []byte) []byte { b[0] = 6; return b }, "version 6"},
		"an unknown flag":         {3, func(b []byte) []byte { b[0x48] |= 0x20; return b }, "0x20 at 0x48"},
		"reserved behind flags":   {3, func(b []byte) []byte { b[0x4c] = 1; return b }, "0x4c"},
		"reserved before chip id": {3, func(b []byte) []byte { b[0x18b] = 1; return b }, "0x18b"},
		"a CPU in version 2":      {2, func(b []byte) []byte { b[0x188] = 0x19; return b }, "0x188"},
		"reserved in versions":    {3, func(b []byte) []byte { b[0x1eb] = 1; return b }, "0x1eb"},
		"mitigations, version 4":  {4, func(b []byte) []byte { b[0x1f8] = 1; return b }, "0x1f8"},
		"reserved, version 5":     {5, func(b []byte) []byte { b[0x29f] = 1; return b }, "0x29f"},
		"behind the signature":    {5, func(b []byte) []byte { b[0x49f] = 1; return b }, "0x49f"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := snp.Parse(tt.change(snp.Marshal(full(tt.version)))); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v; want %q in it", err, tt.want)
			}
		})
	}
}

func TestSignature(t *testing.T) {
	newKey := func(c elliptic.Curve) *ecdsa.PrivateKey {
		k, err := ecdsa.GenerateKey(c, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	key, other, small := newKey(elliptic.P384()), newKey(elliptic.P384()), newKey(elliptic.P256())
	signer := &x509.Certificate{PublicKey: key.Public()}
	report := snp.Marshal(full(5))
	if err := snp.Sign(report, key); err != nil {
		t.Fatal(err)
	}
	if err := snp.VerifySignature(report, signer); err != nil {
		t.Fatal(err)
	}
	for i := range snp.SignedSize {
		changed := bytes.Clone(report)
		changed[i] ^= 1
		if err := snp.VerifySignature(changed, signer); err == nil {
			t.Fatalf("with byte %#x changed it verifies", i)
		}
	}
	for _, at := range []int{snp.SignedSize, snp.SignedSize + 47, snp.SignedSize + 48, snp.SignedSize + 72, snp.SignedSize + 143} {
		changed := bytes.Clone(report)
		changed[at] ^= 1
		if err := snp.VerifySignature(changed, signer); !errors.Is(err, snp.ErrSignature) {
			t.Errorf("with byte %#x of the signature changed: %v", at, err)
		}
	}
	if err := snp.VerifySignature(report, &x509.Certificate{PublicKey: other.Public()}); !errors.Is(err, snp.ErrSignature) {
		t.Errorf("another key: %v", err)
	}
	if err := snp.VerifySignature(report, &x509.Certificate{PublicKey: small.Public()}); err == nil || !strings.Contains(err.Error(), "P-384") {
		t.Errorf("a key on another curve: %v", err)
	}
	if err := snp.Sign(report, small); err == nil || !strings.Contains(err.Error(), "P-256") {
		t.Errorf("signing on another curve: %v", err)
	}
	r := full(5)
	r.SignatureAlgo = 2
	report = snp.Marshal(r)
	if err := errors.Join(snp.Sign(report, key)); err != nil {
		t.Fatal(err)
	}
	if err := snp.VerifySignature(report, signer); err == nil || !strings.Contains(err.Error(), "algorithm 2") {
		t.Errorf("another algorithm: %v", err)
	}
}
