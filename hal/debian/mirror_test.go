package debian

import (
	"os"
	"path/filepath"
	"testing"
)

func etcApt(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestFindMirror(t *testing.T) {
	for name, tc := range map[string]struct {
		env   string
		files map[string]string
		want  Mirror
	}{
		"deb822": {"", map[string]string{"sources.list.d/debian.sources": `# a comment
Types: deb deb-src
URIs: http://mirror.example/debian/
Suites: bookworm bookworm-updates
Components: main contrib
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 -----END PGP PUBLIC KEY BLOCK-----

Types: deb
URIs: https://mirror.example/debian-security
Suites: bookworm-security
Components: main
`}, Mirror{"http://mirror.example/debian", "https://mirror.example/debian-security"}},
		"one line": {"", map[string]string{"sources.list": `# deb http://off.example/debian trixie main
deb-src http://src.example/debian trixie main
deb [arch=amd64 signed-by=/usr/share/keyrings/x.gpg] http://mirror.example/debian trixie main non-free # end
deb http://sec.example/debian-security/ trixie-security main
`}, Mirror{"http://mirror.example/debian", "http://sec.example/debian-security"}},
		"third parties come first": {"", map[string]string{
			"sources.list.d/a.list":         "deb https://download.example/linux/debian bookworm stable\ndeb https://packages.example/prod bookworm main\n",
			"sources.list.d/debian.sources": "Types: deb\nURIs: http://mirror.example/debian\nSuites: bookworm\nComponents: main\n",
		}, Mirror{"http://mirror.example/debian", "http://mirror.example/debian-security"}},
		"disabled and other schemes": {"", map[string]string{
			"sources.list.d/a.sources": "Enabled: no\nTypes: deb\nURIs: http://off.example/debian\nSuites: trixie\nComponents: main\n",
			"sources.list":             "deb cdrom:[Debian]/ trixie main\ndeb file:/srv/debian trixie main\ndeb http://mirror.example/debian stable main\n",
		}, Mirror{"http://mirror.example/debian", "http://mirror.example/debian-security"}},
		"a dated archive": {"", map[string]string{
			"sources.list": "deb http://snap.example/archive/debian/20261101T000000Z trixie main\ndeb http://snap.example/archive/debian-security/20261101T000000Z trixie-security main\n",
		}, Mirror{"http://snap.example/archive/debian/20261101T000000Z", "http://snap.example/archive/debian-security/20261101T000000Z"}},
		"variable, one URL":  {"http://v.example/debian/", nil, Mirror{"http://v.example/debian", "http://v.example/debian-security"}},
		"variable, two URLs": {" https://v.example/a  https://v.example/b/ ", nil, Mirror{"https://v.example/a", "https://v.example/b"}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := FindMirror(func(string) string { return tc.env }, etcApt(t, tc.files))
			if err != nil || got != tc.want {
				t.Errorf("got %+v, %v; want %+v", got, err, tc.want)
			}
		})
	}
}

// Debian's cloud images name their mirrors in files.
func TestFindMirrorInFile(t *testing.T) {
	dir := etcApt(t, map[string]string{
		"mirrors/debian.list":   "# first\nhttps://mirror.example/debian\tpriority:1\nhttps://other.example/debian\n",
		"mirrors/security.list": "https://mirror.example/debian-security\n",
	})
	text := "Types: deb deb-src\nURIs: mirror+file://" + dir + "/mirrors/debian.list\nSuites: trixie trixie-updates\nComponents: main\n\n" +
		"Types: deb\nURIs: mirror+file:" + dir + "/mirrors/security.list\nSuites: trixie-security\nComponents: main\n\n" +
		"Types: deb\nURIs: mirror+file:/nonexistent\nSuites: trixie\nComponents: main\n"
	if err := os.MkdirAll(filepath.Join(dir, "sources.list.d"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "sources.list.d/debian.sources"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	want := Mirror{"https://mirror.example/debian", "https://mirror.example/debian-security"}
	if got, err := FindMirror(func(string) string { return "" }, dir); err != nil || got != want {
		t.Errorf("got %+v, %v; want %+v", got, err, want)
	}
}

func TestFindMirrorRefuses(t *testing.T) {
	for name, tc := range map[string]struct {
		env   string
		files map[string]string
	}{
		"no sources":     {"", nil},
		"another system": {"", map[string]string{"sources.list": "deb http://archive.example/ubuntu noble main\n"}},
		"only security":  {"", map[string]string{"sources.list": "deb http://m.example/debian-security trixie-security main\n"}},
		"broken line":    {"", map[string]string{"sources.list": "deb [arch=amd64 http://m.example/debian trixie main\ndebx\ndeb\n"}},
		"not a URL":      {"mirror.example/debian", nil},
		"another scheme": {"ftp://mirror.example/debian", nil},
		"no host":        {"http:///debian", nil},
		"three URLs":     {"http://a.example http://b.example http://c.example", nil},
		"a blank":        {" ", nil},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := FindMirror(func(string) string { return tc.env }, etcApt(t, tc.files))
			wantError(t, err, MirrorVariable)
		})
	}
}

func TestHostRelease(t *testing.T) {
	file := filepath.Join(t.TempDir(), "os-release")
	if err := os.WriteFile(file, []byte("NAME=\"Debian\"\nVERSION_CODENAME=bookworm\nID=\"debian\"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if id, code, err := HostRelease(file); id != "debian" || code != "bookworm" || err != nil {
		t.Errorf("got %q, %q, %v", id, code, err)
	}
	if id, _, err := HostRelease(file + "x"); id != "" || err != nil {
		t.Errorf("no file: %q, %v", id, err)
	}
}
