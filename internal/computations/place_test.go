package computations_test

import (
	"testing"
	"time"

	"github.com/ultravioletrs/cocos/internal/computations"
	"github.com/ultravioletrs/cocos/manifest"
)

var placeNow = time.Date(2026, 11, 29, 12, 0, 0, 0, time.UTC)

// able is a host that could take a run with the simulated TEE and image "aa".
func able(id computations.ID, change ...func(*computations.Host)) computations.Host {
	h := computations.Host{ID: id, Name: "host " + string(id), Connected: true, Contact: placeNow.Add(-time.Second), Active: 1,
		Report: computations.HostReport{TEEs: []manifest.TEE{manifest.TEESim}, Capacity: 4, Running: 1, Images: []computations.Image{{Digest: "bb"}, {Digest: "aa"}}}}
	for _, c := range change {
		c(&h)
	}
	return h
}

func away(h *computations.Host)     { h.Connected = false }
func stale(h *computations.Host)    { h.Contact = placeNow.Add(-computations.ContactLimit - 1) }
func cordoned(h *computations.Host) { h.Cordoned = true }
func draining(h *computations.Host) { h.Draining = true }
func revoked(h *computations.Host)  { h.Revoked = placeNow.Add(-time.Hour) }
func closed(h *computations.Host)   { h.Report.Closed = true }
func full(h *computations.Host)     { h.Active = 4 }
func crowded(h *computations.Host)  { h.Report.Running = 4 }
func plain(h *computations.Host)    { h.Report.TEEs = nil }
func busier(h *computations.Host)   { h.Active = 3 }
func loaded(h *computations.Host)   { h.Report.Load = 9 }
func noImage(h *computations.Host)  { h.Report.Images = h.Report.Images[:1] }
func noBound(h *computations.Host)  { h.Report.Capacity, h.Report.CPUs, h.Active = 0, 8, 3 }
func tdx(h *computations.Host)      { h.Report.TEEs = []manifest.TEE{manifest.TEETDX} }

func TestPlace(t *testing.T) {
	for name, c := range map[string]struct {
		hosts   []computations.Host
		tee     manifest.TEE // sim where it is empty
		image   string
		refused []computations.ID
		want    computations.ID
		reason  string
	}{
		"the only one":             {hosts: []computations.Host{able("1")}, want: "1", reason: "offered to host 1"},
		"with the image":           {hosts: []computations.Host{able("1")}, image: "aa", want: "1", reason: "offered to host 1"},
		"the less busy":            {hosts: []computations.Host{able("1", busier), able("2")}, want: "2", reason: "offered to host 2"},
		"the less loaded":          {hosts: []computations.Host{able("1", loaded), able("2")}, want: "2", reason: "offered to host 2"},
		"the first of equals":      {hosts: []computations.Host{able("2"), able("1")}, want: "1", reason: "offered to host 1"},
		"without a bound":          {hosts: []computations.Host{able("1", noBound), able("2", busier)}, want: "1", reason: "offered to host 1"},
		"not the one that refused": {hosts: []computations.Host{able("1"), able("2", busier)}, refused: []computations.ID{"1"}, want: "2", reason: "offered to host 2"},
		"plain, and TEEs spared":   {hosts: []computations.Host{able("1"), able("2", plain, busier)}, tee: manifest.TEENone, want: "2", reason: "offered to host 2"},
		"plain, on a TEE's host":   {hosts: []computations.Host{able("1"), able("2", plain, full)}, tee: manifest.TEENone, want: "1", reason: "offered to host 1"},

		"no host":               {tee: manifest.TEENone, reason: "no host has joined yet"},
		"no host with the TEE":  {hosts: []computations.Host{able("1"), able("2", plain)}, tee: manifest.TEESNP, reason: "no host has sev-snp"},
		"another TEE":           {hosts: []computations.Host{able("1", tdx)}, reason: "no host has sim"},
		"revoked":               {hosts: []computations.Host{able("1", revoked)}, reason: "no host has sim"},
		"revoked, plain":        {hosts: []computations.Host{able("1", revoked)}, tee: manifest.TEENone, reason: "no host has joined yet"},
		"not connected":         {hosts: []computations.Host{able("1", away)}, reason: "the only host with sim is not connected"},
		"stale contact":         {hosts: []computations.Host{able("1", stale), able("2", away)}, reason: "all 2 hosts with sim are not connected"},
		"without the image":     {hosts: []computations.Host{able("1", noImage)}, image: "aa", reason: "the only host with sim does not have the guest image that it asks for"},
		"another image":         {hosts: []computations.Host{able("1")}, image: "cc", reason: "the only host with sim does not have the guest image that it asks for"},
		"cordoned":              {hosts: []computations.Host{able("1", cordoned)}, reason: "the only host with sim is cordoned"},
		"draining":              {hosts: []computations.Host{able("1", draining), able("2", draining)}, reason: "all 2 hosts with sim are being drained"},
		"closed":                {hosts: []computations.Host{able("1", closed)}, reason: "the only host with sim takes no runs at present"},
		"refused by all":        {hosts: []computations.Host{able("1"), able("2")}, refused: []computations.ID{"2", "1"}, reason: "all 2 hosts with sim have refused it"},
		"full":                  {hosts: []computations.Host{able("1", full), able("2", full), able("3", full)}, reason: "all 3 hosts with sim are full"},
		"full with others' VMs": {hosts: []computations.Host{able("1", crowded)}, reason: "the only host with sim is full"},
		"full, plain":           {hosts: []computations.Host{able("1", full)}, tee: manifest.TEENone, reason: "the only host is full"},
		"each for its reason": {hosts: []computations.Host{able("1", full), able("2", away), able("3", cordoned), able("4", full), able("5", plain)},
			reason: "of 4 hosts with sim 1 is not connected, 1 is cordoned and 2 are full"},
	} {
		t.Run(name, func(t *testing.T) {
			tee := c.tee
			if tee == "" {
				tee = manifest.TEESim
			}
			got, reason := computations.Place(computations.Run{Refused: c.refused}, computations.Draft{Image: c.image}, tee, c.hosts, placeNow)
			if got != c.want || reason != c.reason {
				t.Errorf("host %q, %q\nwant %q, %q", got, reason, c.want, c.reason)
			}
		})
	}
}
