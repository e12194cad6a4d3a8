package collateral

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/ultravioletrs/cocos/attest"
)

// Where the vendors' services are.
const (
	AMDService   = "https://kdsintf.amd.com"
	IntelService = "https://api.trustedservices.intel.com"
	// IntelRootCRL is what the list of Intel's root says of where it is.
	IntelRootCRL = "https://certificates.trustedservices.intel.com/IntelSGXRootCA.der"
)

// pathRootCRL is where a caching service has that list.
const pathRootCRL = "/sgx/certification/v4/rootcacrl"

// Bounds of a request.
const (
	requestTimeout = 30 * time.Second
	maxAge         = 24 * time.Hour   // of an answer, before its service is asked anew
	amdInterval    = 10 * time.Second // AMD answers about one request in that time
	maxWait        = 60 * time.Second // that a service may ask for
	attempts       = 3
)

// FetchConfig says where to fetch from and where to keep it.
type FetchConfig struct {
	// Dir is the cache; made if it is not there. It must be given.
	Dir string
	// AMD and Intel are the services' addresses, scheme and host; empty: AMDService
	// and IntelService. Another Intel is a caching service (PCCS) with the same API.
	AMD, Intel string
	// Client makes the requests; nil: one with the system's roots.
	Client *http.Client
	// Now and Sleep are the clock; nil: the system's.
	Now   func() time.Time
	Sleep func(context.Context, time.Duration) error
}

// Fetch is a source that asks the vendors' services, and keeps what they say in
// a cache directory. It may be used by several goroutines at once, and the
// directory by several processes.
func Fetch(c FetchConfig) attest.EndorsementSource {
	f := &fetcher{FetchConfig: c, dir: directory(c.Dir)}
	if f.AMD == "" {
		f.AMD = AMDService
	}
	rootCRL := strings.TrimSuffix(f.Intel, "/") + pathRootCRL
	if f.Intel == "" || f.Intel == IntelService {
		f.Intel, rootCRL = IntelService, IntelRootCRL
	}
	if f.Client == nil {
		f.Client = &http.Client{CheckRedirect: func(to *http.Request, via []*http.Request) error {
			if len(via) > 3 {
				return errors.New("redirected more than three times")
			}
			return checkAddress(to.URL.String())
		}}
	}
	if f.Now == nil {
		f.Now = time.Now
	}
	if f.Sleep == nil {
		f.Sleep = sleep
	}
	for s, address := range [services]string{serviceAMD: f.AMD, serviceIntel: f.Intel, serviceIntelRoot: rootCRL} {
		f.at[s] = remote{address: strings.TrimSuffix(address, "/"), turn: make(chan struct{}, 1)}
	}
	f.at[serviceAMD].interval, f.at[serviceAMD].stamp = amdInterval, ".asked-amd"
	return f
}

// Places lists where the vendors' own services have what appraising e may need;
// empty if its vendor can't be asked.
func Places(e attest.Evidence) []string {
	items, err := wanted(e)
	if err != nil {
		return nil
	}
	var places []string
	for _, it := range items {
		address := [services]string{serviceAMD: AMDService, serviceIntel: IntelService, serviceIntelRoot: IntelRootCRL}[it.from]
		places = append(places, address+it.path)
	}
	return places
}

// remote is a service, and when it may be asked. Whoever holds its turn asks.
type remote struct {
	address  string
	interval time.Duration
	stamp    string // a file of the cache whose time is that of the last request
	turn     chan struct{}
	next     time.Time // no request before
}

type fetcher struct {
	FetchConfig
	dir directory
	at  [services]remote
}

// Endorse implements attest.EndorsementSource.
func (f *fetcher) Endorse(ctx context.Context, e attest.Evidence) (attest.Endorsements, error) {
	if f.Dir == "" {
		return attest.Endorsements{}, errors.New("fetching endorsements: no cache directory is given, without which vendors' rates can't be kept")
	}
	items, err := wanted(e)
	if err != nil {
		return attest.Endorsements{}, fmt.Errorf("fetching endorsements: %w", err)
	}
	var all attest.Endorsements
	var problems []error
	for _, it := range items {
		got, err := f.get(ctx, it)
		if err != nil {
			problems = append(problems, fmt.Errorf("fetching %s: %w", it.what, err))
		}
		if got != nil {
			all = all.With(got.Endorsements)
		}
	}
	return all, errors.Join(problems...)
}

