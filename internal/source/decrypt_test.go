package source

import (
	"bytes"
	"net/http"
	"slices"
	"strings"
	"testing"

	"filippo.io/age"
	"filippo.io/age/armor"

	"github.com/ultravioletrs/cocos/manifest"
)

func encrypt(t *testing.T, b []byte, to ...age.Recipient) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := age.Encrypt(&out, to...)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func identity(t *testing.T) *age.X25519Identity {
	t.Helper()
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func TestAge(t *testing.T) {
	id, other := identity(t), identity(t)
	hybrid, err := age.GenerateHybridIdentity()
	if err != nil {
		t.Fatal(err)
	}
	pass, err := age.NewScryptRecipient("a passphrase")
	if err != nil {
		t.Fatal(err)
	}
	pass.SetWorkFactor(10)
	right := encrypt(t, content, id.Recipient())
	flipped := bytes.Clone(right)
	flipped[len(flipped)-100] ^= 1
	early := bytes.Clone(right)
	early[bytes.Index(early, []byte("-> X25519"))+12] ^= 1
	var armored bytes.Buffer
	a := armor.NewWriter(&armored)
	_, _ = a.Write(right)
	_ = a.Close()
	chunk := ageTag + ageChunk
	for _, tt := range []struct {
		name   string
		file   []byte
		secret string
		words  string
	}{
		{"X25519", right, id.String(), ""},
		{"as age-keygen writes it", right, "# created: 2026\n# public key: " + id.Recipient().String() + "\n" + id.String() + "\n", ""},
		{"in JSON, with another", right, `{"age":["` + other.String() + `","` + id.String() + `"]}`, ""},
		{"hybrid", encrypt(t, content, hybrid.Recipient()), hybrid.String(), ""},
		{"to several", encrypt(t, content, other.Recipient(), id.Recipient()), id.String(), ""},
		{"another identity", right, other.String(), "is not encrypted to the given identity"},
		{"another kind of identity", right, hybrid.String(), "is not encrypted to the given identity"},
		{"a passphrase", encrypt(t, content, pass), id.String(), "encrypted with a passphrase"},
		{"not encrypted", content, id.String(), "not an intact file of age"},
		{"armored", armored.Bytes(), id.String(), "not an intact file of age"},
		{"nothing", nil, id.String(), "not an intact file of age"},
		{"a flipped bit in the header", early, id.String(), "not"},
		{"a flipped bit in the content", flipped, id.String(), "damaged or cut off"},
		{"cut off in a chunk", right[:len(right)-50_000], id.String(), "damaged or cut off"},
		{"cut off between chunks", right[:len(right)-(len(right)-len(encrypt(t, nil, id.Recipient()))+ageTag)%chunk], id.String(), "damaged or cut off"},
		{"bytes behind it", append(bytes.Clone(right), "more"...), id.String(), "damaged or cut off"},
		{"endless header", append([]byte("age-encryption.org/v1\n-> x "), bytes.Repeat([]byte("a"), 5<<19)...), id.String(), "not an intact file of age"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := serve(t, file(tt.file, `"1"`))
			s := w.at("/data.age")
			s.Encryption = manifest.Age
			if tt.words == "" {
				wants(t, s, secretOf(t, tt.secret))
			} else {
				refuses(t, s, secretOf(t, tt.secret), tt.words)
			}
		})
	}
}

// A connection that breaks in the middle of what is encrypted is nothing that the
// decryption sees.
func TestAgeOverBrokenConnections(t *testing.T) {
	id := identity(t)
	n := 0
	h := file(encrypt(t, content, id.Recipient()), `"1"`)
	w := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if n++; n < 5 {
			cut(150_001, h)(w, r)
			return
		}
		h(w, r)
	})
	s := w.at("/")
	s.Encryption = manifest.Age
	wants(t, s, secretOf(t, id.String()))
	if n < 4 {
		t.Errorf("%d requests only", n)
	}
}

// What age adds is in the bound, and no more than that.
func TestAgeIsBounded(t *testing.T) {
	id := identity(t)
	for _, n := range []int{0, 1, ageChunk - 1, ageChunk, ageChunk + 1, 3 * ageChunk} {
		got := int64(len(encrypt(t, make([]byte, n), id.Recipient())))
		if most := ageSize(int64(n)); got > most || got < most-ageHeader-ageTag {
			t.Errorf("%d bytes are %d encrypted, and the bound is %d", n, got, most)
		}
	}
	w := serve(t, file(encrypt(t, make([]byte, len(content)+3<<20), id.Recipient()), ""))
	s := w.at("/")
	s.Encryption = manifest.Age
	refuses(t, s, secretOf(t, id.String()), "longer than the dataset")
}

