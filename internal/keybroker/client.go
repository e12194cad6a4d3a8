package keybroker

import (
	"bytes"
	"context"
	"crypto/sha512"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/ultravioletrs/cocos/atls"
	"github.com/ultravioletrs/cocos/attest"
	"github.com/ultravioletrs/cocos/manifest"
)

// Query is one resource of one broker. All of it is required.
type Query struct {
	// Client makes the connections: to this broker alone, and knowing what vouches
	// for it. Its cookies and its rule for redirects are not used.
	Client *http.Client
	// Broker is the address as the manifest has it, Resource what it has there.
	Broker, Resource string
	// Manifest is the digest that this VM enforces, and TEE what it runs in.
	Manifest manifest.Digest
	TEE      attest.Type
	// Prove gives evidence: the ForBroker of an atls.Prover.
	Prove func(ctx context.Context, broker string, data [sha512.Size]byte) (atls.BrokerEvidence, error)
}

// Problem is why a broker gave nothing, in words for the resource's owner.
type Problem struct {
	Text string
	// Passing: it may be gone when one asks again. What is not is the broker's own
	// decision, or an answer that is none.
	Passing bool
	cause   error
}

func (p *Problem) Error() string { return p.Text }

// Unwrap leads to the error of a context that ended.
func (p *Problem) Unwrap() error { return p.cause }

func lasting(format string, args ...any) *Problem {
	return &Problem{Text: fmt.Sprintf(format, args...)}
}

func passing(format string, args ...any) *Problem {
	return &Problem{Text: fmt.Sprintf(format, args...), Passing: true}
}

// askTime is for all of it, with the evidence and the wait for a busy broker.
const askTime = 3 * time.Minute

// Ask proves this VM to the broker and returns the resource. Its errors are
// Problems. It takes 3 minutes at most; that these are over may pass.
func Ask(ctx context.Context, q Query) ([]byte, error) {
	base, err := url.Parse(q.Broker)
	tee := teeNames[q.TEE]
	switch {
	case err != nil || base.Host == "":
		return nil, lasting("the broker's address %.200q is none", q.Broker)
	case base.Scheme != "https":
		return nil, lasting("the broker's address begins with %.20q; the agent asks over https alone", base.Scheme)
	case tee == "":
		return nil, lasting("this VM is not in a TEE, and a broker releases keys to attested VMs alone: give what it takes by hand (cocos-cli data provide)")
	}
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	c := &client{query: q, base: strings.TrimRight(q.Broker, "/"), http: *q.Client}
	c.http.Jar = nil
	c.http.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	nonce, err := c.auth(ctx, tee)
	if err != nil {
		return nil, err
	}
	key, err := c.attest(ctx, nonce)
	if err != nil {
		return nil, err
	}
	sealed, err := c.call(ctx, http.MethodGet, resourcePath+q.Resource, nil, maxSealed)
	if err != nil {
		return nil, err
	}
	resource, err := key.open(sealed)
	switch {
	case err != nil:
		return nil, lasting("the broker's answer can't be read: %v", err)
	case len(resource) > MaxResource:
		return nil, lasting("the broker's resource has %d bytes; at most %d are taken", len(resource), MaxResource)
	}
	return resource, nil
}

// client is one session with a broker.
type client struct {
	query  Query
	base   string
	http   http.Client
	cookie *http.Cookie
}

// auth returns the broker's nonce, and keeps its session.
func (c *client) auth(ctx context.Context, tee string) (nonce string, err error) {
	b, err := c.call(ctx, http.MethodPost, authPath, request{Version: Version, TEE: tee, ExtraParams: jsontext.Value(`""`)}, maxAuth)
	if err != nil {
		return "", err
	}
	var ch challenge
	switch err := json.Unmarshal(b, &ch); {
	case err != nil:
		return "", lasting("the broker's challenge is not JSON of the protocol's form")
	case ch.Nonce == "" || len(ch.Nonce) > maxNonce:
		return "", lasting("the broker's challenge has a nonce of %d bytes; expected 1 to %d", len(ch.Nonce), maxNonce)
	case c.cookie == nil:
		return "", lasting("the broker's challenge comes without the cookie %s", sessionCookie)
	}
	return ch.Nonce, nil
}

