package qemu

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// schema is what a QEMU says of its own types (query-qmp-schema).
type schema map[string]entity

type entity struct {
	Name    string `json:"name"`
	Meta    string `json:"meta-type"`
	JSON    string `json:"json-type"`    // of a builtin
	Element string `json:"element-type"` // of an array
	Arg     string `json:"arg-type"`     // of a command
	Tag     string `json:"tag"`          // of an object with variants
	Members []struct {
		Name string `json:"name"`
		Type string `json:"type"`
		// Default is there, and null, when the member is optional.
		Default json.RawMessage `json:"default"`
	} `json:"members"`
	Variants []struct {
		Case string `json:"case"`
		Type string `json:"type"`
	} `json:"variants"`
}

func readSchema(ctx context.Context, q *QMP) (schema, error) {
	var all []entity
	if err := q.Execute(ctx, "query-qmp-schema", nil, &all); err != nil {
		return nil, err
	}
	s := schema{}
	for _, e := range all {
		s[e.Name] = e
	}
	return s, nil
}

// node is an option's value taken apart: text, or members by name.
type node struct {
	text    string
	members map[string]*node
	order   []string
}

// takeApart reads "first,a=1,b.c=2" as QEMU does; first, which has no name, is
// the value of implied. A comma in a value is doubled.
func takeApart(value, implied string) (*node, error) {
	root := &node{members: map[string]*node{}}
	const comma = "\x00"
	for i, part := range strings.Split(strings.ReplaceAll(value, ",,", comma), ",") {
		key, text, ok := strings.Cut(part, "=")
		if !ok && i == 0 {
			key, text = implied, part
		} else if !ok {
			return nil, fmt.Errorf("%q in %q has no value", part, value)
		}
		at := root
		for _, name := range strings.Split(key, ".") {
			next := at.members[name]
			if next == nil {
				next = &node{members: map[string]*node{}}
				at.members[name] = next
				at.order = append(at.order, name)
			}
			at = next
		}
		at.text = strings.ReplaceAll(text, comma, ",")
	}
	return root, nil
}

// arguments turns an option's value into the arguments of a QMP command, which
// QEMU describes exactly. Unknown and missing members and values of another
// type are errors.
func (s schema) arguments(command, value, implied string) (map[string]any, error) {
	n, err := takeApart(value, implied)
	if err != nil {
		return nil, err
	}
	c, ok := s[command]
	if !ok {
		return nil, fmt.Errorf("no command %s", command)
	}
	v, err := s.object(s[c.Arg], n)
	if err != nil {
		return nil, fmt.Errorf("%s %q: %w", command, value, err)
	}
	return v, nil
}

func (s schema) object(e entity, n *node) (map[string]any, error) {
	if e.Meta != "object" {
		return nil, fmt.Errorf("%q: want no members", n.order)
	}
	members := slices.Clone(e.Members)
	if e.Tag != "" {
		tag := n.members[e.Tag]
		if tag == nil {
			return nil, fmt.Errorf("%s is missing", e.Tag)
		}
		for _, v := range e.Variants {
			if v.Case == tag.text {
				members = append(members, s[v.Type].Members...)
			}
		}
	}
	out := map[string]any{}
	for _, m := range members {
		given := n.members[m.Name]
		if given == nil {
			if m.Default == nil {
				return nil, fmt.Errorf("%s is missing", m.Name)
			}
			continue
		}
		v, err := s.value(m.Type, given)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", m.Name, err)
		}
		out[m.Name] = v
	}
	for _, name := range n.order {
		if _, ok := out[name]; !ok {
			return nil, fmt.Errorf("%s: no such member", name)
		}
	}
	return out, nil
}

func (s schema) value(name string, n *node) (any, error) {
	switch e := s[name]; e.Meta {
	case "builtin":
		return scalar(e.JSON, n.text)
	case "enum":
		for _, m := range e.Members {
			if m.Name == n.text {
				return n.text, nil
			}
		}
		return nil, fmt.Errorf("%q is none of its values", n.text)
	case "array":
		// An option that may be repeated; each is one string.
		return []map[string]string{{"str": n.text}}, nil
	case "object":
		return s.object(e, n)
	case "alternate":
		for _, m := range e.Members {
			if v, err := s.value(m.Type, n); err == nil {
				return v, nil
			} else if len(n.order) > 0 && s[m.Type].Meta == "object" {
				return nil, err
			}
		}
	}
	return nil, fmt.Errorf("%q does not fit", n.text)
}

// scalar reads a value as QEMU's options spell it.
func scalar(kind, text string) (any, error) {
	switch kind {
	case "string":
		return text, nil
	case "boolean":
		switch text {
		case "on", "true", "yes":
			return true, nil
		case "off", "false", "no":
			return false, nil
		}
	case "int":
		digits := strings.TrimRight(text, "kKMGT")
		factor := map[string]uint64{"": 1, "k": 1 << 10, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}[text[len(digits):]]
		if n, err := strconv.ParseUint(digits, 0, 64); err == nil && factor > 0 {
			return n * factor, nil
		}
	}
	return nil, fmt.Errorf("%q: want %s", text, kind)
}
