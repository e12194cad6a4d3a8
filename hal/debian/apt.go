package debian

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/ultravioletrs/cocos/hal/progress"
)

// Keyring is where Debian systems keep the archive's public keys
// (package debian-archive-keyring).
const Keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"

// Apt runs the host's apt on one Debian release with private sources and
// state: nothing on the machine is changed and nothing of its own package
// sources is read. Its proxy settings do apply.
type Apt struct {
	Dir     string // private state, made when missing
	Release string // code name: "trixie"
	Suites  []string
	Mirror  Mirror
	Keyring string // file with the archive's public keys
	Log     *progress.Log
}

// Suites of a release: the release, its updates and, from the security
// archive, its security updates.
func Suites(release string) []string {
	return []string{release, release + "-updates", release + "-security"}
}

// NewApt returns an Apt for suites of release, with the state in dir.
func NewApt(dir, release string, suites []string, m Mirror, log *progress.Log) *Apt {
	return &Apt{Dir: dir, Release: release, Suites: suites, Mirror: m, Keyring: Keyring, Log: log}
}

// Update fetches the signed indexes. It fails when any of them is missing, not
// signed by a key of the keyring, or of another release.
func (a *Apt) Update(ctx context.Context) error {
	for _, tool := range []string{"apt-get", "apt-cache", "dpkg-deb"} {
		if _, err := exec.LookPath(tool); err != nil {
			return fmt.Errorf("%s is missing: packages are fetched and verified with apt and dpkg-deb; use Debian 12 or 13, or install both there", tool)
		}
	}
	if _, err := os.Stat(a.Keyring); err != nil {
		return fmt.Errorf("reading Debian's archive keyring: %w; install the package debian-archive-keyring", err)
	}
	if err := a.writeState(); err != nil {
		return fmt.Errorf("preparing apt's private state: %w", err)
	}
	if out, err := a.run(ctx, "apt-get", "update", "-q"); err != nil {
		// Indexes that failed verification must not be used by a later run.
		os.RemoveAll(filepath.Join(a.Dir, "lists"))
		return fmt.Errorf("fetching %s's signed indexes from %s: %w", a.Release, a.Mirror.Archive, explain(out, err))
	}
	_, err := a.Indexes()
	return err
}

// explain turns apt's messages into one error with what to do next.
func explain(out string, err error) error {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	var lines []string
	for line := range strings.Lines(out) {
		line = strings.TrimSpace(line)
		if (strings.HasPrefix(line, "E:") || strings.HasPrefix(line, "W:")) && !strings.Contains(line, "old ones used instead") {
			lines = append(lines, line)
		}
	}
	text := strings.Join(lines, "; ")
	if text == "" {
		text = strings.TrimSpace(out)
	}
	has := func(parts ...string) bool {
		return slices.ContainsFunc(parts, func(p string) bool { return strings.Contains(text, p) })
	}
	hint := "check the network, a proxy in apt's configuration, or set " + MirrorVariable
	switch {
	case has("not signed", "signature", "NO_PUBKEY", "/sqv"):
		hint = "the mirror's index is not signed by a key of Debian's archive keyring on this machine: update the package debian-archive-keyring, or use another mirror (" + MirrorVariable + ")"
	case has("Hash Sum mismatch", "unexpected size"):
		hint = "the mirror served a file that differs from what Debian signed: try again later, or use another mirror (" + MirrorVariable + ")"
	}
	return fmt.Errorf("%s; apt-get update ended with %w: %s", hint, err, text)
}

func (a *Apt) writeState() error {
	for _, d := range []string{"lists/partial", "cache/archives/partial", "empty", "state"} {
		if err := os.MkdirAll(filepath.Join(a.Dir, d), 0o755); err != nil {
			return err
		}
	}
	if strings.ContainsAny(a.Keyring, " \t\n") {
		return fmt.Errorf("keyring %q: apt takes no path with a blank", a.Keyring)
	}
	var b strings.Builder
	for _, suite := range a.Suites {
		uri := a.Mirror.Archive
		if strings.HasSuffix(suite, "-security") {
			uri = a.Mirror.Security
		}
		fmt.Fprintf(&b, "Types: deb\nURIs: %s\nSuites: %s\nComponents: main\nArchitectures: amd64\nTargets: Packages\nSigned-By: %s\n\n", uri, suite, a.Keyring)
	}
	if err := os.WriteFile(filepath.Join(a.Dir, "sources.sources"), []byte(b.String()), 0o644); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(a.Dir, "status"), nil, 0o644)
}

