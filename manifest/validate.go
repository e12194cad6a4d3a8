package manifest

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/ultravioletrs/cocos/keys"
)

// Bounds of a manifest.
const (
	maxName        = 128
	maxTitle       = 256
	maxDescription = 4096
	maxDatasets    = 256
	maxKeys        = 256
	maxArgs        = 1024
	maxEnv         = 256
	maxArgBytes    = 64 << 10
	maxImageName   = 512
	// MaxInputSize bounds an input and every other size in bytes: 1 PiB, well
	// inside what a JSON number holds exactly.
	MaxInputSize = 1 << 50
	// MinCPUMilli and MaxCPUMilli bound a limit on processors: what the kernel
	// can give out by, and 1024 of them.
	MinCPUMilli = 10
	MaxCPUMilli = 1024 * 1000
)

var (
	// namePattern has no room for separators, NUL, "." and ".." or options.
	namePattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]*$`)
	envPattern  = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)
	// imagePattern has what references of images are made of.
	imagePattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._:/@+-]*$`)
)

// Fault is one thing wrong with a manifest.
type Fault struct {
	// Path is a JSON pointer (RFC 6901), such as "/datasets/0/sha256"; empty
	// for the manifest as a whole.
	Path string
	// Message continues the path: "has 3 characters; expected 64".
	Message string
}

func (f Fault) String() string {
	if f.Path == "" {
		return f.Message
	}
	return f.Path + " " + f.Message
}

// Faults is every fault found, as an error.
type Faults []Fault

func (f Faults) Error() string {
	s := make([]string, len(f))
	for i := range f {
		s[i] = f[i].String()
	}
	return "manifest: " + strings.Join(s, "; ")
}

// merge appends those of more whose paths have no fault yet: what could not be
// read is not missing as well.
func (f Faults) merge(more Faults) Faults {
	read := len(f)
	for _, m := range more {
		if !slices.ContainsFunc(f[:read], func(known Fault) bool { return known.Path == m.Path }) {
			f = append(f, m)
		}
	}
	return f
}

// Validate returns nil or Faults with everything that is wrong.
func (m *Manifest) Validate() error {
	if faults := m.validate(); len(faults) > 0 {
		return faults
	}
	return nil
}

func (m *Manifest) validate() Faults {
	var v validator
	if m.Version != Version {
		v.add("/version", "is %d; this software reads version %d", m.Version, Version)
	}
	v.name("/id", m.ID)
	v.text("/name", m.Name, 1, maxTitle, false)
	v.text("/description", m.Description, 0, maxDescription, true)
	if m.Nonce == (Nonce{}) {
		v.add("/nonce", "is missing or zero; use 32 random bytes")
	}
	if !slices.Contains(TEEs(), m.TEE) {
		v.add("/tee", "is %q; expected one of %q", m.TEE, TEEs())
	}
	if m.AttestedTLS && m.TEE == TEENone {
		v.add("/attested_tls", "is true, but /tee is %q: nothing could vouch for the VM", TEENone)
	}
	v.keys("/approvals", m.Approvals)
	v.algorithm(&m.Algorithm)
	v.datasets(m.Datasets)
	v.protected(m)
	if len(m.Consumers) == 0 {
		v.add("/consumers", "is empty: nobody could have the result")
	}
	v.keys("/consumers", m.Consumers)
	v.outputs(m)
	v.scratch(m)
	return v.faults
}

type validator struct{ faults Faults }

func (v *validator) add(path, format string, args ...any) {
	v.faults = append(v.faults, Fault{Path: path, Message: fmt.Sprintf(format, args...)})
}

func (v *validator) algorithm(a *Algorithm) {
	if !slices.Contains(AlgorithmTypes(), a.Type) {
		v.add("/algorithm/type", "is %q; expected one of %q", a.Type, AlgorithmTypes())
	}
	if len(a.Args) > maxArgs {
		v.add("/algorithm/args", "has %d entries; at most %d are allowed", len(a.Args), maxArgs)
	}
	for i, arg := range a.Args {
		v.argument(fmt.Sprintf("/algorithm/args/%d", i), arg)
	}
	if len(a.Env) > maxEnv {
		v.add("/algorithm/env", "has %d entries; at most %d are allowed", len(a.Env), maxEnv)
	}
	for _, name := range sortedNames(a.Env) {
		path := "/algorithm/env/" + escape(name)
		if !envPattern.MatchString(name) {
			v.add(path, "is not a variable's name: letters, digits and _ only")
		}
		v.argument(path, a.Env[name])
	}
	v.size("/algorithm/limits/memory_bytes", a.Limits.MemoryBytes, 0)
	v.size("/algorithm/limits/processes", a.Limits.Processes, 0)
	v.size("/algorithm/limits/seconds", a.Limits.Seconds, 0)
	v.size("/algorithm/limits/output_bytes", a.Limits.OutputBytes, 0)
	if n := a.Limits.CPUMilli; n != 0 && (n < MinCPUMilli || n > MaxCPUMilli) {
		v.add("/algorithm/limits/cpu_milli", "is %d; expected %d to %d thousandths of a processor", n, MinCPUMilli, MaxCPUMilli)
	}
	v.content("/algorithm", a.Content())
	v.size("/algorithm/size", a.Size, 1)
	v.key("/algorithm/provider", a.Provider)
	switch {
	case a.Type == Container:
		for _, f := range a.Image.Validate() {
			v.add("/algorithm/image"+f.Path, "%s", f.Message)
		}
	case a.Image != (Image{}):
		v.add("/algorithm/image", "is of algorithms of the type %q only", Container)
	}
	v.files(a)
}

