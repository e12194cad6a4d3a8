package cli

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ultravioletrs/cocos/manifest"
)

// A file that this program did not write is no reason to send anything.
func TestApprovalsFile(t *testing.T) {
	digest := strings.Repeat("ab", 32)
	one := `{"computation": "test", "manifest_digest": "` + digest + `", "since": "2026-01-02T03:04:05Z"}`
	for name, tt := range map[string]struct{ content, want string }{
		"as it is written":   {`{"version": 1, "approvals": [` + one + `]}`, "you approved " + digest},
		"of another one":     {`{"version": 1, "approvals": [` + strings.Replace(one, "test", "other", 1) + `]}`, ""},
		"empty":              {``, "not as this program writes it"},
		"another version":    {`{"version": 2, "approvals": []}`, "/version is 2"},
		"an unknown member":  {`{"version": 1, "approvals": [], "all": true}`, "all"},
		"twice":              {`{"version": 1, "approvals": [` + one + `, ` + one + `]}`, "/approvals/1/computation is that of /approvals/0, too"},
		"without an id":      {`{"version": 1, "approvals": [{"manifest_digest": "` + digest + `", "since": "2026-01-02T03:04:05Z"}]}`, "/approvals/0/computation is missing"},
		"without the digest": {`{"version": 1, "approvals": [{"computation": "test", "since": "2026-01-02T03:04:05Z"}]}`, "/approvals/0/manifest_digest is missing"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.Chmod(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, approvalsFile), []byte(tt.content), 0o600); err != nil {
				t.Fatal(err)
			}
			a := homeOf(t, map[string]string{"COCOS_HOME": dir})
			a.conn.manifest = "m.json"
			err := a.unchanged(&identity{manifest: &manifest.Frozen{Manifest: manifest.Manifest{ID: "test"}, Digest: manifest.Digest{1}}})
			if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
	// Without a folder nothing was ever approved, and without a manifest nothing
	// says which computation it is.
	a := homeOf(t, nil)
	if err := a.unchanged(&identity{manifest: &manifest.Frozen{Manifest: manifest.Manifest{ID: "test"}}}); err != nil {
		t.Errorf("without a folder: %v", err)
	}
	if err := a.unchanged(&identity{}); err != nil {
		t.Errorf("without a manifest: %v", err)
	}
}
