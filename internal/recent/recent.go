// Package recent keeps the newest items of a stream in memory for any number of
// readers.
//
//   - It is bounded in items and in bytes; the oldest go first.
//   - Items are numbered from 0 in the order in which they came. A reader holds
//     nothing but the number that it wants next, so that a slow one, or one that
//     went away, costs nothing and holds nobody up: it finds a gap, and is told
//     how long that is.
//   - An item is not changed once it was added.
package recent

import "sync"

// Ring keeps the newest items.
type Ring[T any] struct {
	maxItems, maxBytes int

	mu      sync.Mutex
	items   []entry[T]
	first   uint64 // number of items[0]
	bytes   int
	changed chan struct{} // closed with the next item; nil: nobody waits
}

type entry[T any] struct {
	item T
	size int
}

// New returns an empty Ring for at most so many items and bytes, both positive.
func New[T any](items, bytes int) *Ring[T] {
	return &Ring[T]{maxItems: items, maxBytes: bytes}
}

// Add adds an item of size bytes. One that is larger than all that may be kept
// is kept alone.
func (r *Ring[T]) Add(item T, size int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.items = append(r.items, entry[T]{item, size})
	r.bytes += size
	for len(r.items) > r.maxItems || r.bytes > r.maxBytes && len(r.items) > 1 {
		r.bytes -= r.items[0].size
		r.items[0] = entry[T]{}
		r.items = r.items[1:]
		r.first++
	}
	if r.changed != nil {
		close(r.changed)
		r.changed = nil
	}
}

// Last returns the number of the n-th last item: where to begin to read n items.
func (r *Ring[T]) Last(n int) uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.first + uint64(max(0, len(r.items)-n))
}

// From returns at most limit items from the one with the number from on, how many
// before them are not kept any more, and the number to go on with. Where there
// are none, changed closes when there is one.
func (r *Ring[T]) From(from uint64, limit int) (items []T, missing, next uint64, changed <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if from < r.first {
		missing, from = r.first-from, r.first
	}
	for i := from - r.first; i < uint64(len(r.items)) && len(items) < limit; i++ {
		items = append(items, r.items[i].item)
	}
	if len(items) == 0 && r.changed == nil {
		r.changed = make(chan struct{})
	}
	return items, missing, from + uint64(len(items)), r.changed
}