// Validate returns everything that is wrong with an image, with paths from it on.
func (i Image) Validate() Faults {
	var v validator
	switch {
	case len(i.Name) > maxImageName:
		v.add("/name", "has %d characters; at most %d are allowed", len(i.Name), maxImageName)
	case i.Name != "" && !imagePattern.MatchString(i.Name):
		v.add("/name", "is %q; use a name that the archive has for the image, such as stats:1.0", i.Name)
	}
	if i.Config == (Digest{}) {
		v.add("/config", "is missing or zero; cocos-cli container prints the right one")
	}
	v.size("/unpacked_max", i.UnpackedMax, 1)
	return v.faults
}

func (v *validator) datasets(ds []Dataset) {
	if len(ds) > maxDatasets {
		v.add("/datasets", "has %d entries; at most %d are allowed", len(ds), maxDatasets)
	}
	seen := map[string]int{}
	for i, d := range ds {
		path := fmt.Sprintf("/datasets/%d", i)
		v.name(path+"/name", d.Name)
		if first, dup := seen[d.Name]; dup {
			v.add(path+"/name", "is %q, as is that of /datasets/%d", d.Name, first)
		} else {
			seen[d.Name] = i
		}
		v.key(path+"/provider", d.Provider)
		v.content(path, d.Content())
		v.size(path+"/size", d.Size, 0)
		v.size(path+"/unpacked_max", d.UnpackedMax, 0)
		if !d.Source.IsZero() {
			for _, f := range d.Source.Validate() {
				v.add(path+"/source"+f.Path, "%s", f.Message)
			}
		}
	}
}

func (v *validator) name(path, s string) {
	switch {
	case s == "":
		v.add(path, "is missing or empty")
	case len(s) > maxName:
		v.add(path, "has %d characters; at most %d are allowed", len(s), maxName)
	case !namePattern.MatchString(s):
		v.add(path, "is %q; use letters, digits, '.', '_' and '-', and begin with a letter or digit", s)
	}
}

func (v *validator) text(path, s string, minRunes, maxRunes int, lines bool) {
	n := utf8.RuneCountInString(s)
	switch {
	case !utf8.ValidString(s):
		v.add(path, "is not UTF-8")
	case n < minRunes:
		v.add(path, "is missing or empty")
	case n > maxRunes:
		v.add(path, "has %d characters; at most %d are allowed", n, maxRunes)
	case strings.ContainsFunc(s, func(r rune) bool {
		// Format characters could make one text look like another.
		return unicode.In(r, unicode.Cc, unicode.Cf) && !(lines && r == '\n')
	}):
		v.add(path, "has control or invisible characters")
	}
}

func (v *validator) argument(path, s string) {
	if len(s) > maxArgBytes {
		v.add(path, "has %d bytes; at most %d are allowed", len(s), maxArgBytes)
	}
	if strings.ContainsRune(s, 0) {
		v.add(path, "has a NUL byte")
	}
	if !utf8.ValidString(s) {
		v.add(path, "is not UTF-8")
	}
}

func (v *validator) size(path string, n, atLeast int64) {
	if n < atLeast || n > MaxInputSize {
		v.add(path, "is %d; expected %d to %d", n, atLeast, int64(MaxInputSize))
	}
}

func (v *validator) key(path string, k keys.Public) {
	if k.IsZero() {
		v.add(path, "is missing; expected a public key (base64 of its DER SubjectPublicKeyInfo)")
	}
}

func (v *validator) keys(path string, ks []keys.Public) {
	if len(ks) > maxKeys {
		v.add(path, "has %d entries; at most %d are allowed", len(ks), maxKeys)
	}
	for i, k := range ks {
		at := fmt.Sprintf("%s/%d", path, i)
		v.key(at, k)
		if j := slices.IndexFunc(ks[:i], k.Equal); j >= 0 {
			v.add(at, "is the same key as %s/%d", path, j)
		}
	}
}

func sortedNames(m map[string]string) []string {
	names := make([]string, 0, len(m))
	for n := range m {
		names = append(names, n)
	}
	slices.Sort(names)
	return names
}

// escape makes s one token of a JSON pointer (RFC 6901, section 3).
func escape(s string) string {
	return strings.NewReplacer("~", "~0", "/", "~1").Replace(s)
}
