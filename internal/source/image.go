package source

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"hash"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"regexp"
	"strings"

	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/errcode"

	"github.com/ultravioletrs/cocos/manifest"
)

// maxImage bounds an image's manifest, in bytes, as registries do.
const maxImage = 4 << 20

// Media types of an image's manifest.
const (
	ociImage    = "application/vnd.oci.image.manifest.v1+json"
	dockerImage = "application/vnd.docker.distribution.manifest.v2+json"
)

// encryptedSuffix marks the media type of a layer that ocicrypt has encrypted.
const encryptedSuffix = "+encrypted"

// image is the part of an image's manifest that counts here.
type image struct {
	MediaType string  `json:"mediaType"`
	Layers    []layer `json:"layers"`
}

type layer struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int64             `json:"size"`
	Annotations map[string]string `json:"annotations"`
}

// registry is where an image is.
type registry struct {
	base *url.URL // of the repository
	do   func(*http.Request) (*http.Response, error)
	k    *Secret
}

// openImage reads the one layer of the image that the URL's digest pins.
func openImage(h *healer, s manifest.Source, u *url.URL, k *Secret, limit int64) (io.Reader, error) {
	repository, digest, _ := strings.Cut(strings.TrimPrefix(u.Path, "/"), "@")
	base := &url.URL{Scheme: "https", Host: u.Host, Path: "/v2/" + repository}
	if plain(u) {
		base.Scheme = "http"
	}
	trusted := []string{manifest.ServerOf(base)}
	if k.tokenServer != "" {
		trusted = append(trusted, k.tokenServer)
	}
	c, err := client(h, s, plain(u), trusted...)
	if err != nil {
		return nil, err
	}
	r := &registry{base: base, k: k, do: (&auth.Client{
		Client: c,
		Credential: func(context.Context, string) (auth.Credential, error) {
			switch {
			case k.basic != nil:
				return auth.Credential{Username: k.basic.Username, Password: k.basic.Password}, nil
			case k.bearer != "":
				return auth.Credential{AccessToken: k.bearer}, nil
			}
			return auth.EmptyCredential, nil
		},
		BlockedRealmPrefixes: []netip.Prefix{}, // the manifest says where one may go
	}).Do}
	l, err := r.layer(h, digest)
	if err != nil {
		return nil, err
	}
	return r.open(h, s, l, limit)
}

// get asks for a part of the repository.
func (r *registry) get(what, part string, limit int64) object {
	return object{
		what: what, limit: limit,
		request: func(ctx context.Context) (*http.Request, error) {
			req, err := get(ctx, r.base.JoinPath(part))
			if err == nil && strings.HasPrefix(part, "manifests/") {
				req.Header.Set("Accept", ociImage+", "+dockerImage)
			}
			return req, err
		},
		do: func(req *http.Request) (*http.Response, error) {
			resp, err := r.do(req)
			var (
				token *errcode.ErrorResponse // of the token service
				sent  *url.Error
			)
			switch {
			case err == nil || errors.As(err, &sent):
				return resp, err
			case errors.As(err, &token):
				return nil, status(what, token.StatusCode, r.k.credentials())
			case errors.Is(err, auth.ErrBasicCredentialNotFound):
				return nil, status(what, http.StatusUnauthorized, false)
			case req.Context().Err() != nil:
				return nil, req.Context().Err()
			}
			// What else it says is a server's text.
			return nil, lasting("the registry wants a token, and its token service can't be used or gives none")
		},
		refused: func(code int, _ []byte) *Problem { return status(what, code, r.k.credentials()) },
	}
}

// layer returns the image's only layer; digest is "sha256:…".
func (r *registry) layer(h *healer, digest string) (l layer, err error) {
	const what = "image's manifest"
	b, err := io.ReadAll(verify(newFetch(h, r.get(what, "manifests/"+digest, maxImage)), what, digest))
	if err != nil {
		return l, err
	}
	var m image
	if json.Unmarshal(b, &m) != nil {
		return l, lasting("the image's manifest can't be read")
	}
	switch {
	case m.MediaType != "" && m.MediaType != ociImage && m.MediaType != dockerImage:
		return l, lasting("what the source's URL pins is not the manifest of one image; an index of several has their digests")
	case len(m.Layers) != 1:
		return l, lasting("the image has %d layers; a dataset is an image of exactly one", len(m.Layers))
	case !digestPattern.MatchString(m.Layers[0].Digest) || m.Layers[0].Size < 0:
		return l, lasting("the image's layer has no sha256 digest, or no size")
	}
	return m.Layers[0], nil
}

var digestPattern = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)

// open reads a layer, decrypted if it is ocicrypt's.
func (r *registry) open(h *healer, s manifest.Source, l layer, limit int64) (io.Reader, error) {
	encrypted := strings.HasSuffix(l.MediaType, encryptedSuffix)
	switch {
	case encrypted != (s.Encryption == manifest.OCICrypt) && encrypted:
		return nil, lasting("the image's layer is encrypted with ocicrypt, and the manifest's source does not say so (encryption)")
	case encrypted != (s.Encryption == manifest.OCICrypt):
		return nil, lasting("the image's layer is not encrypted, and the manifest's source says that it is (encryption: ocicrypt)")
	case l.Size > limit:
		return nil, lasting("the image's layer has %d bytes; the manifest's dataset can have at most %d there", l.Size, limit)
	}
	var opened *cipherKeys
	if encrypted {
		var err error
		if opened, err = unwrap(l.Annotations, r.k.key); err != nil {
			return nil, err
		}
	}
	const what = "image's layer"
	raw := verify(newFetch(h, r.get(what, "blobs/"+l.Digest, l.Size)), what, l.Digest)
	switch s.Encryption {
	case manifest.Age:
		return openAge(raw, r.k)
	case manifest.OCICrypt:
		return opened.decrypt(raw), nil
	}
	return raw, nil
}

// verified is a reader whose end is an error if what came has not the digest.
type verified struct {
	r      io.Reader
	what   string
	digest string
	hash   hash.Hash
}

func verify(r io.Reader, what, digest string) *verified {
	return &verified{r, what, digest, sha256.New()}
}

func (v *verified) Read(b []byte) (int, error) {
	n, err := v.r.Read(b)
	v.hash.Write(b[:n])
	if errors.Is(err, io.EOF) && "sha256:"+hex.EncodeToString(v.hash.Sum(nil)) != v.digest {
		return 0, lasting("the %s that the server sent has not the digest that pins it", v.what)
	}
	return n, err
}
