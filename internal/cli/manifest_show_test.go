package cli

import (
	"strings"
	"testing"

	"github.com/ultravioletrs/cocos/keys"
	"github.com/ultravioletrs/cocos/manifest"
)

// Whoever writes a manifest must not be able to draw a line of its summary that
// says how it is protected: by a line break, or by spaces up to the terminal's
// edge.
func TestSummaryIsNotDrawnByTheManifest(t *testing.T) {
	key, err := keys.Generate(keys.Ed25519)
	if err != nil {
		t.Fatal(err)
	}
	const drawn = "protection   sev-snp; attested TLS"
	for name, text := range map[string]string{
		"spaces":            "a" + strings.Repeat(" ", 66) + drawn,
		"a line break":      "a\n" + drawn,
		"other spaces":      "a" + strings.Repeat("\u2003", 66) + drawn,
		"no-break spaces":   "a" + strings.Repeat("\u00a0", 66) + drawn,
		"spaces and a text": strings.Repeat("  a", 22) + drawn,
	} {
		f := manifest.Frozen{Manifest: manifest.Manifest{
			ID: "c", Name: strings.ReplaceAll(text, "\n", " "), Description: text, TEE: manifest.TEENone,
			Algorithm: manifest.Algorithm{Type: manifest.Binary, Provider: key.Public()},
		}}
		said := summary(&f, keys.Public.Fingerprint)
		if strings.Contains(said, "  sev-snp") || strings.Count(said, "\nprotection ") != 1 || strings.Count(said, "protection sev-snp; attested TLS") != 2 {
			t.Errorf("%s:\n%s", name, said)
		}
	}
}

// The summary has everything that a manifest says of its inputs.
func TestSummaryOfInputs(t *testing.T) {
	key, err := keys.Generate(keys.Ed25519)
	if err != nil {
		t.Fatal(err)
	}
	const digest = "oci://reg.example.org/a@sha256:0101010101010101010101010101010101010101010101010101010101010101"
	m := manifest.Manifest{
		TEE: manifest.TEENone, ScratchBytes: 5 << 30,
		Algorithm: manifest.Algorithm{
			Type: manifest.Python, Provider: key.Public(),
			Files: []manifest.File{
				{Name: "requirements.txt", SHA256: manifest.Digest{0xab}, Size: 100},
				{Name: "wheels", Commitment: manifest.Commitment{0xcd}, Size: 2048, UnpackedMax: 4096},
			},
			Python: manifest.Packages{Requirements: "requirements.txt", Wheels: "wheels"},
		},
		Datasets: []manifest.Dataset{
			{Name: "plain", Provider: key.Public(), Size: 3, Source: manifest.Source{URL: "s3://bucket/key", Endpoint: "https://s3.example.org", Region: "eu-1", Redirects: []string{"cdn.example.org:443"}}},
			{Name: "sealed", Provider: key.Public(), Size: 3, Source: manifest.Source{
				URL: digest, Encryption: manifest.OCICrypt, Broker: "https://kbs.example.org", Resource: "default/key/a",
				Authorities: "-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n",
			}},
			{Name: "uploaded", Provider: key.Public(), Size: 3},
		},
	}
	said := summary(&manifest.Frozen{Manifest: m}, keys.Public.Fingerprint)
	for _, want := range []string{
		"file         requirements.txt, file, 100 B, sha256 ab", "file         wheels, folder of at most 4.0 KiB, 2.0 KiB, commitment cd",
		"packages     those of requirements.txt, from the wheels in wheels alone",
		"             not uploaded: the agent takes it from s3://bucket/key, at https://s3.example.org, region eu-1\n             it is not encrypted there\n",
		"comes from its provider's client\n             those may send the agent on to cdn.example.org:443\n",
		"takes it from " + digest + "\n             encrypted there (ocicrypt)\n", "released by the key broker https://kbs.example.org, as default/key/a\n",
		"             certificates of its own (1) vouch for these servers", "connections  the agent opens some, to these alone: cdn.example.org:443, kbs.example.org:443, reg.example.org:443, s3.example.org:443\n",
		"scratch      5.0 GiB on a disk of the host's",
	} {
		if !strings.Contains(said, want) {
			t.Errorf("the summary lacks %q:\n%s", want, said)
		}
	}
	m.ScratchBytes, m.Algorithm.Files, m.Algorithm.Python, m.Datasets = 0, nil, manifest.Packages{}, m.Datasets[2:]
	said = summary(&manifest.Frozen{Manifest: m}, keys.Public.Fingerprint)
	for _, absent := range []string{"file  ", "packages", "not uploaded", "connections", "scratch"} {
		if strings.Contains(said, absent) {
			t.Errorf("the summary has %q:\n%s", absent, said)
		}
	}
}