// options are apt's settings. They come on the command line, where they win
// over every file of the machine's configuration.
func (a *Apt) options() []string {
	set := [][2]string{
		{"Dir::Etc::SourceList", a.Dir + "/sources.sources"},
		{"Dir::Etc::SourceParts", a.Dir + "/empty"},
		{"Dir::Etc::Preferences", a.Dir + "/empty/none"},
		{"Dir::Etc::PreferencesParts", a.Dir + "/empty"},
		{"Dir::State", a.Dir + "/state"},
		{"Dir::State::Lists", a.Dir + "/lists"},
		{"Dir::State::Status", a.Dir + "/status"},
		{"Dir::Cache", a.Dir + "/cache"},
		{"APT::Architecture", "amd64"},
		{"APT::Sandbox::User", "root"},
		{"APT::Install-Recommends", "false"},
		{"APT::Install-Suggests", "false"},
		{"APT::Update::Error-Mode", "any"},
		{"APT::Get::AllowUnauthenticated", "false"},
		{"Acquire::AllowInsecureRepositories", "false"},
		{"Acquire::AllowWeakRepositories", "false"},
		{"Acquire::AllowDowngradeToInsecureRepositories", "false"},
		{"Acquire::Languages", "none"},
		{"Acquire::Retries", "3"},
		{"Acquire::http::Timeout", "30"},
		{"Acquire::https::Timeout", "30"},
		{"Debug::NoLocking", "true"},
	}
	var args []string
	for _, s := range set {
		args = append(args, "-o", s[0]+"="+s[1])
	}
	return args
}

// run returns what the command printed, errors included.
func (a *Apt) run(ctx context.Context, tool string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, tool, append(a.options(), args...)...)
	cmd.Env = append(os.Environ(), "LC_ALL=C", "DEBIAN_FRONTEND=noninteractive")
	var out bytes.Buffer
	w := io.MultiWriter(&out, &fetches{log: a.Log})
	cmd.Stdout, cmd.Stderr = w, w
	err := cmd.Run()
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	return out.String(), err
}

// fetches passes on the lines in which apt says what it fetches, and its size.
type fetches struct {
	log  *progress.Log
	rest []byte
}

func (f *fetches) Write(b []byte) (int, error) {
	f.rest = append(f.rest, b...)
	for {
		line, rest, ok := bytes.Cut(f.rest, []byte("\n"))
		if !ok {
			return len(b), nil
		}
		if bytes.HasPrefix(line, []byte("Get:")) {
			f.log.Printf("  %s", line)
		}
		f.rest = rest
	}
}

var fieldRE = regexp.MustCompile(`(?m)^(Codename|Date): (.*)$`)

// Indexes lists the signed indexes that are in use, and refuses one whose
// code name is not that of its suite.
func (a *Apt) Indexes() ([]Index, error) {
	var all []Index
	for _, suite := range a.Suites {
		names, err := filepath.Glob(filepath.Join(a.Dir, "lists", "*_dists_"+suite+"_InRelease"))
		if err != nil {
			return nil, err
		}
		if len(names) != 1 {
			return nil, fmt.Errorf("signed index of %s: found %d, want 1: remove %s and try again", suite, len(names), a.Dir)
		}
		b, err := os.ReadFile(names[0])
		if err != nil {
			return nil, fmt.Errorf("reading the signed index: %w", err)
		}
		fields := map[string]string{}
		for _, m := range fieldRE.FindAllStringSubmatch(string(b), -1) {
			fields[m[1]] = strings.TrimSpace(m[2])
		}
		if fields["Codename"] != suite {
			return nil, fmt.Errorf("signed index of %s: Codename is %q: the mirror serves another release there; use another mirror (%s)", suite, fields["Codename"], MirrorVariable)
		}
		sum := sha256.Sum256(b)
		all = append(all, Index{Suite: suite, Date: fields["Date"], SHA256: hex.EncodeToString(sum[:])})
	}
	return all, nil
}

var instRE = regexp.MustCompile(`(?m)^Inst (\S+) (?:\[[^\]]*\] )?\((\S+) `)

// Resolve returns the named packages and everything they depend on, as apt
// would install them on an empty system. target, when not empty, is the suite
// whose versions are preferred.
func (a *Apt) Resolve(ctx context.Context, target string, names ...string) ([]Package, error) {
	args := []string{"-s", "install", "--no-install-recommends"}
	if target != "" {
		args = append(args, "-t", target)
	}
	out, err := a.run(ctx, "apt-get", append(args, names...)...)
	if err != nil {
		return nil, fmt.Errorf("resolving %s in %s: %w: %s", strings.Join(names, ", "), a.Release, err, strings.TrimSpace(out))
	}
	want := map[string]string{}
	for _, m := range instRE.FindAllStringSubmatch(out, -1) {
		want[strings.TrimSuffix(m[1], ":amd64")] = m[2]
	}
	if len(want) == 0 {
		return nil, fmt.Errorf("resolving %s in %s: apt names no package: %s", strings.Join(names, ", "), a.Release, strings.TrimSpace(out))
	}
	listed, err := a.show(ctx, keys(want)...)
	if err != nil {
		return nil, err
	}
	var all []Package
	for _, p := range listed {
		if want[p.Name] == p.Version {
			all = append(all, p.Package)
			delete(want, p.Name)
		}
	}
	if len(want) > 0 {
		return nil, fmt.Errorf("resolving: the indexes describe no %s", strings.Join(keys(want), ", "))
	}
	return all, nil
}

