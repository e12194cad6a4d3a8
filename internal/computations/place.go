package computations

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/ultravioletrs/cocos/manifest"
)

// ContactLimit is how old a host's last contact may be: one that was not heard of
// for longer counts as not connected, whatever its row says, for the process that
// held its stream may have died.
const ContactLimit = 45 * time.Second

// Live tells whether the host can be asked now.
func (h *Host) Live(now time.Time) bool {
	return h.Revoked.IsZero() && h.Connected && now.Sub(h.Contact) <= ContactLimit
}

// HasTEE tells whether the host starts VMs for manifests with this TEE; every
// host starts plain ones.
func (h *Host) HasTEE(tee manifest.TEE) bool {
	return tee == manifest.TEENone || slices.Contains(h.Report.TEEs, tee)
}

// used is how many VMs the host has, or is about to have.
func (h *Host) used() int { return max(h.Active, h.Report.Running) }

// obstacle is why a run can't go to a host that has its TEE.
type obstacle int

// The obstacles, in the order in which they are looked for and told.
const (
	hostAway obstacle = iota
	hostLacksImage
	hostCordoned
	hostDraining
	hostClosed
	hostRefused
	hostFull
	obstacles // how many there are, and none of them
)

// says is the obstacle after "the only host" and after "all 2 hosts".
var says = [obstacles][2]string{
	hostAway:       {"is not connected", "are not connected"},
	hostLacksImage: {"does not have the guest image that it asks for", "do not have the guest image that it asks for"},
	hostCordoned:   {"is cordoned", "are cordoned"},
	hostDraining:   {"is being drained", "are being drained"},
	hostClosed:     {"takes no runs at present", "take no runs at present"},
	hostRefused:    {"has refused it", "have refused it"},
	hostFull:       {"is full", "are full"},
}

// obstacleOf finds the first one; obstacles if there is none.
func obstacleOf(run *Run, image string, h *Host, now time.Time) obstacle {
	switch {
	case !h.Live(now):
		return hostAway
	case image != "" && !slices.ContainsFunc(h.Report.Images, func(i Image) bool { return i.Digest == image }):
		return hostLacksImage
	case h.Cordoned:
		return hostCordoned
	case h.Draining:
		return hostDraining
	case h.Report.Closed:
		return hostClosed
	case slices.Contains(run.Refused, h.ID):
		return hostRefused
	case h.Report.Capacity > 0 && h.used() >= h.Report.Capacity:
		return hostFull
	}
	return obstacles
}

// Place chooses the host for a run of a manifest with this TEE, made from this
// draft: the one that is least busy among those that have TEE, image and room, and
// have not said of late that they had no room after all.
// Plain runs go to hosts with a TEE only where no other can take them. Where none
// can, the ID is empty and the reason says why, for people.
func Place(run Run, draft Draft, tee manifest.TEE, hosts []Host, now time.Time) (host ID, reason string) {
	var able []*Host
	var count [obstacles]int
	total := 0
	for i := range hosts {
		h := &hosts[i]
		if !h.Revoked.IsZero() || !h.HasTEE(tee) {
			continue
		}
		total++
		if o := obstacleOf(&run, draft.Image, h, now); o == obstacles {
			able = append(able, h)
		} else {
			count[o]++
		}
	}
	if len(able) == 0 {
		return "", whyNone(tee, total, count)
	}
	best := slices.MinFunc(able, func(a, b *Host) int {
		spare := 0
		if tee == manifest.TEENone {
			spare = cmp.Compare(len(a.Report.TEEs), len(b.Report.TEEs))
		}
		return cmp.Or(cmp.Compare(a.Report.Refusals, b.Report.Refusals), spare, cmp.Compare(a.busy(), b.busy()), cmp.Compare(a.Report.Load, b.Report.Load), strings.Compare(string(a.ID), string(b.ID)))
	})
	return best.ID, "offered to " + best.Name
}

// busy is the share of its room that a host has given away. One that names no
// bound is measured by its processors.
func (h *Host) busy() float64 {
	return float64(h.used()) / float64(max(cmp.Or(h.Report.Capacity, h.Report.CPUs), 1))
}

func whyNone(tee manifest.TEE, total int, count [obstacles]int) string {
	kind := ""
	if tee != manifest.TEENone {
		kind = " with " + string(tee)
	}
	switch {
	case total == 0 && kind == "":
		return "no host has joined yet"
	case total == 0:
		return "no host has " + string(tee)
	}
	var parts []string
	for o, n := range count {
		switch {
		case n == 0:
		case n == total && total == 1:
			return fmt.Sprintf("the only host%s %s", kind, says[o][0])
		case n == total:
			return fmt.Sprintf("all %d hosts%s %s", total, kind, says[o][1])
		default:
			parts = append(parts, fmt.Sprintf("%d %s", n, says[o][min(n-1, 1)]))
		}
	}
	last := len(parts) - 1
	return fmt.Sprintf("of %d hosts%s %s and %s", total, kind, strings.Join(parts[:last], ", "), parts[last])
}
