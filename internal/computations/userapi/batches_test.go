package userapi

import (
	"strings"
	"testing"

	computationsv1 "github.com/ultravioletrs/cocos/api/computations/v1"
)

func TestBatchesAreBoundedAndWhole(t *testing.T) {
	long := func(n int) *computationsv1.Entry { return &computationsv1.Entry{Message: strings.Repeat("x", n)} }
	for name, tt := range map[string]struct {
		sizes []int
		want  []int // entries in each batch
	}{
		"none":                   {nil, []int{0}},
		"one":                    {[]int{10}, []int{1}},
		"one that is too large":  {[]int{5000}, []int{1}},
		"all fit":                {[]int{300, 300, 300}, []int{3}},
		"two batches":            {[]int{600, 300, 300}, []int{2, 1}},
		"large ones between":     {[]int{10, 5000, 10, 10}, []int{1, 1, 2}},
		"a large one at the end": {[]int{10, 5000}, []int{1, 1}},
	} {
		t.Run(name, func(t *testing.T) {
			var entries []*computationsv1.Entry
			for _, n := range tt.sizes {
				entries = append(entries, long(n))
			}
			got := batches(entries, 1000)
			if len(got) != len(tt.want) {
				t.Fatalf("%d batches, want %d", len(got), len(tt.want))
			}
			i := 0
			for b, batch := range got {
				if len(batch) != tt.want[b] {
					t.Errorf("batch %d has %d entries, want %d", b, len(batch), tt.want[b])
				}
				for _, e := range batch {
					if e != entries[i] {
						t.Errorf("entry %d is out of its place", i)
					}
					i++
				}
			}
		})
	}
}
