package userapi

import (
	"encoding/base64"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/ultravioletrs/cocos/internal/computations"
)

const (
	defaultPage = 50
	maxPage     = 100
	// tokenMark begins what a page token says, so that another kind can follow.
	tokenMark = "p1 "
)

// cursor is where a page begins, and how long it is. A token says nothing that
// its bearer hasn't seen, and gives no right to anything.
type cursor struct {
	after string // empty: from the start
	size  int
}

func cursorOf(size int32, token string) (cursor, error) {
	c := cursor{size: int(size)}
	switch {
	case size < 0:
		return c, invalid("page_size", "is %d; expected 0 to %d", size, maxPage)
	case size == 0:
		c.size = defaultPage
	case size > maxPage:
		c.size = maxPage
	}
	if token == "" {
		return c, nil
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(token)
	after, ok := strings.CutPrefix(string(b), tokenMark)
	if err != nil || !ok || after == "" {
		return c, errToken()
	}
	c.after = after
	return c, nil
}

func errToken() error {
	return invalid("page_token", "is not one that this list gave")
}

// page asks for one more than is shown, to know whether there is more.
func (c cursor) page() (computations.Page, error) {
	if c.after != "" {
		if id, err := uuid.Parse(c.after); err != nil || id.String() != c.after {
			return computations.Page{}, errToken()
		}
	}
	return computations.Page{Before: computations.ID(c.after), Limit: c.size + 1}, nil
}

// number is a cursor of what is counted.
func (c cursor) number() (int64, error) {
	if c.after == "" {
		return 0, nil
	}
	n, err := strconv.ParseInt(c.after, 10, 64)
	if err != nil || n <= 0 {
		return 0, errToken()
	}
	return n, nil
}

// cut is the page of what was found, each as a message, and the token for what
// follows.
func cut[T, M any](c cursor, found []T, key func(T) string, message func(T) M) ([]M, string) {
	next := ""
	if len(found) > c.size {
		found = found[:c.size]
		next = base64.RawURLEncoding.EncodeToString([]byte(tokenMark + key(found[c.size-1])))
	}
	return each(found, message), next
}

// each turns a list into messages.
func each[T, M any](list []T, message func(T) M) []M {
	out := make([]M, len(list))
	for i, v := range list {
		out[i] = message(v)
	}
	return out
}

// texts and words turn lists of names into text and back.
func texts[T ~string](list []T) []string { return each(list, func(v T) string { return string(v) }) }

func words[T ~string](list []string) []T { return each(list, func(v string) T { return T(v) }) }

// stamp is a time; absent for none.
func stamp(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}

// moment is the time of a field; zero for none.
func moment(field string, t *timestamppb.Timestamp) (time.Time, error) {
	if t == nil {
		return time.Time{}, nil
	}
	if err := t.CheckValid(); err != nil {
		return time.Time{}, invalid(field, "is no time")
	}
	return t.AsTime(), nil
}

// span is a duration; absent for zero.
func span(d time.Duration) *durationpb.Duration {
	if d == 0 {
		return nil
	}
	return durationpb.New(d)
}

// length is the duration of a field; zero for none.
func length(field string, d *durationpb.Duration) (time.Duration, error) {
	if d == nil {
		return 0, nil
	}
	if err := d.CheckValid(); err != nil {
		return 0, invalid(field, "is no duration")
	}
	return d.AsDuration(), nil
}
