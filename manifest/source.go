package manifest

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"
)

// Source is where the agent itself takes a dataset from, in place of an upload.
// What comes from there counts only with the dataset's size and digest, which are
// those of the content after decryption.
type Source struct {
	// URL is one of
	//
	//	https://HOST[:PORT]/PATH[?QUERY]       or http://
	//	s3://BUCKET/KEY                        at Endpoint
	//	oci://HOST[:PORT]/REPOSITORY@sha256:…  or oci+http://, an image of one layer
	URL string `json:"url"`
	// Endpoint of an S3-compatible server, "https://HOST[:PORT]" or http://; with
	// s3:// only. Region is the server's name of it and may be empty.
	Endpoint string `json:"endpoint,omitzero"`
	Region   string `json:"region,omitzero"`
	// Encryption by the dataset's owner; empty: what is there is the content itself.
	Encryption Encryption `json:"encryption,omitzero"`
	// Broker is the owner's key broker, "https://HOST[:PORT][/PATH]", and Resource
	// what it has there, "REPOSITORY/TYPE/TAG". Both empty: what it takes to have
	// and read the content, if anything, comes from the owner's client.
	Broker   string `json:"broker,omitzero"`
	Resource string `json:"resource,omitzero"`
	// Redirects are other servers, HOST:PORT, that those of URL and Endpoint may
	// send the agent to; it goes to no others.
	Redirects []string `json:"redirects,omitzero"`
	// Authorities are certificates in PEM that alone vouch for all these servers;
	// empty: the public ones do.
	Authorities string `json:"authorities,omitzero"`
}

// Encryption of a dataset at its source.
type Encryption string

// The kinds of encryption.
const (
	// Age is a file of age (age-encryption.org/v1).
	Age Encryption = "age"
	// OCICrypt is an encrypted layer of an image, its key wrapped as JWE; oci:// only.
	OCICrypt Encryption = "ocicrypt"
)

// Encryptions lists them in the order in which texts show them.
func Encryptions() []Encryption { return []Encryption{Age, OCICrypt} }

// Bounds of a source.
const (
	maxURL         = 2048
	maxRedirects   = 16
	maxAuthorities = 64 << 10
)

var (
	bucketPattern   = regexp.MustCompile(`^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$`)
	resourcePattern = regexp.MustCompile(`^[A-Za-z0-9_.-]{1,128}/[A-Za-z0-9_.-]{1,128}/[A-Za-z0-9_.-]{1,128}$`)
	ociPattern      = regexp.MustCompile(`^/[a-z0-9]+(?:[._/-]+[a-z0-9]+)*@sha256:[0-9a-f]{64}$`)
	regionPattern   = regexp.MustCompile(`^[A-Za-z0-9-]{0,64}$`)
)

// IsZero tells whether there is no source: the dataset is uploaded.
func (s Source) IsZero() bool {
	return s.URL == "" && s.Endpoint == "" && s.Region == "" && s.Encryption == "" && s.Broker == "" &&
		s.Resource == "" && len(s.Redirects) == 0 && s.Authorities == ""
}

// Servers are all that the source may be had from, and its broker, as HOST:PORT.
// The source must be valid.
func (s Source) Servers() []string {
	servers := slices.Clone(s.Redirects)
	for _, text := range []string{s.URL, s.Endpoint, s.Broker} {
		if u, err := url.Parse(text); err == nil && u.Scheme != "s3" && u.Host != "" {
			servers = append(servers, ServerOf(u))
		}
	}
	slices.Sort(servers)
	return slices.Compact(servers)
}

// Servers are all that the agent may connect to, as HOST:PORT, sorted.
func (m *Manifest) Servers() []string {
	var servers []string
	for _, d := range m.Datasets {
		servers = append(servers, d.Source.Servers()...)
	}
	slices.Sort(servers)
	return slices.Compact(servers)
}

// ServerOf is where a URL leads, as HOST:PORT, with the port of its scheme if it names
// none: 80 for http and oci+http, otherwise 443.
func ServerOf(u *url.URL) string {
	port := u.Port()
	if port == "" {
		port = "443"
		if strings.HasSuffix(u.Scheme, "http") {
			port = "80"
		}
	}
	return net.JoinHostPort(strings.ToLower(u.Hostname()), port)
}

// InClear tells whether the host, and everyone on the way, reads what comes: over
// plain http, and not encrypted.
func (s Source) InClear() bool {
	return s.Encryption == "" && (clearScheme(s.URL) || clearScheme(s.Endpoint))
}

func clearScheme(text string) bool {
	scheme, _, ok := strings.Cut(text, "://")
	return ok && strings.HasSuffix(strings.ToLower(scheme), "http")
}

// protected holds sources to how the computation is protected.
func (v *validator) protected(m *Manifest) {
	for i, d := range m.Datasets {
		path := fmt.Sprintf("/datasets/%d/source", i)
		if m.TEE == TEENone && d.Source.Broker != "" {
			v.add(path+"/broker", "is a key broker, and /tee is %q: nothing could vouch for the VM, and a broker releases nothing to it; leave it out with /resource, or choose a TEE", TEENone)
		}
		if m.AttestedTLS && d.Source.InClear() {
			at := "/url"
			if clearScheme(d.Source.Endpoint) {
				at = "/endpoint"
			}
			v.add(path+at, "is plain http without encryption, which the host reads, and /attested_tls is true; use https, or encrypt the dataset")
		}
	}
}

