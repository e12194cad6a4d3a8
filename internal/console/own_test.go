package console

import (
	"slices"
	"testing"

	"github.com/ultravioletrs/cocos/manifest"
)

func TestEveryTypeOfAlgorithmIsOffered(t *testing.T) {
	var offered []manifest.AlgorithmType
	for _, c := range assetForm(new(place), newForm(nil)).Data.(assetForms).Types {
		offered = append(offered, manifest.AlgorithmType(c.Value))
	}
	known := manifest.AlgorithmTypes()
	slices.Sort(offered)
	slices.Sort(known)
	if !slices.Equal(offered, known) {
		t.Errorf("the form offers %q; there are %q", offered, known)
	}
}
