package journal

import (
	"bytes"
	"io"
	"sync"
)

// Output returns a writer each of whose lines becomes an Output line, after the
// name of where it was printed. What has no line end is a line when it is as long
// as one may be, or at Close.
func (j *Journal) Output(name string) io.WriteCloser { return &output{journal: j, name: name} }

type output struct {
	journal *Journal
	name    string

	mu   sync.Mutex
	rest []byte
}

// Write never fails: whoever reads lines may miss some, and is told how many.
func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	written := len(p)
	room := maxLineBytes - len(o.name) - len(": ")
	for len(p) > 0 {
		n := min(len(p), room-len(o.rest))
		if end := bytes.IndexByte(p[:n], '\n'); end >= 0 {
			o.line(append(o.rest, p[:end]...))
			p = p[end+1:]
			continue
		}
		o.rest = append(o.rest, p[:n]...)
		p = p[n:]
		if len(o.rest) == room {
			o.line(o.rest)
		}
	}
	return written, nil
}

func (o *output) Close() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.rest) > 0 {
		o.line(o.rest)
	}
	return nil
}

func (o *output) line(b []byte) {
	o.journal.log(Line{Level: Info, Output: true, Message: short(o.name + ": " + clean(string(b)))})
	o.rest = o.rest[:0]
}
