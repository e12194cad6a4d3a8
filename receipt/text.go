package receipt

import (
	"fmt"
	"strings"
	"time"

	"github.com/ultravioletrs/cocos/manifest"
)

// Simulated is what every text about simulated evidence begins with.
const Simulated = "SIMULATED: the TEE was simulated by its host, so this protects and proves nothing"

// Text says for people what the statement does, one line for each thing.
func (r *Receipt) Text() string {
	var b strings.Builder
	line := func(what, format string, args ...any) {
		fmt.Fprintf(&b, "%-12s %s\n", what, fmt.Sprintf(format, args...))
	}
	p := &r.Statement.Predicate
	if p.Simulated {
		b.WriteString(Simulated + "\n")
	}
	outcome := string(p.Outcome)
	if p.Reason != "" {
		outcome += ": " + string(p.Reason)
	}
	if p.ExitStatus != nil {
		outcome += fmt.Sprintf(", exit status %d", *p.ExitStatus)
	}
	if p.Signal != "" {
		outcome += ", signal " + p.Signal
	}
	if p.Limit != "" {
		outcome += ", limit " + p.Limit
	}
	line("outcome", "%s", outcome)
	switch {
	case p.Result != nil:
		line("result", "%d bytes, sha256 %s", p.Result.Size, p.Result.SHA256)
	case len(p.Results) == 0:
		line("result", "none")
	}
	for _, r := range p.Results {
		line("result", "sha256 %s", r.SHA256)
		line("", "for %s", r.Consumer)
	}
	line("manifest", "%s", p.Manifest)
	line("algorithm", "%s", manifest.Content{SHA256: p.Algorithm, Commitment: p.AlgorithmCommitment})
	for _, f := range p.Files {
		line("file", "%s, %s", f.Name, f.content())
	}
	for _, d := range p.Datasets {
		line("dataset", "%s, %s", d.Name, d.content())
	}
	for _, a := range p.Approvals {
		line("approved by", "%s", a.Key)
	}
	line("run", "%s", p.Run)
	line("instance", "%s", p.Instance.Fingerprint())
	tee := string(p.TEE)
	if p.Simulated {
		tee += " (SIMULATED)"
	}
	line("tee", "%s", tee)
	for _, m := range strings.Split(registers(p.Measurement), ", ") {
		line("measured", "%s", m)
	}
	line("time", "%s to %s, says the host's clock", p.HostClock.Started.Format(time.RFC3339), p.HostClock.Finished.Format(time.RFC3339))
	return b.String()
}