func TestSecretForms(t *testing.T) {
	id := identity(t).String()
	salt := strings.Repeat("ab", 32)
	for _, tt := range []struct{ name, text, words string }{
		{"nothing", " \n", ""},
		{"an empty object", "{}", ""},
		{"everything of s3", `{"s3":{"access_key":"a","secret_key":"b","session_token":"c"},"salt":"` + salt + `"}`, ""},
		{"basic with a token server", `{"basic":{"username":"a","password":"b"},"token_server":"auth.example:443"}`, ""},
		{"an unknown member", `{"agee":["` + id + `"]}`, "member that is not known"},
		{"an unknown member below", `{"s3":{"access_key":"a","secret_key":"b","x":"` + id + `"}}`, "member that is not known"},
		{"a member twice", `{"bearer":"` + id + `","bearer":"b"}`, "not a JSON object"},
		{"a member in capitals", `{"Bearer":"b"}`, "member that is not known"},
		{"another type", `{"age":"` + id + `"}`, "not a JSON object"},
		{"a list", `["` + id + `"]`, "neither a JSON object nor"},
		{"something behind it", `{"bearer":"b"} ` + id, "not a JSON object"},
		{"no identity", `{"age":["AGE-SECRET-KEY-1XX` + id + `"]}`, "not a list of identities"},
		{"not an identity file", "SECRET " + id, "neither a JSON object nor"},
		{"half of s3", `{"s3":{"access_key":"` + id + `"}}`, "needs access_key and secret_key"},
		{"half of basic", `{"basic":{"username":"` + id + `"}}`, "needs username and password"},
		{"a colon in a name", `{"basic":{"username":"a:b","password":"` + id + `"}}`, "colon"},
		{"a line end in a token", `{"bearer":"` + id + `\nHost: x"}`, "can't be sent"},
		{"two ways to say who one is", `{"bearer":"` + id + `","basic":{"username":"a","password":"b"}}`, "both basic and bearer"},
		{"a token server for nothing", `{"token_server":"` + id + `"}`, "goes with basic alone"},
		{"a short salt", `{"salt":"` + salt[2:] + `"}`, "not a JSON object"},
		{"no key", `{"private_key":"` + id + `"}`, "private_key is not"},
		{"a bare key that is none", "-----BEGIN PRIVATE KEY-----\n" + id + "\n-----END PRIVATE KEY-----\n", "private_key is not"},
		{"a bare public JWK", `{"kty":"EC","crv":"P-256","x":"` + id + `"}`, "private_key is not"},
		{"too long", "# " + strings.Repeat("x", MaxSecret), "at most"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			k, err := ParseSecret([]byte(tt.text))
			switch {
			case tt.words == "" && err != nil:
				t.Error(err)
			case tt.words != "" && (err == nil || !strings.Contains(err.Error(), tt.words)):
				t.Errorf("got %v, want %q", err, tt.words)
			case err != nil && strings.Contains(err.Error(), id):
				t.Errorf("the error shows the secret: %v", err)
			}
			if k != nil && k.String() != "[secret]" {
				t.Errorf("as text it is %s", k)
			}
		})
	}
}

// What fits one source fits no other.
func TestSecretFitsItsSource(t *testing.T) {
	_, pem := rsaKey(t)
	secrets := map[string]string{
		"nothing": "", "age": identity(t).String(), "key": `{"private_key":` + quoted(pem) + `}`,
		"s3": `{"s3":{"access_key":"a","secret_key":"b"}}`, "basic": `{"basic":{"username":"a","password":"b"}}`,
		"bearer": `{"bearer":"t"}`, "token": `{"basic":{"username":"a","password":"b"},"token_server":"a.example:443"}`,
	}
	for _, tt := range []struct {
		source manifest.Source
		fit    []string
	}{
		{manifest.Source{URL: "https://h/p"}, []string{"nothing", "basic", "bearer"}},
		{manifest.Source{URL: "http://h/p"}, []string{"nothing"}},
		{manifest.Source{URL: "https://h/p", Encryption: manifest.Age}, []string{"age"}},
		{manifest.Source{URL: "s3://b/k", Endpoint: "https://h"}, []string{"nothing", "s3"}},
		{manifest.Source{URL: "s3://b/k", Endpoint: "http://h"}, []string{"nothing"}},
		{manifest.Source{URL: "oci://h/r"}, []string{"nothing", "basic", "bearer", "token"}},
		{manifest.Source{URL: "oci+http://h/r"}, []string{"nothing"}},
		{manifest.Source{URL: "oci://h/r", Encryption: manifest.OCICrypt}, []string{"key"}},
	} {
		for name, text := range secrets {
			err := secretOf(t, text).Fits(tt.source)
			if fits := slices.Contains(tt.fit, name); fits != (err == nil) {
				t.Errorf("%s for %s %s: %v", name, tt.source.URL, tt.source.Encryption, err)
			}
		}
	}
}
