package runtime

import (
	"io"
	"sync"
)

// budget is the output that is left to an algorithm: what both its writers
// write counts.
type budget struct {
	exceeded func()
	limit    int64

	mu   sync.Mutex
	left int64
}

// writer passes on to w (nil: nowhere) while there is budget. The write that
// goes beyond is passed on up to the limit, calls exceeded and fails.
func (b *budget) writer(w io.Writer) io.Writer {
	if w == nil {
		w = io.Discard
	}
	return &budgetWriter{b, w}
}

// rest is what is left.
func (b *budget) rest() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.left
}

// taken is what was written.
func (b *budget) taken() int64 { return b.limit - b.rest() }

type budgetWriter struct {
	budget *budget
	w      io.Writer
}

func (w *budgetWriter) Write(p []byte) (int, error) {
	b := w.budget
	b.mu.Lock()
	n := int(min(int64(len(p)), b.left))
	b.left -= int64(n)
	b.mu.Unlock()
	if n < len(p) {
		b.exceeded()
	}
	n, err := w.w.Write(p[:n])
	if err == nil && n < len(p) {
		err = limitError(LimitOutput)
	}
	return n, err
}