// attest shows evidence and returns the key that it binds.
func (c *client) attest(ctx context.Context, nonce string) (sealKey, error) {
	key, err := newSealKey()
	if err != nil {
		return key, lasting("%v", err)
	}
	public, err := key.public()
	if err != nil {
		return key, lasting("%v", err)
	}
	data, err := json.Marshal(runtimeData{nonce, public})
	if err != nil {
		return key, lasting("writing the runtime data: %v", err)
	}
	sum, err := digest(data)
	if err != nil {
		return key, lasting("%v", err)
	}
	e, err := c.query.Prove(ctx, c.query.Broker, sum)
	if err != nil {
		p := passing("this VM's TEE gave no evidence for the broker: %v", err)
		p.cause = ctx.Err()
		return key, p
	}
	_, err = c.call(ctx, http.MethodPost, attestPath, attestation{
		RuntimeData: data,
		TEEEvidence: teeEvidence{Primary: primaryEvidence{evidenceFormat, c.query.Manifest, e}},
	}, maxToken)
	return key, err
}

// call sends a message and returns the answer's body, of at most limit bytes.
func (c *client) call(ctx context.Context, method, path string, message any, limit int64) ([]byte, error) {
	var body io.Reader
	if message != nil {
		b, err := json.Marshal(message)
		if err != nil {
			return nil, lasting("writing a message to the broker: %v", err)
		}
		body = bytes.NewReader(b)
	}
	r, err := http.NewRequestWithContext(ctx, method, c.base+path, body)
	if err != nil {
		return nil, lasting("the broker's address %.200q can't be asked", c.base)
	}
	if message != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	r.Header.Set("Accept", "application/json")
	if c.cookie != nil {
		r.AddCookie(&http.Cookie{Name: c.cookie.Name, Value: c.cookie.Value})
	}
	response, err := c.http.Do(r)
	if err != nil {
		return nil, c.unreachable(ctx, err)
	}
	defer response.Body.Close()
	b, err := io.ReadAll(io.LimitReader(response.Body, limit+1))
	switch {
	case err != nil:
		return nil, c.unreachable(ctx, err)
	case int64(len(b)) > limit:
		return nil, lasting("the broker's answer has more than %d bytes", limit)
	case response.StatusCode != http.StatusOK:
		return nil, refused(response.StatusCode, b)
	}
	for _, k := range response.Cookies() {
		if k.Name == sessionCookie {
			c.cookie = k
		}
	}
	return b, nil
}

// unreachable says why there is no answer.
func (c *client) unreachable(ctx context.Context, err error) *Problem {
	var inner *url.Error
	if errors.As(err, &inner) {
		err = inner.Err
	}
	p := passing("the broker %.200s can't be reached: %s", c.base, printable(err.Error()))
	var certificate *tls.CertificateVerificationError
	if errors.As(err, &certificate) {
		p = passing("the certificate of the broker %.200s is not one that the manifest's source accepts: %s", c.base, printable(certificate.Err.Error()))
	}
	p.cause = ctx.Err()
	return p
}

// refused reads an answer that is none, as the protocol and HTTP have it.
func refused(status int, body []byte) *Problem {
	var info errorInformation
	if json.Unmarshal(body, &info) != nil || info.Detail == "" {
		info.Detail = http.StatusText(status)
	}
	kind := strings.TrimPrefix(info.Type, errorPrefix)
	text := fmt.Sprintf("(status %d) %s", status, printable(info.Detail))
	switch {
	case status >= 300 && status < 400:
		return lasting("the broker sends the agent elsewhere (status %d), which it does not follow", status)
	case status >= 500 || status == http.StatusTooManyRequests || status == http.StatusRequestTimeout:
		return passing("the broker can't answer now: %s", text)
	case status == http.StatusUnauthorized && kind == typeExpired:
		return passing("the broker's session is over: %s", text)
	}
	return lasting("the broker refuses: %s", text)
}
