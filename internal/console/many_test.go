package console_test

import (
	"fmt"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/ultravioletrs/cocos/internal/computations"
	"github.com/ultravioletrs/cocos/manifest"
)

// many is more than a page of the store has.
const many = computations.MaxPage + 5

// TestStatesAmongMany: how far a computation is doesn't depend on how many newer ones
// there are.
func TestStatesAmongMany(t *testing.T) {
	w := newWorld(t)
	for i := range many {
		c, err := w.svc.CreateComputation(t.Context(), w.who["carl"], w.things["workspace"], computations.Draft{
			Name: fmt.Sprintf("Newer %d", i), TEE: manifest.TEENone, Algorithm: computations.AlgorithmSlot{Provider: w.users["alan"], Asset: w.things["algorithm"]},
			Consumers: []computations.ID{w.users["rita"]},
		})
		w.check(err)
		_, err = w.svc.Freeze(t.Context(), w.who["carl"], c.ID, c.Revision)
		w.check(err)
	}
	list := w.path("/w/{workspace}/computations", false)
	row := regexp.MustCompile(`(?s)<a href="` + w.path("/c/{ready}", false) + `">.*?<span class="chip [a-z]+">([^<]*)<`)
	for _, query := range []string{"text=" + url.QueryEscape(innerMark+" ready"), "mine=yes&before=" + string(w.things["queued"]), "state=ready&before=" + string(w.things["queued"])} {
		page := w.browse("carl").get(list + "?" + query).body
		if found := row.FindStringSubmatch(page); found == nil || found[1] != "Ready to run" {
			t.Errorf("%s: the state is %q\n%s", query, found, text(page))
		}
	}
}

// TestAssetsAmongMany: one's own are found, however many others there are.
func TestAssetsAmongMany(t *testing.T) {
	w := newWorld(t)
	w.put(func(tx computations.Writer) error {
		for i := range many {
			if err := tx.PutAsset(computations.Asset{
				ID: computations.NewID(), Workspace: w.things["workspace"], Owner: w.users["rita"], Name: fmt.Sprintf("newer %d", i), Kind: computations.AssetDataset,
				SHA256: manifest.Sum([]byte{byte(i)}), Size: 1, Created: time.Now(),
			}); err != nil {
				return err
			}
		}
		return nil
	})
	option := `<option value="` + string(w.things["dataset"]) + `"`
	for _, tc := range []struct{ who, path, want string }{
		{"dora", "/c/{draft}", option},
		{"dora", "/c/{draft}", "you have one, " + mark + " tides"},
		{"edith", "/c/{draft}/edit", option},
	} {
		if page := w.browse(tc.who).get(w.path(tc.path, false)).body; !strings.Contains(page, tc.want) {
			t.Errorf("%s of %s lacks %q\n%s", tc.path, tc.who, tc.want, text(page))
		}
	}
}
