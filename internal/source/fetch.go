package source

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// object is something that a server has, as one or several GETs bring it.
type object struct {
	what    string // "file", "object", "layer": for problems
	request func(ctx context.Context) (*http.Request, error)
	do      func(*http.Request) (*http.Response, error)
	// refused says why the server refused the request; body is at most maxRefusal.
	refused func(status int, body []byte) *Problem
	limit   int64 // of what may come, in bytes
}

const maxRefusal = 4 << 10

// fetch reads an object, over as many connections as it takes.
type fetch struct {
	h   *healer
	obj object

	body      io.ReadCloser
	ctx       context.Context    // of the request
	end       context.CancelFunc // of the request that brings body
	stalls    *time.Timer        // ends the request, too
	at        int64
	total     int64 // -1: not known
	validator string
	begun     bool
	err       error // for good
}

func newFetch(h *healer, obj object) *fetch {
	return &fetch{h: h, obj: obj, total: -1}
}

// Read implements io.Reader.
func (f *fetch) Read(b []byte) (int, error) {
	for f.err == nil && len(b) > 0 {
		if f.body == nil {
			if err := f.connect(); err != nil {
				f.drop()
				f.err = f.h.pause(err)
			}
			continue
		}
		f.stalls.Reset(f.h.o.stall)
		n, err := f.body.Read(b)
		f.at += int64(n)
		if n > 0 {
			f.h.came(n)
		}
		switch {
		case f.at > f.obj.limit:
			f.err = f.tooLong()
		case errors.Is(err, io.EOF) && f.at == f.total:
			f.err = io.EOF
		case errors.Is(err, io.EOF) && f.total < 0 && f.ctx.Err() == nil: // or else it may be our own doing
			f.err = io.EOF
		case err != nil:
			f.drop()
			f.err = f.h.pause(err)
		}
		if n > 0 && (f.err == nil || f.err == io.EOF) {
			return n, nil
		}
	}
	if f.err != nil {
		f.drop()
	}
	return 0, f.err
}

// drop ends the connection.
func (f *fetch) drop() {
	if f.end != nil {
		f.stalls.Stop()
		f.end()
	}
	if f.body != nil {
		f.body.Close()
	}
	f.body, f.end = nil, nil
}

// connect makes a request for what is still to come. An object that can't be what
// came before is a lasting problem.
func (f *fetch) connect() error {
	ctx, cancel := context.WithCancel(f.h.ctx)
	f.ctx = ctx
	f.end, f.stalls = cancel, time.AfterFunc(f.h.o.stall+dialTimeout+handshakeTimeout+headerTimeout, cancel)
	req, err := f.obj.request(ctx)
	if err != nil {
		return err
	}
	if f.at > 0 {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-", f.at))
		if f.validator != "" {
			req.Header.Set("If-Range", f.validator)
		}
	}
	resp, err := f.obj.do(req)
	if err != nil {
		return err
	}
	f.body = resp.Body
	if e := resp.Header.Get("Content-Encoding"); e != "" && e != "identity" {
		return lasting("the server sends the %s compressed (Content-Encoding), which was not asked for", f.obj.what)
	}
	switch resp.StatusCode {
	case http.StatusOK:
		return f.whole(resp)
	case http.StatusPartialContent:
		return f.part(resp)
	case http.StatusRequestedRangeNotSatisfiable, http.StatusPreconditionFailed:
		return f.changed()
	}
	body, _ := io.ReadAll(io.LimitReader(resp.Body, maxRefusal))
	return f.obj.refused(resp.StatusCode, body)
}

// whole is an answer with all of the object: the first, or of a server that takes
// no ranges.
func (f *fetch) whole(resp *http.Response) error {
	v := validatorOf(resp)
	if f.begun && (v != f.validator || resp.ContentLength != f.total && f.total >= 0) {
		return f.changed()
	}
	f.begun, f.validator, f.total = true, v, resp.ContentLength
	if f.total > f.obj.limit {
		return f.tooLong()
	}
	return f.skip(f.at)
}

// skip reads over what came before.
func (f *fetch) skip(n int64) error {
	buf := make([]byte, 64<<10)
	for n > 0 {
		f.stalls.Reset(f.h.o.stall)
		m, err := f.body.Read(buf[:min(n, int64(len(buf)))])
		n -= int64(m)
		if errors.Is(err, io.EOF) && n > 0 {
			err = io.ErrUnexpectedEOF
		}
		if err != nil && n > 0 {
			return err
		}
	}
	return nil
}

var rangePattern = regexp.MustCompile(`^bytes ([0-9]{1,19})-([0-9]{1,19})/([0-9]{1,19}|\*)$`)

// part is an answer with the object from f.at on.
func (f *fetch) part(resp *http.Response) error {
	m := rangePattern.FindStringSubmatch(resp.Header.Get("Content-Range"))
	if m == nil || m[1] != strconv.FormatInt(f.at, 10) || !f.begun {
		return lasting("the server answers with another part of the %s than was asked for", f.obj.what)
	}
	total := f.total
	if m[3] != "*" {
		total, _ = strconv.ParseInt(m[3], 10, 64)
	}
	if f.total >= 0 && total != f.total || validatorOf(resp) != f.validator {
		return f.changed()
	}
	if total > f.obj.limit {
		return f.tooLong()
	}
	f.total = total
	return nil
}

func (f *fetch) changed() *Problem {
	return lasting("the %s changed at the source while it was read", f.obj.what)
}

func (f *fetch) tooLong() *Problem {
	return lasting("the %s at the source is longer than the dataset of the manifest can be there (%d bytes)", f.obj.what, f.obj.limit)
}

// validatorOf names the version of an object, if the server does: a strong entity
// tag, or else a date.
func validatorOf(resp *http.Response) string {
	if tag := resp.Header.Get("ETag"); tag != "" && !strings.HasPrefix(tag, "W/") {
		return tag
	}
	return resp.Header.Get("Last-Modified")
}

// status is what is wrong with an answer that is none of the expected ones.
func status(what string, code int, credentials bool) *Problem {
	switch {
	case code == http.StatusUnauthorized || code == http.StatusForbidden:
		if credentials {
			return lasting("the source's server refuses the credentials for the %s (status %d)", what, code)
		}
		return lasting("the source's server needs credentials for the %s (status %d): hand them over", what, code)
	case code == http.StatusNotFound || code == http.StatusGone:
		return lasting("the %s is not at the source (status %d)", what, code)
	case code == http.StatusRequestTimeout || code == http.StatusTooEarly || code == http.StatusTooManyRequests || code >= 500:
		return passing("the source's server can't send the %s now (status %d)", what, code)
	}
	return lasting("the source's server does not send the %s (status %d)", what, code)
}