// get returns what the cache has, if that is fresh, and else asks. If asking
// fails, an older entry that is still good is returned beside the error.
func (f *fetcher) get(ctx context.Context, it item) (*entry, error) {
	if got := f.cached(it); got != nil && f.fresh(it, got) {
		return got, nil
	}
	r := &f.at[it.from]
	select {
	case r.turn <- struct{}{}:
		defer func() { <-r.turn }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	old := f.cached(it) // perhaps somebody else asked meanwhile
	if old != nil && f.fresh(it, old) {
		return old, nil
	}
	got, err := f.ask(ctx, it, r)
	if err != nil && old != nil && f.Now().Before(old.until) {
		return old, err
	}
	return got, err
}

// cached reads the cache. A damaged file is as none: its place is taken by what
// is fetched.
func (f *fetcher) cached(it item) *entry {
	for ; ; it = *it.or {
		if got, err := f.dir.read(it); err == nil && got != nil {
			return got
		}
		if it.or == nil {
			return nil
		}
	}
}

func (f *fetcher) fresh(it item, e *entry) bool {
	now := f.Now()
	if !e.until.IsZero() && !now.Before(e.until) {
		return false
	}
	age := now.Sub(e.written)
	return it.forever || age >= 0 && age < maxAge
}

// ask has the turn.
func (f *fetcher) ask(ctx context.Context, it item, r *remote) (*entry, error) {
	body, header, err := f.request(ctx, r, r.address+it.path)
	if errors.Is(err, errNotThere) && it.or != nil {
		return f.ask(ctx, *it.or, r)
	}
	if err != nil {
		return nil, err
	}
	b := body
	if it.wrap != nil {
		if b, err = it.wrap(body, header); err != nil {
			return nil, fmt.Errorf("the answer of %s: %w", r.address, err)
		}
	}
	e, err := it.open(b)
	if err != nil {
		return nil, fmt.Errorf("the answer of %s: %w", r.address, err)
	}
	now := f.Now()
	got := &entry{Endorsements: e, written: now, until: until(e)}
	if err := f.dir.write(it, b, now); err != nil {
		return got, fmt.Errorf("keeping it in the cache: %w", err)
	}
	return got, nil
}

var errNotThere = errors.New("the service does not have it")

// request asks until there is an answer, as often and as fast as it may.
func (f *fetcher) request(ctx context.Context, r *remote, address string) ([]byte, http.Header, error) {
	if err := checkAddress(address); err != nil {
		return nil, nil, err
	}
	for attempt := 1; ; attempt++ {
		if err := f.wait(ctx, r); err != nil {
			return nil, nil, err
		}
		body, header, later, err := f.once(ctx, address)
		r.next = f.Now().Add(max(r.interval, min(later, maxWait)))
		f.leaveStamp(r)
		switch {
		case later == 0:
			return body, header, err
		case later > maxWait:
			return nil, nil, fmt.Errorf("%w; it asks to be left alone for %s", err, later)
		case attempt == attempts:
			return nil, nil, err
		}
	}
}

// once makes one request. later is how long the service wants to be left alone;
// zero: it answered.
func (f *fetcher) once(ctx context.Context, address string) (body []byte, h http.Header, later time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, nil, 0, err
	}
	answer, err := f.Client.Do(request)
	if err != nil {
		return nil, nil, 0, err
	}
	defer answer.Body.Close()
	body, err = io.ReadAll(io.LimitReader(answer.Body, maxFile+1))
	switch code := answer.StatusCode; {
	case code == http.StatusTooManyRequests || code == http.StatusServiceUnavailable && answer.Header.Get("Retry-After") != "":
		return nil, nil, f.retryAfter(answer.Header), fmt.Errorf("%s answers %s", address, answer.Status)
	case code == http.StatusNotFound:
		return nil, nil, 0, fmt.Errorf("%s: %w", address, errNotThere)
	case code != http.StatusOK:
		return nil, nil, 0, fmt.Errorf("%s answers %s", address, answer.Status)
	case err != nil:
		return nil, nil, 0, fmt.Errorf("%s: %w", address, err)
	case len(body) > maxFile:
		return nil, nil, 0, fmt.Errorf("%s: the answer has more than %d bytes", address, maxFile)
	}
	return body, answer.Header, 0, nil
}

// checkAddress lets nobody in between choose what is fetched: not that it could
// be believed, but an old answer is a good one, too.
func checkAddress(address string) error {
	u, err := url.Parse(address)
	if err != nil {
		return err
	}
	ip := net.ParseIP(u.Hostname())
	if u.Scheme == "https" || u.Scheme == "http" && (u.Hostname() == "localhost" || ip != nil && ip.IsLoopback()) {
		return nil
	}
	return fmt.Errorf("%s is neither https nor on this machine", address)
}