// Validate returns everything that is wrong with a source, with paths from it on.
func (s Source) Validate() Faults {
	var v validator
	u := v.url("/url", s.URL, "https", "http", "s3", "oci", "oci+http")
	scheme := ""
	if u != nil {
		scheme = u.Scheme
	}
	switch {
	case u == nil:
	case scheme == "s3":
		if !bucketPattern.MatchString(u.Host) || len(u.Path) < 2 || u.RawQuery != "" {
			v.add("/url", "is %q; expected s3://BUCKET/KEY", s.URL)
		}
	case strings.HasPrefix(scheme, "oci"):
		if !ociPattern.MatchString(u.Path) || u.RawQuery != "" {
			v.add("/url", "is %q; expected %s://HOST/REPOSITORY@sha256:… (a tag names no content)", s.URL, scheme)
		}
	}
	switch {
	case u != nil && scheme != "s3" && s.Endpoint != "":
		v.add("/endpoint", "is of s3:// only")
	case scheme == "s3" || s.Endpoint != "":
		if e := v.url("/endpoint", s.Endpoint, "https", "http"); e != nil && (strings.Trim(e.Path, "/") != "" || e.RawQuery != "") {
			v.add("/endpoint", "is %q; expected https://HOST[:PORT] alone", s.Endpoint)
		}
	}
	switch {
	case s.Region != "" && u != nil && scheme != "s3":
		v.add("/region", "is of s3:// only")
	case !regionPattern.MatchString(s.Region):
		v.add("/region", "is %q; use letters, digits and '-'", s.Region)
	}
	switch {
	case s.Encryption != "" && !slices.Contains(Encryptions(), s.Encryption):
		v.add("/encryption", "is %q; expected one of %q, or leave it out", s.Encryption, Encryptions())
	case s.Encryption == OCICrypt && u != nil && !strings.HasPrefix(scheme, "oci"):
		v.add("/encryption", "is %q, which only layers of images have (oci://)", s.Encryption)
	}
	v.broker(s)
	v.servers(s)
	return v.faults
}

func (v *validator) broker(s Source) {
	switch {
	case s.Broker == "" && s.Resource == "":
		return
	case s.Broker == "":
		v.add("/broker", "is missing beside /resource")
	default:
		if u := v.url("/broker", s.Broker, "https"); u != nil && u.RawQuery != "" {
			v.add("/broker", "has a query; expected https://HOST[:PORT][/PATH]")
		}
	}
	if !resourcePattern.MatchString(s.Resource) {
		v.add("/resource", "is %q; expected REPOSITORY/TYPE/TAG, such as default/key/hospital-a", s.Resource)
	}
}

func (v *validator) servers(s Source) {
	if len(s.Redirects) > maxRedirects {
		v.add("/redirects", "has %d entries; at most %d are allowed", len(s.Redirects), maxRedirects)
	}
	for i, r := range s.Redirects {
		host, port, err := net.SplitHostPort(r)
		n, portErr := strconv.ParseUint(port, 10, 16)
		if !ascii(host) {
			v.add(fmt.Sprintf("/redirects/%d", i), "is %q; write the host in ASCII, as punycode (xn--…)", r)
		} else if err != nil || portErr != nil || n == 0 || host == "" || strings.ToLower(host) != host || strings.ContainsAny(host, "/@?# %") {
			v.add(fmt.Sprintf("/redirects/%d", i), "is %q; expected HOST:PORT in lower case", r)
		}
	}
	if len(s.Authorities) > maxAuthorities {
		v.add("/authorities", "has %d bytes; at most %d are allowed", len(s.Authorities), maxAuthorities)
		return
	}
	for rest, n := []byte(s.Authorities), 0; len(rest) > 0; n++ {
		var block *pem.Block
		block, rest = pem.Decode(rest)
		if block == nil {
			if n == 0 || strings.TrimSpace(string(rest)) != "" {
				v.add("/authorities", "is not made of certificates in PEM")
			}
			return
		}
		if _, err := x509.ParseCertificate(block.Bytes); err != nil || block.Type != "CERTIFICATE" {
			v.add("/authorities", "has a block %d that is no certificate", n)
			return
		}
	}
}

// url returns nil after a fault.
func (v *validator) url(path, text string, schemes ...string) *url.URL {
	if text == "" {
		v.add(path, "is missing or empty")
		return nil
	}
	u, err := url.Parse(text)
	switch {
	case len(text) > maxURL:
		v.add(path, "has %d characters; at most %d are allowed", len(text), maxURL)
	case err != nil || !slices.Contains(schemes, u.Scheme) || u.Hostname() == "" || u.Opaque != "" || !goodPort(u):
		v.add(path, "is %.200q; expected a URL that begins with one of %q and names a host", text, schemes)
	case !ascii(u.Host):
		// Whoever connects writes it in ASCII, and it would be another server than this.
		v.add(path, "names the host %q; write it in ASCII, as punycode (xn--…)", u.Hostname())
	case u.User != nil:
		v.add(path, "has a user name or password, which everybody could read: they belong with the key")
	case u.Fragment != "" || strings.HasSuffix(text, "#"):
		v.add(path, "has a fragment (#…), which is never sent")
	default:
		return u
	}
	return nil
}

func ascii(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r > unicode.MaxASCII })
}

func goodPort(u *url.URL) bool {
	n, err := strconv.ParseUint(u.Port(), 10, 16)
	return u.Port() == "" && !strings.HasSuffix(u.Host, ":") || err == nil && n > 0
}
