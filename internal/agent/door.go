package agent

import (
	"context"
	"net"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc/peer"
)

const (
	// maxVisitors bounds the connections that are open at once. Each costs some
	// hundred KiB of buffers.
	maxVisitors = 128
	// patience is how long a connection may take to its first admitted call.
	patience = 30 * time.Second
)

// door is the listener for participants. Whoever connects is a visitor until a
// call is admitted on its connection, and then may stay. Visitors leave when
// their time is up, and, the oldest first, when there are too many: strangers
// that come in numbers or say nothing take neither the agent's memory nor the
// participants' places.
type door struct {
	net.Listener
	max   int
	after func(time.Duration, func()) *time.Timer

	mu    sync.Mutex
	conns []*visitor // in the order in which they came
}

func newDoor(l net.Listener) *door {
	return &door{Listener: l, max: maxVisitors, after: time.AfterFunc}
}

// visitor is a connection. Its address leads back to it from a call's context.
type visitor struct {
	net.Conn
	door *door

	// Guarded by the door's mutex.
	stays bool
	timer *time.Timer
}

type visitorAddr struct {
	net.Addr
	visitor *visitor
}

// Accept implements net.Listener.
func (d *door) Accept() (net.Conn, error) {
	c, err := d.Listener.Accept()
	if err != nil {
		return nil, err
	}
	v := &visitor{Conn: c, door: d}
	if out := d.enter(v); out != nil {
		_ = out.Conn.Close() // the server learns of it by its next read
	}
	return v, nil
}

// enter returns who has to leave.
func (d *door) enter(v *visitor) (out *visitor) {
	d.mu.Lock()
	defer d.mu.Unlock()
	v.timer = d.after(patience, func() {
		d.mu.Lock()
		stays := v.stays
		d.mu.Unlock()
		if !stays {
			_ = v.Conn.Close()
		}
	})
	d.conns = append(d.conns, v)
	if len(d.conns) <= d.max {
		return nil
	}
	// The new one, where all others stay.
	i := slices.IndexFunc(d.conns, func(v *visitor) bool { return !v.stays })
	out = d.conns[i]
	d.conns = slices.Delete(d.conns, i, i+1)
	return out
}

// letStay notes that a call was admitted on the connection of ctx.
func letStay(ctx context.Context) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return
	}
	if at, ok := p.Addr.(visitorAddr); ok {
		v := at.visitor
		v.door.mu.Lock()
		defer v.door.mu.Unlock()
		v.stays = true
		v.timer.Stop()
	}
}

// RemoteAddr implements net.Conn.
func (v *visitor) RemoteAddr() net.Addr { return visitorAddr{v.Conn.RemoteAddr(), v} }

// Close implements net.Conn.
func (v *visitor) Close() error {
	v.door.mu.Lock()
	v.timer.Stop()
	if i := slices.Index(v.door.conns, v); i >= 0 {
		v.door.conns = slices.Delete(v.door.conns, i, i+1)
	}
	v.door.mu.Unlock()
	return v.Conn.Close()
}
