package keybroker

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/ultravioletrs/cocos/attest"
	"github.com/ultravioletrs/cocos/keys"
	"github.com/ultravioletrs/cocos/manifest"
)

const (
	// maxAttests is how many attestations whose messages have come may be under way,
	// and maxAppraisals how many of them are appraised at once.
	maxAttests    = 64
	maxAppraisals = 4
	// appraisalTime is for one, its wait for a turn and what its verifier fetches
	// included: less than the minute that agents wait for an answer.
	appraisalTime = 30 * time.Second
)

// ServerConfig of NewServer. All but Now are required.
type ServerConfig struct {
	// URL is the broker's address as manifests have it: "https://HOST[:PORT][/PATH]".
	URL string
	// Owner is the owner's key, as manifests name the provider of a dataset.
	Owner keys.Public
	// Manifests that the owner approved. Each names this broker for a dataset of
	// the owner's, and for nobody else's.
	Manifests []manifest.Frozen
	// Verifier appraises by the owner's policy.
	Verifier attest.Verifier
	// Resources by REPOSITORY/TYPE/TAG: each that a manifest names, and no other.
	Resources map[string][]byte
	// Admit judges and remembers an instance whose evidence was accepted. An error
	// that is ErrSecondInstance refuses it; any other is the broker's own trouble.
	// Several may ask at once.
	Admit func(Instance) error
	// Record is told what is about to be released, and what was refused. What can't be
	// recorded is not released. Several may tell at once. It must not wait for long.
	Record func(Record) error
	// Now is the clock; nil: time.Now.
	Now func() time.Time
}

// ErrSecondInstance says that an instance is not the one of its manifest.
var ErrSecondInstance = errors.New("this is a second VM of the same manifest")

// Instance is a VM whose evidence was accepted.
type Instance struct {
	Manifest    manifest.Digest
	Computation string // the manifest's id
	Key         keys.Public
	TEE         attest.Type
	At          time.Time
}

// Events of a Record.
const (
	EventAccepted = "accepted" // evidence; resources may be asked for
	EventReleased = "released" // a resource
	EventRefused  = "refused"
)

// Record is what the broker did, for its owner. Text in it may be the client's.
type Record struct {
	At          time.Time   `json:"at"`
	Event       string      `json:"event"`
	Remote      string      `json:"remote"`
	Manifest    string      `json:"manifest_digest,omitzero"`
	Computation string      `json:"computation,omitzero"`
	Instance    string      `json:"instance,omitzero"`
	TEE         attest.Type `json:"tee,omitzero"`
	Simulated   bool        `json:"simulated,omitzero"`
	Resource    string      `json:"resource,omitzero"`
	// Reason and Detail of a refusal; Detail says more than the client is told.
	Reason string `json:"reason,omitzero"`
	Detail string `json:"detail,omitzero"`
}

// Server is an http.Handler for a broker's URL, and for the protocol's paths
// without the URL's own path, which a proxy may have taken off.
type Server struct {
	cfg      ServerConfig
	path     string // of the URL
	approved map[manifest.Digest]*approval
	tickets  *tickets
	sessions sessions
	signer   jose.Signer
	tokenKey jose.JSONWebKey

	attests    atomic.Int32
	appraisals chan struct{}
}

// approval is a manifest with what may be released for it.
type approval struct {
	manifest  *manifest.Frozen
	resources []string
}

// NewServer checks that the broker has what its manifests name.
func NewServer(cfg ServerConfig) (*Server, error) {
	u, err := url.Parse(cfg.URL)
	switch {
	case err != nil || u.Scheme != "https" || u.Host == "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil:
		return nil, fmt.Errorf("the broker's address %q is not https://HOST[:PORT][/PATH]", cfg.URL)
	case cfg.Owner.IsZero() || cfg.Verifier == nil || cfg.Admit == nil || cfg.Record == nil:
		return nil, errors.New("the broker's configuration is incomplete")
	case len(cfg.Manifests) == 0:
		return nil, errors.New("no manifest was approved, and nothing would be released")
	case cfg.Now == nil:
		cfg.Now = time.Now
	}
	s := &Server{
		cfg: cfg, path: strings.TrimRight(u.Path, "/"), approved: map[manifest.Digest]*approval{},
		tickets: newTickets(), appraisals: make(chan struct{}, maxAppraisals),
	}
	named := map[string]bool{}
	for i := range cfg.Manifests {
		a, err := s.approve(&cfg.Manifests[i])
		if err != nil {
			return nil, err
		}
		for _, r := range a.resources {
			named[r] = true
		}
		s.approved[a.manifest.Digest] = a
	}
	for name, r := range cfg.Resources {
		switch {
		case !named[name]:
			return nil, fmt.Errorf("no manifest names the resource %q at %s; they name %q", name, cfg.URL, sorted(named))
		case len(r) == 0 || len(r) > MaxResource:
			return nil, fmt.Errorf("the resource %q has %d bytes; expected 1 to %d", name, len(r), MaxResource)
		}
	}
	return s, s.makeTokenKey()
}

