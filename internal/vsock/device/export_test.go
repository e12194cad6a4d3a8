package device

import "net"

// Held is what the guest makes the device hold, counted in every place.
type Held struct{ Conns, Queued, Strays, Bytes int }

// Held counts, and says whether that is within the bounds.
func (d *Device) Held() (h Held, ok bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	h = Held{Conns: len(d.conns), Queued: len(d.ready), Strays: len(d.strays)}
	ok = true
	for _, c := range d.ready {
		ok = ok && c.queued && c.state != stateDead && d.conns[c.k] == c
	}
	for _, c := range d.conns {
		h.Bytes += c.in.len()
		ok = ok && c.in.len() <= bufferSize && cap(c.in.data) <= bufferSize
	}
	return h, ok && h.Conns <= d.held && d.held <= maxConns && h.Queued <= h.Conns && h.Strays <= maxStrays
}

// Skip moves all counters of a connection on, as if n bytes had gone each way.
func Skip(c net.Conn, n uint32) {
	x := c.(*Conn)
	x.d.mu.Lock()
	defer x.d.mu.Unlock()
	for _, counter := range []*uint32{&x.received, &x.taken, &x.told, &x.sent, &x.peerTaken} {
		*counter += n
	}
}
