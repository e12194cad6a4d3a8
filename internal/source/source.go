// Package source reads a dataset where its owner keeps it: at a web server, in an
// S3-compatible store, or as the one layer of an image in a registry, there plain
// or encrypted by the owner.
//
// Invariants:
//   - No connection goes to a server that the manifest does not name for this
//     source, redirects included, and none from https down to http. Variables of
//     the environment, such as those of a proxy, take no part.
//   - Credentials go to the server that they are for, over https, and to no other.
//     No error and no log has any of a Secret, nor text of a server's choice.
//   - What a server sends is bounded: by the dataset's size and what its encryption
//     adds. It is the caller who compares size and digest: before that, nothing
//     that was read here counts, and where a format has a check at its end (an
//     HMAC, an image's digest), the end is an error if that fails.
//   - A connection that breaks, or stalls, is made again, and reading goes on where
//     it stopped, with growing pauses; an object that changed meanwhile is an error.
//     Whatever can't become right by waiting ends the reading at once.
package source

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"strings"
	"time"

	"github.com/ultravioletrs/cocos/manifest"
)

// Dial makes a connection, as net.Dialer's DialContext does.
type Dial func(ctx context.Context, network, address string) (net.Conn, error)

// Options of Open.
type Options struct {
	// Dial makes every connection; nil: a net.Dialer does.
	Dial Dial
	// Size of the dataset, in bytes, after decryption.
	Size int64
	// Sleep waits between two tries, or until ctx ends; nil: on the real clock.
	Sleep func(ctx context.Context, d time.Duration) error
	// Broken is told why the reader waits before it tries again, and nil when it
	// goes on; it may be nil.
	Broken func(*Problem)

	// stall is how long a server may send nothing; 0: the default.
	stall time.Duration
}

// Problem is why something can't be had from a source, in words for the dataset's
// owner: they have neither secrets nor text that a server chose.
type Problem struct {
	Text string
	// Passing: it may be gone when one tries again.
	Passing bool
	// cause is for errors.Is alone: a context's end, say.
	cause error
}

func (p *Problem) Error() string { return p.Text }
func (p *Problem) Unwrap() error { return p.cause }

// lasting and passing make problems.
func lasting(format string, args ...any) *Problem {
	return &Problem{Text: fmt.Sprintf(format, args...)}
}

func passing(format string, args ...any) *Problem {
	return &Problem{Text: fmt.Sprintf(format, args...), Passing: true}
}

// Open returns a reader of the dataset at s, decrypted. s must be valid; secret may
// be nil where s takes none. Errors, those of reading too, are Problems, or that of
// ctx, which must outlive the reader.
func Open(ctx context.Context, s manifest.Source, secret *Secret, o Options) (io.ReadCloser, error) {
	if secret == nil {
		secret = &Secret{}
	}
	if err := secret.Fits(s); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	raw, err := open(ctx, s, secret, o)
	if err != nil {
		cancel()
		return nil, err
	}
	return &stream{Reader: raw, close: cancel}, nil
}

// stream is a reader whose connections end with a context.
type stream struct {
	io.Reader
	close context.CancelFunc
}

func (s *stream) Close() error {
	s.close()
	return nil
}

func open(ctx context.Context, s manifest.Source, secret *Secret, o Options) (io.Reader, error) {
	u, err := url.Parse(s.URL)
	if err != nil {
		return nil, lasting("the source's URL can't be read") // Validate has refused it
	}
	limit := o.Size
	if s.Encryption == manifest.Age {
		limit = ageSize(o.Size)
	}
	h := newHealer(ctx, o)
	var raw io.Reader
	switch u.Scheme {
	case "http", "https":
		raw, err = openWeb(h, s, u, secret, limit)
	case "s3":
		raw, err = openS3(h, s, u, secret, limit)
	case "oci", "oci+http":
		return openImage(h, s, u, secret, limit)
	default:
		return nil, lasting("the source's URL has the scheme %q, which is not supported", u.Scheme)
	}
	if err != nil || s.Encryption != manifest.Age {
		return raw, err
	}
	return openAge(raw, secret)
}

// plain tells whether what is at u travels without TLS.
func plain(u *url.URL) bool { return strings.HasSuffix(u.Scheme, "http") }

// problemOf finds the problem in err, or makes one of it.
func problemOf(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	var p *Problem
	if errors.As(err, &p) {
		return p
	}
	return describe(err)
}
