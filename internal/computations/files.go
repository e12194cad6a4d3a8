package computations

import (
	"fmt"
	"strings"
)

// What the commands that the service shows call things on a person's own machine:
// the same on every page, and another for each computation and run, so that nothing
// stands in the way of the next one.

// PolicyFile is a participant's policy, which is good for many computations.
const PolicyFile = "policy.json"

// ManifestFile is the computation's manifest.
func (c *Computation) ManifestFile() string { return "manifest-" + c.ID.Short() + ".json" }

// ResultFolder is where a run's result is unpacked.
func (r *Run) ResultFolder() string { return fmt.Sprintf("run-%s-%d", r.Computation.Short(), r.Number) }

// ReceiptFile is a run's receipt, which cocos-cli keeps beside the result.
func (r *Run) ReceiptFile() string { return r.ResultFolder() + ".receipt.json" }

// KeyPrefix is what the files of a person's first key are called: the name before
// the address's @, as far as a shell takes it as it is.
func KeyPrefix(email string) string {
	local, _, _ := strings.Cut(email, "@")
	safe := strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9', r == '.', r == '-', r == '_':
			return r
		}
		return '-'
	}, local)
	if safe = strings.Trim(safe, ".-"); safe == "" {
		safe = "cocos"
	}
	return safe
}

// keyFile is what the asker's key in this computation is called, most likely; empty:
// the asker has none in it.
func (t *steps) keyFile() string {
	if t.me == nil || t.me.Key == nil {
		return ""
	}
	for _, k := range t.keys {
		if k.Public.Equal(*t.me.Key) {
			return fileWord(strings.TrimSuffix(strings.TrimSuffix(k.Name, ".pem"), ".pub") + ".pem")
		}
	}
	return "cocos.pem" // it was revoked
}

// file is what an asset's file is called on its owner's machine, most likely.
func (t *steps) file(asset ID, otherwise string) string {
	if name := t.assets[asset]; name != "" {
		return fileWord(name)
	}
	return otherwise
}

// fileWord is a file's name that is never taken for a flag.
func fileWord(name string) string {
	if strings.HasPrefix(name, "-") {
		return "./" + name
	}
	return name
}
