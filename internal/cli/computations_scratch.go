package cli

import (
	computationsv1 "github.com/ultravioletrs/cocos/api/computations/v1"
	"github.com/ultravioletrs/cocos/internal/bytesize"
)

// setScratch is what --scratch says.
func (d *draftFlags) setScratch(to *computationsv1.Draft) error {
	to.Scratch, to.ScratchBytes = "", 0
	switch d.scratch {
	case "auto":
	case "always", "never":
		to.Scratch = d.scratch
	default:
		n, err := bytesize.Parse(d.scratch)
		if err != nil || n <= 0 || n%(1<<20) != 0 {
			return usagef("for example --scratch always, or --scratch 10GiB", "--scratch %q is none of auto, always and never, and no multiple of 1 MiB", d.scratch)
		}
		to.ScratchBytes = n
	}
	return nil
}

// inputRows say where inputs come from and lie.
func (v *computationView) inputRows(r *rows) {
	for _, server := range v.Servers {
		r.add("connects to", "%s, from which the agent fetches a dataset or its key", server)
	}
	switch {
	case v.ScratchBytes > 0:
		r.add("disk", "%s for inputs, encrypted in the VM", bytesize.Round(v.ScratchBytes))
	case v.Draft.Scratch == "never":
		r.add("disk", "none: inputs are held in memory, whatever their size")
	}
}
