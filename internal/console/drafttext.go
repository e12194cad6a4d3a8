package console

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

func numberText(n int64) string {
	if n == 0 {
		return ""
	}
	return strconv.FormatInt(n, 10)
}

// argsText has one argument in each line, or is a JSON list where that can't be
// told apart.
func argsText(args []string) string {
	for i, a := range args {
		if a == "" || strings.ContainsAny(a, "\r\n") || i == 0 && strings.HasPrefix(a, "[") {
			return jsonText(args)
		}
	}
	return strings.Join(args, "\n")
}

func argsOf(field, text string) ([]string, error) {
	text = lines(text)
	if strings.HasPrefix(strings.TrimSpace(text), "[") {
		var args []string
		if err := json.Unmarshal([]byte(text), &args); err != nil {
			return nil, invalid(field, "begins with [ and is not a JSON list of strings", "write one argument in each line")
		}
		return args, nil
	}
	var args []string
	for line := range strings.SplitSeq(text, "\n") {
		if line != "" {
			args = append(args, line)
		}
	}
	return args, nil
}

// envText has one NAME=value in each line, or is a JSON object.
func envText(env map[string]string) string {
	var all []string
	for _, name := range slices.Sorted(maps.Keys(env)) {
		if strings.ContainsAny(env[name], "\r\n") {
			return jsonText(env)
		}
		all = append(all, name+"="+env[name])
	}
	return strings.Join(all, "\n")
}

func envOf(field, text string) (map[string]string, error) {
	text = lines(text)
	env := map[string]string{}
	if strings.HasPrefix(strings.TrimSpace(text), "{") {
		if err := json.Unmarshal([]byte(text), &env); err != nil {
			return nil, invalid(field, "begins with { and is not a JSON object of strings", "write one NAME=value in each line")
		}
		return env, nil
	}
	for line := range strings.SplitSeq(text, "\n") {
		if strings.TrimSpace(line) == "" {
			continue
		}
		name, value, ok := strings.Cut(line, "=")
		name = strings.TrimSpace(name)
		if _, twice := env[name]; !ok || name == "" || twice {
			return nil, invalid(field, fmt.Sprintf("has the line %q", line), "write one NAME=value in each line, each name once")
		}
		env[name] = value
	}
	if len(env) == 0 {
		return nil, nil
	}
	return env, nil
}

func jsonText(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		return "" // strings can always be written
	}
	return string(b)
}