func sorted(names map[string]bool) []string {
	var all []string
	for n := range names {
		all = append(all, n)
	}
	slices.Sort(all)
	return all
}

func (s *Server) approve(m *manifest.Frozen) (*approval, error) {
	resources, err := releases(&m.Manifest, s.cfg.URL, s.cfg.Owner)
	switch {
	case err != nil:
		return nil, fmt.Errorf("the manifest %s (%s): %w", m.Digest, m.ID, err)
	case len(resources) == 0:
		return nil, fmt.Errorf("the manifest %s (%s) names no broker %s; its datasets name %q", m.Digest, m.ID, s.cfg.URL, brokers(&m.Manifest))
	case m.TEE == manifest.TEENone:
		return nil, fmt.Errorf("the manifest %s (%s) asks for no TEE: nothing could vouch for its VM", m.Digest, m.ID)
	}
	for _, r := range resources {
		if s.cfg.Resources[r] == nil {
			return nil, fmt.Errorf("the manifest %s (%s) names the resource %q, which is not given", m.Digest, m.ID, r)
		}
	}
	return &approval{m, resources}, nil
}

func brokers(m *manifest.Manifest) []string {
	named := map[string]bool{}
	for _, d := range m.Datasets {
		if d.Source.Broker != "" {
			named[d.Source.Broker] = true
		}
	}
	return sorted(named)
}

// makeTokenKey makes what signs the protocol's tokens, for this process.
func (s *Server) makeTokenKey() error {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("making a key for tokens: %w", err)
	}
	s.tokenKey = jose.JSONWebKey{Key: k.Public(), Algorithm: string(jose.ES256)}
	s.signer, err = jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: k}, new(jose.SignerOptions).WithType("JWT"))
	if err != nil {
		return fmt.Errorf("making a key for tokens: %w", err)
	}
	return nil
}

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	path := r.URL.Path
	if rest, ok := strings.CutPrefix(path, s.path); ok && strings.HasPrefix(rest, prefix+"/") {
		path = rest
	}
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	method, handle := http.MethodPost, s.auth
	switch {
	case path == authPath:
	case path == attestPath:
		handle = s.attest
	case strings.HasPrefix(path, resourcePath):
		method = http.MethodGet
		name := strings.TrimPrefix(path, resourcePath)
		handle = func(w http.ResponseWriter, r *http.Request, c *call) *refusal { return s.resource(w, r, c, name) }
	default:
		http.NotFound(w, r)
		return
	}
	c := &call{Record{At: s.cfg.Now().UTC(), Remote: r.RemoteAddr}}
	if r.Method != method {
		w.Header().Set("Allow", method)
		s.refuse(w, c, refuse(http.StatusMethodNotAllowed, typeRequest, "the method is %q; expected %s", r.Method, method))
		return
	}
	if no := handle(w, r, c); no != nil {
		s.refuse(w, c, no)
	}
}

// call is what is known of one while it is answered.
type call struct{ Record }

func (c *call) of(v Instance) {
	c.Manifest, c.Computation = v.Manifest.String(), v.Computation
	c.Instance, c.TEE, c.Simulated = v.Key.Fingerprint(), v.TEE, v.TEE == attest.Sim
}

// record wants the owner to know, or refuses.
func (s *Server) record(c *call, event string) *refusal {
	c.Event = event
	if err := s.cfg.Record(c.Record); err != nil {
		return refuse(http.StatusServiceUnavailable, typeInternal, "the broker can't record what it does").and(err)
	}
	return nil
}

// turn lets so many appraise at once.
func (s *Server) turn(ctx context.Context) (done func(), err error) {
	select {
	case s.appraisals <- struct{}{}:
		return func() { <-s.appraisals }, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}