// DependsOn returns the first package that the newest version of name depends
// on: for a meta package, the real one.
func (a *Apt) DependsOn(ctx context.Context, name string) (Package, error) {
	all, err := a.Resolve(ctx, "", name)
	if err != nil {
		return Package{}, err
	}
	i := slices.IndexFunc(all, func(p Package) bool { return p.Name == name })
	if i < 0 {
		return Package{}, fmt.Errorf("resolving %s: not among its own packages", name)
	}
	listed, err := a.show(ctx, name)
	if err != nil {
		return Package{}, err
	}
	for _, l := range listed {
		if l.Version != all[i].Version {
			continue
		}
		dep, _, _ := strings.Cut(strings.TrimSpace(l.depends), " ")
		for _, p := range all {
			if p.Name == dep {
				return p, nil
			}
		}
	}
	return Package{}, fmt.Errorf("resolving %s: it depends on no package", name)
}

// Verify refuses any package that the signed indexes don't list with exactly
// the digest and size it names.
func (a *Apt) Verify(ctx context.Context, pkgs []Package) error {
	var names []string
	for _, p := range pkgs {
		names = append(names, p.Name)
	}
	listed, err := a.show(ctx, names...)
	if err != nil {
		return err
	}
	var gone []string
	for _, p := range pkgs {
		ok := false
		for _, l := range listed {
			if l.Name != p.Name || l.Version != p.Version || l.Arch != p.Arch {
				continue
			}
			if l.SHA256 != p.SHA256 || l.Size != p.Size {
				return fmt.Errorf("package %s: the lock file names sha256 %s and %d bytes, Debian's signed index %s and %d: the lock file was changed by someone, or is broken; `make hal-update` writes a new one", p, p.SHA256, p.Size, l.SHA256, l.Size)
			}
			ok = true
		}
		if !ok {
			gone = append(gone, p.String())
		}
	}
	if len(gone) > 0 {
		return fmt.Errorf("the mirror's indexes, as Debian signed them, no longer list %s: run `make hal-update` to take the current versions, or point %s at an archive that keeps old ones", strings.Join(gone, ", "), MirrorVariable)
	}
	return nil
}

type listed struct {
	Package
	depends string
}

// show returns every version of the named packages that the indexes list. A
// name that no index has is left out.
func (a *Apt) show(ctx context.Context, names ...string) ([]listed, error) {
	out, err := a.run(ctx, "apt-cache", append([]string{"show", "--all-versions"}, names...)...)
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return nil, fmt.Errorf("running apt-cache: %w", err)
	}
	var all []listed
	for _, st := range stanzas(out) {
		if st["package"] == "" || st["filename"] == "" {
			continue
		}
		size, err := strconv.ParseInt(st["size"], 10, 64)
		if err != nil {
			return nil, fmt.Errorf("index entry of %s: size %q", st["package"], st["size"])
		}
		p := Package{
			Name: st["package"], Version: st["version"], Arch: st["architecture"],
			Archive: ArchiveMain, Path: st["filename"], Size: size, SHA256: st["sha256"],
		}
		// The security archive's pool says so in its paths.
		if strings.HasPrefix(p.Path, "pool/updates/") {
			p.Archive = ArchiveSecurity
		}
		if err := p.validate(); err != nil {
			return nil, fmt.Errorf("index entry of %s: %w", p.Name, err)
		}
		all = append(all, listed{p, st["depends"]})
	}
	// The main archive first: it keeps its versions longer.
	slices.SortStableFunc(all, func(x, y listed) int {
		return strings.Compare(x.Name+"\x00"+x.Archive, y.Name+"\x00"+y.Archive)
	})
	return all, nil
}

func keys(m map[string]string) []string {
	var out []string
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

// HostRelease reads the code name and the distribution's id of os-release(5).
func HostRelease(file string) (id, codename string, err error) {
	b, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return "", "", nil
	}
	if err != nil {
		return "", "", fmt.Errorf("reading the host's release: %w", err)
	}
	for line := range strings.Lines(string(b)) {
		k, v, _ := strings.Cut(strings.TrimSpace(line), "=")
		v = strings.Trim(v, `"'`)
		switch k {
		case "ID":
			id = v
		case "VERSION_CODENAME":
			codename = v
		}
	}
	return id, codename, nil
}
