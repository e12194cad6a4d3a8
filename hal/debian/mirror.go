package debian

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// MirrorVariable names the environment variable that overrides the mirror:
// the URL of a Debian archive and, after a space, that of its security
// archive. When the second is left out it is the first with "-security" added
// to its last path element.
const MirrorVariable = "COCOS_DEBIAN_MIRROR"

// Mirror is where a Debian archive is served, without trailing slashes.
type Mirror struct {
	Archive  string // the main archive: release, updates, backports
	Security string // the security archive
}

// base returns the URL that the paths of an archive are relative to.
func (m Mirror) base(archive string) (string, error) {
	switch archive {
	case ArchiveMain:
		return m.Archive, nil
	case ArchiveSecurity:
		return m.Security, nil
	}
	return "", fmt.Errorf("archive %q: want %q or %q", archive, ArchiveMain, ArchiveSecurity)
}

// FindMirror takes the mirror from MirrorVariable when it is set, otherwise
// from the package sources under etcApt (usually /etc/apt): the one that the
// machine is known to reach.
func FindMirror(getenv func(string) string, etcApt string) (Mirror, error) {
	if v := getenv(MirrorVariable); v != "" {
		return parseMirror(v)
	}
	entries, err := readSources(etcApt)
	if err != nil {
		return Mirror{}, err
	}
	var m Mirror
	// Third parties also use Debian's suite names; a path that ends in
	// "debian" is tried before any other. Signatures decide in the end.
	for _, exact := range []bool{true, false} {
		for _, e := range entries {
			last := path.Base(strings.TrimRight(e.uri, "/"))
			switch {
			case !slices.Contains(e.components, "main"):
			case isSecuritySuite(e.suite):
				if m.Security == "" && (!exact || strings.HasPrefix(last, "debian")) {
					m.Security = strings.TrimRight(e.uri, "/")
				}
			case isDebianSuite(e.suite):
				if m.Archive == "" && (!exact || last == "debian") {
					m.Archive = strings.TrimRight(e.uri, "/")
				}
			}
		}
	}
	if m.Archive == "" {
		return Mirror{}, fmt.Errorf("no Debian mirror (http or https) in the package sources under %s: set %s to the URL of one", etcApt, MirrorVariable)
	}
	if m.Security == "" {
		m.Security = m.Archive + "-security"
	}
	return m, nil
}

func parseMirror(v string) (Mirror, error) {
	f := strings.Fields(v)
	if len(f) == 0 || len(f) > 2 {
		return Mirror{}, fmt.Errorf("%s=%q: want the URL of a Debian archive, and after a space, if it differs in more than \"-security\", that of its security archive", MirrorVariable, v)
	}
	for i, s := range f {
		u, err := url.Parse(s)
		if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" {
			return Mirror{}, fmt.Errorf("%s=%q: %q is not an http or https URL", MirrorVariable, v, s)
		}
		f[i] = strings.TrimRight(s, "/")
	}
	m := Mirror{Archive: f[0], Security: f[0] + "-security"}
	if len(f) == 2 {
		m.Security = f[1]
	}
	return m, nil
}

var suites = []string{"bookworm", "trixie", "forky", "duke", "sid", "oldstable", "stable", "testing", "unstable"}

func isDebianSuite(s string) bool {
	for _, suffix := range []string{"", "-updates", "-backports"} {
		if base, ok := strings.CutSuffix(s, suffix); ok && slices.Contains(suites, base) {
			return true
		}
	}
	return false
}

func isSecuritySuite(s string) bool {
	base, ok := strings.CutSuffix(s, "-security")
	return ok && slices.Contains(suites, base)
}

type source struct {
	uri, suite string
	components []string
}

// readSources reads both formats of package sources (sources.list(5)).
func readSources(etcApt string) ([]source, error) {
	files := []string{filepath.Join(etcApt, "sources.list")}
	for _, pattern := range []string{"*.sources", "*.list"} {
		more, err := filepath.Glob(filepath.Join(etcApt, "sources.list.d", pattern))
		if err != nil {
			return nil, err
		}
		files = append(files, more...)
	}
	var all []source
	for _, name := range files {
		b, err := os.ReadFile(name)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("reading package sources: %w", err)
		}
		if strings.HasSuffix(name, ".sources") {
			all = append(all, parseDeb822(string(b))...)
		} else {
			all = append(all, parseOneLine(string(b))...)
		}
	}
	return reachable(all), nil
}

// reachable keeps the sources that are served over http or https. Cloud images
// name a file with the URLs of mirrors instead (apt-transport-mirror(1)): its
// first one counts.
func reachable(all []source) []source {
	var out []source
	for _, s := range all {
		if file, ok := strings.CutPrefix(s.uri, "mirror+file:"); ok {
			b, err := os.ReadFile(path.Clean("/" + file))
			if err != nil {
				continue // apt could not use it either
			}
			for line := range strings.Lines(string(b)) {
				if f := strings.Fields(line); len(f) > 0 && isHTTP(f[0]) {
					s.uri = f[0]
					break
				}
			}
		}
		if isHTTP(s.uri) {
			out = append(out, s)
		}
	}
	return out
}

// parseOneLine reads lines "deb [options] URI suite component...".
func parseOneLine(text string) []source {
	var all []source
	for line := range strings.Lines(text) {
		line, _, _ = strings.Cut(line, "#")
		rest, ok := strings.CutPrefix(strings.TrimSpace(line), "deb")
		if !ok || rest == "" || !strings.ContainsAny(rest[:1], " \t[") {
			continue
		}
		rest = strings.TrimSpace(rest)
		if strings.HasPrefix(rest, "[") {
			_, rest, ok = strings.Cut(rest, "]")
			if !ok {
				continue
			}
		}
		if f := strings.Fields(rest); len(f) >= 3 {
			all = append(all, source{f[0], f[1], f[2:]})
		}
	}
	return all
}

func parseDeb822(text string) []source {
	var all []source
	for _, st := range stanzas(text) {
		if strings.EqualFold(strings.TrimSpace(st["enabled"]), "no") || !slices.Contains(strings.Fields(st["types"]), "deb") {
			continue
		}
		for _, uri := range strings.Fields(st["uris"]) {
			for _, suite := range strings.Fields(st["suites"]) {
				all = append(all, source{uri, suite, strings.Fields(st["components"])})
			}
		}
	}
	return all
}

func isHTTP(uri string) bool {
	return strings.HasPrefix(uri, "http://") || strings.HasPrefix(uri, "https://")
}

// stanzas splits a control file (deb822(5)) into its paragraphs; field names
// are in lower case, continuation lines are joined by newlines.
func stanzas(text string) []map[string]string {
	var all []map[string]string
	cur, field := map[string]string{}, ""
	flush := func() {
		if len(cur) > 0 {
			all = append(all, cur)
		}
		cur, field = map[string]string{}, ""
	}
	sc := bufio.NewScanner(strings.NewReader(text))
	sc.Buffer(nil, 1<<20)
	for sc.Scan() {
		line := sc.Text()
		switch {
		case strings.TrimSpace(line) == "":
			flush()
		case strings.HasPrefix(line, "#"):
		case line[0] == ' ' || line[0] == '\t':
			if field != "" {
				cur[field] += "\n" + strings.TrimSpace(line)
			}
		default:
			name, value, ok := strings.Cut(line, ":")
			if ok {
				field = strings.ToLower(name)
				cur[field] = strings.TrimSpace(value)
			}
		}
	}
	flush()
	return all
}
