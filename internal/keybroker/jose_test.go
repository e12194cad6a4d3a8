package keybroker_test

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
)

// JWE by hand, after RFC 7516, 7518 and 3394 alone: what the package's library makes
// must be read by this, and the other way round.

var b64 = base64.RawURLEncoding

// kek derives the key that wraps (RFC 7518, section 4.6.2).
func kek(z []byte) []byte {
	const alg = "ECDH-ES+A256KW"
	b := binary.BigEndian.AppendUint32(nil, 1)
	b = append(b, z...)
	b = binary.BigEndian.AppendUint32(b, uint32(len(alg)))
	b = append(b, alg...)
	b = append(b, make([]byte, 8)...)          // no apu, no apv
	b = binary.BigEndian.AppendUint32(b, 8*32) // bits
	sum := sha256.Sum256(b)
	return sum[:]
}

// wrap and unwrap are RFC 3394 for a key of 32 bytes.
func wrap(k, key []byte) []byte {
	block, _ := aes.NewCipher(k)
	a := []byte{0xa6, 0xa6, 0xa6, 0xa6, 0xa6, 0xa6, 0xa6, 0xa6}
	r := append([]byte{}, key...)
	for j := range 6 {
		for i := range 4 {
			b := append(append([]byte{}, a...), r[8*i:8*i+8]...)
			block.Encrypt(b, b)
			binary.BigEndian.PutUint64(a, binary.BigEndian.Uint64(b)^uint64(4*j+i+1))
			copy(r[8*i:], b[8:])
		}
	}
	return append(a, r...)
}

func unwrap(k, wrapped []byte) ([]byte, error) {
	if len(wrapped) != 40 {
		return nil, fmt.Errorf("a wrapped key of %d bytes", len(wrapped))
	}
	block, _ := aes.NewCipher(k)
	a, r := append([]byte{}, wrapped[:8]...), append([]byte{}, wrapped[8:]...)
	for j := 5; j >= 0; j-- {
		for i := 3; i >= 0; i-- {
			b := binary.BigEndian.AppendUint64(nil, binary.BigEndian.Uint64(a)^uint64(4*j+i+1))
			b = append(b, r[8*i:8*i+8]...)
			block.Decrypt(b, b)
			copy(a, b[:8])
			copy(r[8*i:], b[8:])
		}
	}
	if subtle.ConstantTimeCompare(a, []byte{0xa6, 0xa6, 0xa6, 0xa6, 0xa6, 0xa6, 0xa6, 0xa6}) != 1 {
		return nil, errors.New("the key is wrapped with another")
	}
	return r, nil
}

// jwk is the public key as the protocol's documentation shows it.
func jwk(k *ecdsa.PrivateKey) map[string]any {
	pub, err := k.PublicKey.ECDH()
	if err != nil {
		panic(err)
	}
	b := pub.Bytes() // uncompressed
	return map[string]any{"kty": "EC", "crv": "P-256", "alg": "ECDH-ES+A256KW", "x": b64.EncodeToString(b[1:33]), "y": b64.EncodeToString(b[33:])}
}

// point reads the coordinates of a JWK.
func point(j map[string]any) (*ecdh.PublicKey, error) {
	x, errX := b64.DecodeString(fmt.Sprint(j["x"]))
	y, errY := b64.DecodeString(fmt.Sprint(j["y"]))
	if j["kty"] != "EC" || j["crv"] != "P-256" || errX != nil || errY != nil || len(x) != 32 || len(y) != 32 {
		return nil, fmt.Errorf("not a key of P-256: %v", j)
	}
	return ecdh.P256().NewPublicKey(append(append([]byte{4}, x...), y...))
}

// unseal decrypts a flattened JWE.
func unseal(k *ecdsa.PrivateKey, sealed []byte) ([]byte, error) {
	var m map[string]string
	if err := json.Unmarshal(sealed, &m); err != nil {
		return nil, err
	}
	part := map[string][]byte{}
	for _, name := range []string{"protected", "encrypted_key", "iv", "ciphertext", "tag"} {
		b, err := b64.DecodeString(m[name])
		if err != nil || len(b) == 0 {
			return nil, fmt.Errorf("no %s in %s", name, sealed)
		}
		part[name] = b
	}
	var head struct {
		Alg, Enc string
		Epk      map[string]any
	}
	if err := json.Unmarshal(part["protected"], &head); err != nil || head.Alg != "ECDH-ES+A256KW" || head.Enc != "A256GCM" {
		return nil, fmt.Errorf("the header is %s", part["protected"])
	}
	their, err := point(head.Epk)
	if err != nil {
		return nil, err
	}
	own, err := k.ECDH()
	if err != nil {
		return nil, err
	}
	z, err := own.ECDH(their)
	if err != nil {
		return nil, err
	}
	cek, err := unwrap(kek(z), part["encrypted_key"])
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(cek)
	if err != nil {
		return nil, err
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		return nil, err
	}
	return gcm.Open(nil, part["iv"], append(part["ciphertext"], part["tag"]...), []byte(m["protected"]))
}

// sealFor encrypts to a JWK; header may bend what is protected.
func sealFor(j map[string]any, text []byte, header func(map[string]any)) (map[string]any, error) {
	their, err := point(j)
	if err != nil {
		return nil, err
	}
	own, err := ecdh.P256().GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	z, err := own.ECDH(their)
	if err != nil {
		return nil, err
	}
	pub := own.PublicKey().Bytes()
	head := map[string]any{"alg": j["alg"], "enc": "A256GCM", "epk": map[string]any{
		"crv": "P-256", "kty": "EC", "x": b64.EncodeToString(pub[1:33]), "y": b64.EncodeToString(pub[33:]),
	}}
	if header != nil {
		header(head)
	}
	protected, err := json.Marshal(head)
	if err != nil {
		return nil, err
	}
	cek, iv := make([]byte, 32), make([]byte, 12)
	_, _ = rand.Read(cek)
	_, _ = rand.Read(iv)
	block, err := aes.NewCipher(cek)
	if err != nil {
		return nil, err
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		return nil, err
	}
	aad := b64.EncodeToString(protected)
	c := gcm.Seal(nil, iv, text, []byte(aad))
	return map[string]any{
		"protected": aad, "encrypted_key": b64.EncodeToString(wrap(kek(z), cek)), "iv": b64.EncodeToString(iv),
		"ciphertext": b64.EncodeToString(c[:len(c)-16]), "tag": b64.EncodeToString(c[len(c)-16:]),
	}, nil
}
