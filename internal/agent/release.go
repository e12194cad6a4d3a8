package agent

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/ultravioletrs/cocos/internal/archive"
	"github.com/ultravioletrs/cocos/keys"
	"github.com/ultravioletrs/cocos/manifest"
)

// defaultResultMax bounds a result archive where the manifest does not, in bytes.
const defaultResultMax = 2 << 30

// Names in a result archive.
const (
	resultsName = "results" // folder; only if the algorithm succeeded
	stdoutName  = "stdout.txt"
	stderrName  = "stderr.txt"
	runName     = "run.json"    // how it ended
	failureName = "failure.txt" // only if it failed: why
)

// result is what a consumer can take.
type result struct {
	size   int64
	digest manifest.Digest
	// packing makes the same archive anew.
	packing archive.Packing
}

// collect makes the output folder what consumers get of it, and digests the
// archive of each. Consumers to whom the same is released share one.
func (a *Agent) collect(end *ending) (map[string]*result, error) {
	results := filepath.Join(a.dirs.output(), resultsName)
	var err error
	if end.succeeded() {
		err = os.Rename(a.dirs.results(), results)
	} else {
		err = os.RemoveAll(results)
	}
	if err != nil {
		return nil, err
	}
	// Inputs are not needed any more; in memory their room is.
	if err := errors.Join(os.RemoveAll(a.dirs.work()), os.RemoveAll(a.dirs.program())); err != nil {
		return nil, err
	}
	m := &a.cfg.Manifest.Manifest
	all, made := map[string]*result{}, map[string]*result{}
	for _, c := range m.Consumers {
		rule := ruleOf(m, c)
		if made[rule.name()] == nil {
			if made[rule.name()], err = a.pack(rule, end); err != nil {
				return nil, err
			}
		}
		all[c.Fingerprint()] = made[rule.name()]
	}
	return all, nil
}

// rule is what goes to some consumers; everything, or what release says.
type rule struct {
	everything bool
	release    manifest.Release
}

func ruleOf(m *manifest.Manifest, consumer keys.Public) rule {
	r, everything := m.ReleaseTo(consumer)
	return rule{everything, r}
}

// name is the same for rules that release the same.
func (r *rule) name() string {
	if r.everything {
		return "everything"
	}
	files := slices.Sorted(slices.Values(r.release.Files))
	return fmt.Sprintf("%t %q", r.release.Output, files)
}

// output tells whether what the algorithm printed, and what it used, is released.
func (r *rule) output() bool { return r.everything || r.release.Output }

// keeps tells whether a file of the output folder is released.
func (r *rule) keeps(name string) bool {
	if r.everything {
		return true
	}
	if below, ok := strings.CutPrefix(name, resultsName+"/"); ok {
		return r.release.Has(below)
	}
	return r.release.Output
}

// pack digests the archive of a rule.
func (a *Agent) pack(r rule, end *ending) (*result, error) {
	story, err := end.file(r.output())
	if err != nil {
		return nil, err
	}
	p := archive.Packing{Extra: map[string][]byte{runName: story}}
	if !end.succeeded() {
		why := end.brief
		if r.output() {
			why = end.why
		}
		p.Extra[failureName] = []byte(why + "\n")
	}
	if !r.everything {
		p.Keep = r.keeps
	}
	limit := a.cfg.Manifest.Outputs.ResultMax
	if limit == 0 {
		limit = defaultResultMax
	}
	if a.cfg.Manifest.Outputs.Pad {
		p.Size = limit
	}
	h := sha256.New()
	w := &limitedWriter{w: h, max: limit}
	if err := p.Pack(w, a.dirs.output()); err != nil {
		return nil, err
	}
	return &result{size: w.n, digest: manifest.Digest(h.Sum(nil)), packing: p}, nil
}

// explain is collect for a run whose output does not fit.
func (a *Agent) explain(end *ending) (map[string]*result, error) {
	for _, name := range []string{stdoutName, stderrName} {
		if err := ignoreMissing(os.Remove(filepath.Join(a.dirs.output(), name))); err != nil {
			return nil, err
		}
	}
	if end.succeeded() {
		return nil, errors.New("even how the run ended does not fit into /outputs/result_max")
	}
	const more = "\nstandard output and error do not fit into /outputs/result_max either"
	end.fails(end.reason, end.why+more, end.brief+more)
	return a.collect(end)
}

// limitedWriter fails instead of taking more than max bytes.
type limitedWriter struct {
	w   io.Writer
	n   int64
	max int64
}

func (l *limitedWriter) Write(b []byte) (int, error) {
	if int64(len(b)) > l.max-l.n {
		return 0, fmt.Errorf("the result archive is larger than the %d bytes that /outputs/result_max or the agent's default allows", l.max)
	}
	l.n += int64(len(b))
	return l.w.Write(b)
}
