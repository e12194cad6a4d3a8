package store

import (
	"database/sql/driver"
	"fmt"
	"math"
	"reflect"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/ultravioletrs/cocos/internal/computations"
	"github.com/ultravioletrs/cocos/keys"
	"github.com/ultravioletrs/cocos/manifest"
)

// A cell joins a member of a struct to a column, for reading and for writing. A
// pointer to a text, a number, a bool or bytes is one as it is; these are those
// that take more.
type (
	// moment is a time in nanoseconds since 1970 UTC; zero is none.
	moment struct{ at *time.Time }
	// sum is 32 bytes; with null set, zero is null.
	sum struct {
		sum  *[32]byte
		null bool
	}
	// ref is an ID of another table's row, or null.
	ref struct{ id *computations.ID }
	// doc is JSON.
	doc struct{ of any }
	// public is a key's DER SubjectPublicKeyInfo.
	public struct{ key *keys.Public }
)

func digest(d *manifest.Digest) sum { return sum{sum: (*[32]byte)(d), null: true} }

// nanoseconds is how a time is kept: one beyond what fits, in the years 1677 and
// 2262, becomes the last that does.
func nanoseconds(t time.Time) int64 {
	switch {
	case t.IsZero():
		return 0
	case t.Unix() >= math.MaxInt64/int64(time.Second):
		return math.MaxInt64
	case t.Unix() <= math.MinInt64/int64(time.Second):
		return math.MinInt64
	}
	return t.UnixNano()
}

func timeOf(ns int64) time.Time {
	if ns == 0 {
		return time.Time{}
	}
	return time.Unix(0, ns).UTC()
}

func (c moment) Value() (driver.Value, error) { return nanoseconds(*c.at), nil }

func (c moment) Scan(v any) error {
	ns, ok := v.(int64)
	if !ok {
		return fmt.Errorf("a time is %T, not a number", v)
	}
	*c.at = timeOf(ns)
	return nil
}

func (c sum) Value() (driver.Value, error) {
	if c.null && *c.sum == [32]byte{} {
		return nil, nil
	}
	return c.sum[:], nil
}

func (c sum) Scan(v any) error {
	b, _ := v.([]byte)
	switch {
	case v == nil && c.null:
		*c.sum = [32]byte{}
	case len(b) != len(c.sum):
		return fmt.Errorf("a SHA-256 is %T of %d bytes", v, len(b))
	default:
		*c.sum = [32]byte(b)
	}
	return nil
}

func (c ref) Value() (driver.Value, error) {
	if *c.id == "" {
		return nil, nil
	}
	return string(*c.id), nil
}

func (c ref) Scan(v any) error {
	switch v := v.(type) {
	case nil:
		*c.id = ""
	case string:
		*c.id = computations.ID(v)
	default:
		return fmt.Errorf("an ID is %T, not text", v)
	}
	return nil
}

func (c doc) Value() (driver.Value, error) {
	b, err := json.Marshal(c.of, json.Deterministic(true), jsontext.AllowInvalidUTF8(true))
	return string(b), err
}

// Scan leaves what is empty as it is: nil, not an empty list.
func (c doc) Scan(v any) error {
	switch s, _ := v.(string); s {
	case "":
		return fmt.Errorf("JSON is %T %v", v, v)
	case "[]", "{}", "null":
		return nil
	default:
		return json.Unmarshal([]byte(s), c.of)
	}
}

func (c public) Value() (driver.Value, error) { return c.key.SPKI(), nil }

func (c public) Scan(v any) (err error) {
	b, _ := v.([]byte)
	*c.key, err = keys.ParsePublic(b)
	return err
}

// text is s without what PostgreSQL refuses: NUL and bytes that are no UTF-8. Both
// databases keep the same.
func text(s string) string {
	if utf8.ValidString(s) && strings.IndexByte(s, 0) < 0 {
		return s
	}
	return strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "\x00", "\uFFFD")
}

// plain makes of arguments, cells among them, what both drivers take: text,
// numbers, bools, bytes and null.
func plain(args []any) ([]any, error) {
	out := make([]any, len(args))
	for i, arg := range args {
		v, err := plainOne(arg)
		if err != nil {
			return nil, err
		}
		out[i] = v
	}
	return out, nil
}

func plainOne(arg any) (any, error) {
	switch v := arg.(type) {
	case nil:
		return nil, nil
	case string:
		return text(v), nil
	case int64, bool:
		return v, nil
	case time.Time:
		return nanoseconds(v), nil
	case driver.Valuer:
		p, err := v.Value()
		if s, ok := p.(string); ok {
			return text(s), err
		}
		return p, err
	}
	v := reflect.ValueOf(arg)
	if v.Kind() == reflect.Pointer {
		v = v.Elem()
	}
	switch {
	case v.Kind() == reflect.String:
		return text(v.String()), nil
	case v.CanInt():
		return v.Int(), nil
	case v.Kind() == reflect.Bool:
		return v.Bool(), nil
	case v.Kind() == reflect.Slice && v.Type().Elem().Kind() == reflect.Uint8:
		if v.IsNil() {
			return nil, nil
		}
		return v.Bytes(), nil
	case v.Kind() == reflect.Array && v.Type().Elem().Kind() == reflect.Uint8:
		b := make([]byte, v.Len())
		reflect.Copy(reflect.ValueOf(b), v)
		return b, nil
	}
	return nil, fmt.Errorf("no column takes a %T", arg)
}
