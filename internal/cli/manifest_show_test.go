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
