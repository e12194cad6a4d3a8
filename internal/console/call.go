package console

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"runtime/debug"
	"strings"
	"time"

	"github.com/ultravioletrs/cocos/internal/computations"
	"github.com/ultravioletrs/cocos/internal/telemetry"
)

// call is one request on its way through a route's function.
type call struct {
	c     *Console
	w     *answer
	r     *http.Request
	route route
	who   computations.Identity
}

// answer remembers what was sent.
type answer struct {
	http.ResponseWriter
	status int
}

func (a *answer) WriteHeader(status int) {
	if a.status == 0 {
		a.status = status
	}
	a.ResponseWriter.WriteHeader(status)
}

func (a *answer) Write(b []byte) (int, error) {
	if a.status == 0 {
		a.status = http.StatusOK
	}
	return a.ResponseWriter.Write(b)
}

// Unwrap is for http.ResponseController.
func (a *answer) Unwrap() http.ResponseWriter { return a.ResponseWriter }

var (
	errNoPage   = &computations.Error{Kind: computations.NotFound, Message: "There is no such page"}
	errTooLarge = &computations.Error{Kind: computations.Invalid, Message: "this is too large to be taken"}
)

// serve makes a handler of a route: it finds out who asks, bounds the body,
// turns errors into pages, tells Observe, and traces what ends by itself.
func (c *Console) serve(rt route) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		began := c.Now()
		q := &call{c: c, w: &answer{ResponseWriter: w}, r: r, route: rt}
		if !rt.stream { // that of a live page would last for days
			ctx, done := telemetry.StartRequest(r.Context(), r.Method, rt.pattern)
			q.r = r.WithContext(ctx)
			defer func() { done(q.w.status) }()
		}
		defer func() {
			if p := recover(); p != nil && p != http.ErrAbortHandler {
				q.fail(fmt.Errorf("panic: %v\n%s", p, debug.Stack()))
			}
			if c.Observe != nil {
				c.Observe(rt.pattern, q.w.status, c.Now().Sub(began))
			}
		}()
		if err := q.enter(); err != nil {
			q.fail(err)
		}
	})
}

func (q *call) enter() error {
	if err := q.identify(); err != nil {
		return err
	}
	if q.route.door != open && q.who.User == "" {
		return q.toSignIn()
	}
	if !safe(q.r.Method) {
		if err := q.parseForm(); err != nil {
			return err
		}
	}
	return q.route.serve(q)
}

// parseForm reads the body within its bound, so that PostForm is there.
func (q *call) parseForm() error {
	bound := q.route.body
	if bound == 0 {
		bound = smallBody
	}
	q.r.Body = http.MaxBytesReader(q.w, q.r.Body, bound)
	var err error
	if strings.HasPrefix(q.r.Header.Get("Content-Type"), "multipart/form-data") {
		err = q.r.ParseMultipartForm(bound)
	} else {
		err = q.r.ParseForm()
	}
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		return errTooLarge
	case err != nil:
		return &computations.Error{Kind: computations.Invalid, Message: "the form can't be read", Hint: "go back, reload the page and try again"}
	}
	return nil
}

// kindOf is the kind of a refusal; empty for other errors and nil.
func kindOf(err error) computations.Kind {
	var e *computations.Error
	if errors.As(err, &e) {
		return e.Kind
	}
	return ""
}

// statusOf is a refusal's status.
func statusOf(k computations.Kind) int {
	switch k {
	case computations.Unauthenticated:
		return http.StatusUnauthorized
	case computations.Denied:
		return http.StatusForbidden
	case computations.NotFound:
		return http.StatusNotFound
	case computations.Invalid:
		return http.StatusUnprocessableEntity
	case computations.Conflict:
		return http.StatusConflict
	case computations.Limited:
		return http.StatusTooManyRequests
	}
	return http.StatusInternalServerError
}

// trouble is the page of an error.
type trouble struct {
	Heading string
	Texts   []string
	// Reference finds the line in the log; empty for refusals.
	Reference string
}

