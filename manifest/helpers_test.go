package manifest_test

import (
	"crypto/ed25519"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"math/big"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/ultravioletrs/cocos/keys"
	"github.com/ultravioletrs/cocos/manifest"
)

// people of the test manifest.
type people struct{ algo, data, consumer, approver, stranger keys.Private }

var everybody = sync.OnceValue(func() people {
	mk := func(k keys.Kind) keys.Private {
		p, err := keys.Generate(k)
		if err != nil {
			panic(err)
		}
		return p
	}
	return people{mk(keys.Ed25519), mk(keys.ECDSAP256), mk(keys.ECDSAP384), mk(keys.RSA), mk(keys.Ed25519)}
})

// full is a valid manifest with every field set.
func full() manifest.Manifest {
	p := everybody()
	return manifest.Manifest{
		Version: 1, ID: "c1", Name: "Näme", Description: "two\nlines", Nonce: manifest.Nonce{1},
		TEE: manifest.TEESNP, AttestedTLS: true,
		Approvals: []keys.Public{p.approver.Public(), p.data.Public()},
		Algorithm: manifest.Algorithm{
			Type: manifest.Python, Args: []string{"--alpha", "0.5"}, Env: map[string]string{"A": "1", "B_2": ""},
			Limits: manifest.Limits{MemoryBytes: 1 << 30, Processes: 10, Seconds: 60, OutputBytes: 1 << 20, CPUMilli: 1500},
			SHA256: manifest.Digest{2}, Size: 100, Provider: p.algo.Public(),
			Files: []manifest.File{
				{Name: "requirements.txt", SHA256: manifest.Digest{6}, Size: 20},
				{Name: "wheels", SHA256: manifest.Digest{7}, Size: 2000, UnpackedMax: 1000},
			},
			Python: manifest.Packages{Requirements: "requirements.txt", Wheels: "wheels"},
		},
		Datasets: []manifest.Dataset{
			{Name: "one.csv", Provider: p.data.Public(), SHA256: manifest.Digest{3}, Size: 10},
			{Name: "two", Provider: p.data.Public(), SHA256: manifest.Digest{4}, Size: 20, UnpackedMax: 100, Source: manifest.Source{
				URL: "s3://bucket/two.tar.age", Endpoint: "https://s3.example.org:9000", Region: "eu-1", Encryption: manifest.Age,
				Broker: "https://keys.example.org/kbs", Resource: "default/key/two", Redirects: []string{"cdn.example.org:443"}, Authorities: authority(),
			}},
		},
		Consumers: []keys.Public{p.consumer.Public()},
		Outputs:   manifest.Outputs{ResultMax: 1 << 20}, ScratchBytes: 16 << 20,
	}
}

// authority is a certificate.
var authority = sync.OnceValue(func() string {
	key := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))
	c := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(nil, c, c, key.Public(), key)
	if err != nil {
		panic(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
})

// container is full with an image.
func container() manifest.Manifest {
	m := full()
	m.Algorithm.Type = manifest.Container
	m.Algorithm.Files, m.Algorithm.Python = nil, manifest.Packages{}
	m.Algorithm.Image = manifest.Image{Name: "example.org:5000/a/stats:1.0", Config: manifest.Digest{5}, UnpackedMax: 1 << 20}
	return m
}

func freeze(t testing.TB, m manifest.Manifest) manifest.Frozen {
	t.Helper()
	f, err := manifest.Freeze(m)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// absent takes a member away.
var absent = new(int)

// edit changes one value of a manifest's JSON, by its JSON pointer, and returns
// canonical bytes. A json.Number stands as it is written.
func edit(t testing.TB, raw []byte, pointer string, value any) []byte {
	t.Helper()
	d := json.NewDecoder(strings.NewReader(string(raw)))
	d.UseNumber()
	var top any
	if err := d.Decode(&top); err != nil {
		t.Fatal(err)
	}
	at := top
	tokens := strings.Split(pointer, "/")[1:]
	for i, token := range tokens {
		last := i == len(tokens)-1
		switch v := at.(type) {
		case map[string]any:
			switch {
			case last && value == absent:
				delete(v, token)
			case last:
				v[token] = value
			default:
				at = v[token]
			}
		case []any:
			n, err := strconv.Atoi(token)
			if err != nil || n >= len(v) {
				t.Fatalf("%s: no element %s", pointer, token)
			}
			if last {
				v[n] = value
			} else {
				at = v[n]
			}
		default:
			t.Fatalf("%s: nothing at %s", pointer, token)
		}
	}
	b, err := json.Marshal(top)
	if err != nil {
		t.Fatal(err)
	}
	v := jsontext.Value(b)
	if err := v.Canonicalize(jsontext.CanonicalizeRawInts(false)); err != nil {
		return b // a number that canonical JSON has no form for
	}
	return v
}

// faultsOf returns the faults of an error by their paths, in order.
func faultsOf(t testing.TB, err error) (paths []string, text string) {
	t.Helper()
	if err == nil {
		return nil, ""
	}
	var faults manifest.Faults
	if !errors.As(err, &faults) || len(faults) == 0 {
		t.Fatalf("%v (%T) is not Faults", err, err)
	}
	for _, f := range faults {
		paths = append(paths, f.Path)
	}
	return paths, err.Error()
}
