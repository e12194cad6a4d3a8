package recent

import (
	"slices"
	"sync"
	"testing"
	"time"
)

func TestBounds(t *testing.T) {
	for name, tt := range map[string]struct {
		items, bytes int
		add          []int // sizes; the item is its number
		want         []int
	}{
		"empty":                 {2, 10, nil, nil},
		"as many as fit":        {2, 10, []int{1, 1}, []int{0, 1}},
		"one item too many":     {2, 10, []int{1, 1, 1}, []int{1, 2}},
		"as many bytes as fit":  {9, 10, []int{5, 5}, []int{0, 1}},
		"one byte too many":     {9, 10, []int{5, 5, 1}, []int{1, 2}},
		"one larger than all":   {9, 10, []int{5, 11}, []int{1}},
		"the large one goes":    {9, 10, []int{11, 1}, []int{1}},
		"several go at once":    {9, 10, []int{1, 1, 1, 9}, []int{2, 3}},
		"items of no size stay": {3, 1, []int{0, 0, 0}, []int{0, 1, 2}},
	} {
		t.Run(name, func(t *testing.T) {
			r := New[int](tt.items, tt.bytes)
			for i, size := range tt.add {
				r.Add(i, size)
			}
			got, missing, next, _ := r.From(0, 100)
			if !slices.Equal(got, tt.want) {
				t.Errorf("kept %v, want %v", got, tt.want)
			}
			if int(missing) != len(tt.add)-len(tt.want) || int(next) != len(tt.add) {
				t.Errorf("missing %d, next %d", missing, next)
			}
		})
	}
}

func TestLast(t *testing.T) {
	r := New[int](3, 100)
	for i := range 5 {
		r.Add(i, 1)
	}
	for n, want := range map[int][]int{0: nil, 1: {4}, 3: {2, 3, 4}, 9: {2, 3, 4}} {
		if got, missing, _, _ := r.From(r.Last(n), 100); !slices.Equal(got, want) || missing != 0 {
			t.Errorf("the last %d are %v (%d missing), want %v", n, got, missing, want)
		}
	}
}

func TestFromInParts(t *testing.T) {
	r := New[int](10, 100)
	for i := range 5 {
		r.Add(i, 1)
	}
	var got []int
	next := uint64(0)
	for {
		items, missing, after, _ := r.From(next, 2)
		if missing != 0 {
			t.Fatalf("%d are missing", missing)
		}
		if len(items) == 0 {
			break
		}
		got, next = append(got, items...), after
	}
	if !slices.Equal(got, []int{0, 1, 2, 3, 4}) {
		t.Errorf("got %v", got)
	}
	// A number that was never given out yet waits for its turn.
	if items, missing, next, _ := r.From(7, 2); len(items) != 0 || missing != 0 || next != 7 {
		t.Errorf("from 7: %v, missing %d, next %d", items, missing, next)
	}
}

// Many readers, each with its own pace, see every item once and in order, or are
// told how many they missed.
func TestReaders(t *testing.T) {
	const n = 5000
	r := New[int](64, 1<<20)
	var readers sync.WaitGroup
	for limit := 1; limit <= 4; limit++ {
		readers.Go(func() {
			next, seen := uint64(0), uint64(0)
			for seen < n {
				items, missing, after, changed := r.From(next, limit)
				seen += missing
				for _, item := range items {
					if uint64(item) != seen {
						t.Errorf("got %d in place of %d", item, seen)
						return
					}
					seen++
				}
				next = after
				if len(items) > 0 {
					continue
				}
				select {
				case <-changed:
				case <-time.After(time.Minute):
					t.Error("nothing came")
					return
				}
			}
		})
	}
	for i := range n {
		r.Add(i, 1)
	}
	readers.Wait()
}