// fail answers with an error.
func (q *call) fail(err error) {
	kind := kindOf(err)
	if errors.Is(err, context.Canceled) && q.r.Context().Err() != nil {
		return // nobody is there any more
	}
	if kind == computations.Unauthenticated && q.w.status == 0 {
		// The session ended between its check and its use.
		q.c.setCookie(q.w, q.c.cookieName(), "", 0)
		_ = q.toSignIn()
		return
	}
	t := trouble{}
	switch kind {
	case computations.NotFound:
		t.Heading = "Not found"
	case computations.Denied:
		t.Heading = "You may not do this"
	case computations.Invalid:
		t.Heading = "That didn't work"
	case computations.Conflict:
		t.Heading = "Not possible now"
	case computations.Limited:
		t.Heading = "Too often"
	default:
		t.Heading = "Something went wrong here"
		t.Reference = rand.Text()[:10]
		t.Texts = []string{"It isn't your fault. Try again in a moment. If it happens again, tell the operator of this service the reference below."}
		q.c.Log.ErrorContext(q.r.Context(), "a page failed", "route", q.route.pattern, "reference", t.Reference, "error", err)
	}
	if kind != "" {
		t.Texts = sentences(err)
	}
	if q.w.status != 0 {
		return // part of another answer is on its way
	}
	status := statusOf(kind)
	if q.route.stream {
		http.Error(q.w, t.Heading, status)
		return
	}
	if err := q.show(status, "trouble", view{Title: t.Heading, Data: t}); err != nil {
		q.c.Log.ErrorContext(q.r.Context(), "the page of an error failed", "route", q.route.pattern, "error", err)
		http.Error(q.w, t.Heading, status)
	}
}

// sentences says a refusal for people.
func sentences(err error) []string {
	var texts []string
	for _, e := range refusals(err) {
		text := sentence(e.Message)
		if e.Hint != "" {
			text += " " + sentence(e.Hint)
		}
		texts = append(texts, text)
	}
	return texts
}

// refusals are the Errors in err.
func refusals(err error) []*computations.Error {
	var all computations.Errors
	if errors.As(err, &all) {
		return all
	}
	var one *computations.Error
	if errors.As(err, &one) {
		return []*computations.Error{one}
	}
	return nil
}

// goTo answers with another page of this console, fetched by GET.
func (q *call) goTo(path string) error {
	http.Redirect(q.w, q.r, path, http.StatusSeeOther)
	return nil
}

// done goes to a page that says what was done; what is a key of doneTexts.
func (q *call) done(path, what string) error {
	return q.goTo(path + "?done=" + url.QueryEscape(what))
}

// show answers with a page.
func (q *call) show(status int, name string, v view) error {
	t := q.c.pages[name]
	if t == nil {
		return fmt.Errorf("there is no template %q", name)
	}
	v.Who, v.External = q.who, q.externalName()
	if v.Done == "" {
		v.Done = doneTexts[q.r.URL.Query().Get("done")]
	}
	var b bytes.Buffer
	if v.Form != nil && len(v.Form.order) > 0 {
		// Once for the labels of the fields, which the summary above them needs.
		if err := t.ExecuteTemplate(io.Discard, "layout", v); err != nil {
			return fmt.Errorf("rendering %s: %w", name, err)
		}
	}
	if err := t.ExecuteTemplate(&b, "layout", v); err != nil {
		return fmt.Errorf("rendering %s: %w", name, err)
	}
	q.w.Header().Set("Content-Type", "text/html; charset=utf-8")
	q.w.WriteHeader(status)
	_, _ = q.w.Write(b.Bytes()) // a browser that is gone is no error
	return nil
}

// page answers 200.
func (q *call) page(name string, v view) error { return q.show(http.StatusOK, name, v) }

// again shows a form once more with what is at fault, if err is something that
// its author can mend; else it returns err.
func (q *call) again(err error, name string, v view) error {
	switch kind := kindOf(err); kind {
	case computations.Invalid, computations.Conflict, computations.Limited:
		v.Form.refuse(err)
		return q.show(statusOf(kind), name, v)
	}
	return err
}

func (q *call) externalName() string {
	if q.c.External == nil {
		return ""
	}
	return q.c.External.Label
}

// id is a part of the path.
func (q *call) id(name string) computations.ID { return computations.ID(q.r.PathValue(name)) }

// post is a field of the form, without space around it.
func (q *call) post(name string) string { return strings.TrimSpace(q.r.PostForm.Get(name)) }

// download answers with a file.
func (q *call) download(name string, b []byte) error {
	h := q.w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Content-Disposition", `attachment; filename="`+name+`"`)
	h.Set("Content-Length", fmt.Sprint(len(b)))
	_, _ = q.w.Write(b)
	return nil
}

// now is the clock's, for texts.
func (q *call) now() time.Time { return q.c.Now() }
