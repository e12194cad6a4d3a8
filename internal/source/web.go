package source

import (
	"context"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/minio/minio-go/v7/pkg/s3utils"
	"github.com/minio/minio-go/v7/pkg/signer"

	"github.com/ultravioletrs/cocos/manifest"
)

// client speaks with the servers of s; trusted are those that credentials go to.
func client(h *healer, s manifest.Source, plain bool, trusted ...string) (*http.Client, error) {
	t, err := NewTransport(s, h.o.Dial)
	if err != nil {
		return nil, &Problem{Text: err.Error()}
	}
	context.AfterFunc(h.ctx, t.CloseIdleConnections)
	s.Broker, s.Resource = "", "" // it has keys, not data
	return &http.Client{Transport: newGuard(t, s.Servers(), trusted, plain), CheckRedirect: redirect}, nil
}

func get(ctx context.Context, u *url.URL) (*http.Request, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, lasting("the source's URL can't be asked for")
	}
	r.Header.Set("User-Agent", "cocos-agent")
	return r, nil
}

func openWeb(h *healer, s manifest.Source, u *url.URL, k *Secret, limit int64) (io.Reader, error) {
	c, err := client(h, s, plain(u), manifest.ServerOf(u))
	if err != nil {
		return nil, err
	}
	return newFetch(h, object{
		what: "file", limit: limit, do: c.Do,
		request: func(ctx context.Context) (*http.Request, error) {
			r, err := get(ctx, u)
			switch {
			case err != nil:
			case k.basic != nil:
				r.SetBasicAuth(k.basic.Username, k.basic.Password)
			case k.bearer != "":
				r.Header.Set("Authorization", "Bearer "+k.bearer)
			}
			return r, err
		},
		refused: func(code int, _ []byte) *Problem { return status("file", code, k.credentials()) },
	}), nil
}

// defaultRegion is what servers with one region take.
const defaultRegion = "us-east-1"

// openS3 reads an object by its path at the endpoint (ENDPOINT/BUCKET/KEY). Requests
// are signed (AWS Signature Version 4), or anonymous without keys.
func openS3(h *healer, s manifest.Source, u *url.URL, k *Secret, limit int64) (io.Reader, error) {
	at, err := url.Parse(s.Endpoint)
	if err != nil {
		return nil, lasting("the source's endpoint can't be read")
	}
	at.Path = "/" + u.Host + u.Path
	at.RawPath = s3utils.EncodePath(at.Path) // as it is signed
	c, err := client(h, s, plain(at), manifest.ServerOf(at))
	if err != nil {
		return nil, err
	}
	region := s.Region
	if region == "" {
		region = defaultRegion
	}
	return newFetch(h, object{
		what: "object", limit: limit,
		request: func(ctx context.Context) (*http.Request, error) { return get(ctx, at) },
		do: func(r *http.Request) (*http.Response, error) {
			if k.s3 != nil { // last, over the range that is asked for, too
				r.Header.Set("X-Amz-Content-Sha256", "UNSIGNED-PAYLOAD")
				r = signer.SignV4(*r, k.s3.AccessKey, k.s3.SecretKey, k.s3.SessionToken, region)
			}
			return c.Do(r)
		},
		refused: func(code int, body []byte) *Problem {
			p := status("object", code, k.credentials())
			if word := s3Code(body); word != "" {
				p.Text += ", " + word
			}
			return p
		},
	}), nil
}

// s3Codes are error codes that tell an owner what to do. What else a server says
// is not repeated.
var s3Codes = []string{
	"AccessDenied", "AuthorizationHeaderMalformed", "ExpiredToken", "InvalidAccessKeyId", "InvalidObjectState", "InvalidToken",
	"NoSuchBucket", "NoSuchKey", "PermanentRedirect", "RequestTimeTooSkewed", "SignatureDoesNotMatch", "SlowDown",
}

func s3Code(body []byte) string {
	for _, code := range s3Codes {
		if strings.Contains(string(body), "<Code>"+code+"</Code>") {
			return code
		}
	}
	return ""
}
