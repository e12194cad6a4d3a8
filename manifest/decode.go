package manifest

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/ultravioletrs/cocos/keys"
)

// decode reads b into a Manifest and goes on after a value of the wrong type or
// form, so that its author sees all of them at once. whole is false if the
// reading ended early: then the rest of the manifest is not known.
func decode(b []byte) (m Manifest, faults Faults, whole bool) {
	var c collector
	err := json.Unmarshal(b, &m, json.RejectUnknownMembers(true), json.WithUnmarshalers(json.JoinUnmarshalers(
		collect(&c, '"', "a string", unquote[string]),
		collect(&c, '"', "a string", unquote[TEE]),
		collect(&c, '"', "a string", unquote[AlgorithmType]),
		collect(&c, '"', "a string", unquote[Encryption]),
		collect(&c, '"', "a string of hexadecimal digits", unquoteText[Digest]),
		collect(&c, '"', "a string of hexadecimal digits", unquoteText[Nonce]),
		collect(&c, '"', "a string of hexadecimal digits", unquoteText[Commitment]),
		collect(&c, '"', "a string with a public key", unquoteText[keys.Public]),
		collect(&c, '0', "a number", whole64[int]),
		collect(&c, '0', "a number", whole64[int64]),
		collect(&c, 't', "true or false", boolean),
	)))
	if err != nil {
		return m, append(c.faults, faultOf(err)), false
	}
	return m, c.faults, true
}

type collector struct{ faults Faults }

// collect reads values of T with parse, and notes instead of failing.
func collect[T any](c *collector, kind jsontext.Kind, want string, parse func(jsontext.Value, *T) error) *json.Unmarshalers {
	return json.UnmarshalFromFunc(func(d *jsontext.Decoder, out *T) error {
		v, err := d.ReadValue()
		if err != nil {
			return err
		}
		path := string(d.StackPointer())
		if got := v.Kind(); got != kind && (got != 'f' || kind != 't') {
			c.faults = append(c.faults, Fault{Path: path, Message: fmt.Sprintf("is %s; expected %s", kindName(v.Kind()), want)})
			return nil
		}
		var value T
		if err := parse(v, &value); err != nil {
			c.faults = append(c.faults, Fault{Path: path, Message: err.Error()})
			return nil
		}
		*out = value
		return nil
	})
}

func unquote[T ~string](v jsontext.Value, out *T) error {
	b, err := jsontext.AppendUnquote(nil, v)
	*out = T(b)
	return err
}

func unquoteText[T any, P interface {
	*T
	UnmarshalText([]byte) error
}](v jsontext.Value, out *T) error {
	b, err := jsontext.AppendUnquote(nil, v)
	if err != nil {
		return err
	}
	return P(out).UnmarshalText(b)
}

func whole64[T int | int64](v jsontext.Value, out *T) error {
	n, err := strconv.ParseInt(string(v), 10, 64)
	if err != nil || int64(T(n)) != n {
		return fmt.Errorf("is %.40s; expected a whole number", v)
	}
	*out = T(n)
	return nil
}

func boolean(v jsontext.Value, out *bool) error {
	*out = v.Kind() == 't'
	return nil
}

func kindName(k jsontext.Kind) string {
	switch k {
	case 'n':
		return "null"
	case 't', 'f':
		return "true or false"
	case '"':
		return "a string"
	case '0':
		return "a number"
	case '{':
		return "an object"
	case '[':
		return "an array"
	}
	return "something else"
}

// faultOf turns a decoding error into a fault with its path.
func faultOf(err error) Fault {
	var syntactic *jsontext.SyntacticError
	if errors.As(err, &syntactic) {
		if errors.Is(err, jsontext.ErrDuplicateName) {
			return Fault{Path: string(syntactic.JSONPointer), Message: "is given twice"}
		}
		return Fault{Path: string(syntactic.JSONPointer), Message: "is not valid JSON: " + syntactic.Err.Error()}
	}
	var semantic *json.SemanticError
	if errors.As(err, &semantic) {
		path := string(semantic.JSONPointer)
		switch {
		case errors.Is(err, json.ErrUnknownName):
			return Fault{Path: path, Message: "is not a known field"}
		case semantic.Err != nil:
			return Fault{Path: path, Message: semantic.Err.Error()}
		default:
			return Fault{Path: path, Message: fmt.Sprintf("is %s, which does not belong here", kindName(semantic.JSONKind))}
		}
	}
	return Fault{Message: err.Error()}
}

// canonical returns the bytes that name a manifest: those that Freeze makes of
// what the manifest says. What is empty is left out.
func (m Manifest) canonical() ([]byte, error) {
	if len(m.Approvals) == 0 {
		m.Approvals = nil
	}
	if len(m.Datasets) == 0 {
		m.Datasets = nil
	}
	if len(m.Algorithm.Args) == 0 {
		m.Algorithm.Args = nil
	}
	if len(m.Algorithm.Env) == 0 {
		m.Algorithm.Env = nil
	}
	if len(m.Algorithm.Files) == 0 {
		m.Algorithm.Files = nil
	}
	m.Datasets = slices.Clone(m.Datasets)
	for i := range m.Datasets {
		if s := &m.Datasets[i].Source; len(s.Redirects) == 0 {
			s.Redirects = nil
		}
	}
	m.Outputs = m.Outputs.canonical()
	b, err := json.Marshal(m, json.Deterministic(true))
	if err != nil {
		return nil, fmt.Errorf("encoding the manifest: %w", err)
	}
	v := jsontext.Value(b)
	if err := v.Canonicalize(); err != nil {
		return nil, fmt.Errorf("encoding the manifest: %w", err)
	}
	return v, nil
}

// checkCanonical wants raw to be the one form of m: a field that is left out
// where it may not be, and one that says nothing, would give one manifest
// several digests.
func checkCanonical(raw []byte, m *Manifest) error {
	want, err := m.canonical()
	if err != nil {
		return err
	}
	if bytes.Equal(raw, want) {
		return nil
	}
	has, wants := paths(raw), paths(want)
	var v validator
	for _, p := range wants.order {
		if !has.set[p] {
			v.add(p, "is missing")
		}
	}
	for _, p := range has.order {
		if !wants.set[p] {
			v.add(p, "says nothing and must be left out")
		}
	}
	if len(v.faults) == 0 {
		v.add("", "the manifest is not canonical JSON (RFC 8785); freeze it first")
	}
	return v.faults
}

// pathSet is the JSON pointers of a value's members, in its order.
type pathSet struct {
	set   map[string]bool
	order []string
}

func paths(b []byte) pathSet {
	p := pathSet{set: map[string]bool{}}
	d := jsontext.NewDecoder(bytes.NewReader(b))
	for {
		if _, err := d.ReadToken(); err != nil {
			return p // the end; b was read before
		}
		if at := string(d.StackPointer()); !p.set[at] {
			p.set[at] = true
			p.order = append(p.order, at)
		}
	}
}
