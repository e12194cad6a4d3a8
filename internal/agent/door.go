package agent

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc/peer"

	"github.com/ultravioletrs/cocos/atls"
	"github.com/ultravioletrs/cocos/internal/callauth"
)

// patience is how long a connection may take to its first admitted call.
const patience = 30 * time.Second

// step is how far a connection has come.
type step int

const (
	silent     step = iota // not even a whole ClientHello came
	greeted                // TLS goes on
	waiting                // for evidence, which is the agent's to give
	appraising             // the evidence, which was sent
	connected              // and no call was admitted yet
	admitted               // as a participant's
	steps
)

// reached are the steps that the handshake tells.
var reached = map[atls.Step]step{
	atls.Greeted: greeted, atls.Waiting: waiting, atls.Appraising: appraising, atls.Connected: connected,
}

// places are how many connections there may be at each step. Up to appraising
// one costs at most 30 KiB, from connected on 140 KiB and what is under way.
type places [steps]int

var allPlaces = places{silent: 128, greeted: 128, waiting: 512, appraising: 256, connected: 64, admitted: 128}

// door is the listener for participants. Whoever connects is a visitor until a
// call is admitted on its connection, and has patience to get there.
//
// Strangers can be many, and each can stop at any step. Invariants:
//   - Connections compete for places with those alone that have come as far. A
//     silent stranger takes nothing from who has said a word, and one that stops
//     half-way nothing from who is before or behind.
//   - Who waits for evidence competes with nobody who could stall: all of these
//     go on with the next report.
//   - Where one is too many, the address with the most connections at the step
//     gives up the one that is there longest. An address can't decide more than
//     that: behind a forwarded port or a NAT all of the world has the same one.
//     There it is the one that has kept the agent waiting longest, and who is
//     quick stays. The newcomer is never the one.
//   - A participant is known by its key, not by its address. The one with the
//     most connections gives one up, and none does for who has as many.
//
// What this can't do: who completes so many handshakes that more than a step's
// places are taken anew in the time that a client from the same address needs
// for the step (hundreds in a second) can keep that client out, and nobody who
// has been admitted.
type door struct {
	net.Listener
	places places
	after  func(time.Duration, func()) *time.Timer

	mu     sync.Mutex
	closed bool
	at     [steps][]*visitor // in the order in which they came to the step
}

func newDoor(l net.Listener) *door {
	return &door{Listener: l, places: allPlaces, after: time.AfterFunc}
}

// visitor is a connection. Its address leads back to it from a call's context.
type visitor struct {
	net.Conn
	door *door

	// Guarded by the door's mutex.
	step  step
	whose string // its address's or, once admitted, the participant's
	gone  bool   // has no place any more
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
	v := &visitor{Conn: c, door: d, whose: addressOf(c.RemoteAddr())}
	d.enter(v)
	return v, nil
}

// addressOf is what one stranger has of addresses: of IPv6, a network of 64 bits.
func addressOf(a net.Addr) string {
	at, err := netip.ParseAddrPort(a.String())
	if err != nil {
		return a.String()
	}
	ip := at.Addr().Unmap()
	if ip.Is6() {
		network, _ := ip.WithZone("").Prefix(64) // 64 bits it has
		return network.String()
	}
	return ip.String()
}

// Close implements net.Listener. Visitors are sent away, too: whoever ends the
// server would wait for their handshakes.
func (d *door) Close() error {
	err := d.Listener.Close()
	d.mu.Lock()
	d.closed = true
	var out []*visitor
	for s := silent; s < admitted; s++ {
		out = append(out, d.at[s]...)
	}
	for _, v := range out {
		d.leave(v)
	}
	d.mu.Unlock()
	for _, v := range out {
		_ = v.Conn.Close() // the server learns of it by its next read
	}
	return err
}

func (d *door) enter(v *visitor) {
	d.mu.Lock()
	v.timer = d.after(patience, v.expire)
	d.at[silent] = append(d.at[silent], v)
	out := d.crowded(silent)
	if d.closed {
		d.leave(v)
		out = v
	}
	d.mu.Unlock()
	if out != nil {
		_ = out.Conn.Close()
	}
}

// advance takes v to a later step, admitted as the participant's with the key.
func (d *door) advance(v *visitor, to step, key string) {
	d.mu.Lock()
	var out *visitor
	if !v.gone && to > v.step {
		d.remove(v)
		v.step = to
		if to == admitted {
			v.whose = key
			v.timer.Stop()
		}
		d.at[to] = append(d.at[to], v)
		out = d.crowded(to)
	}
	d.mu.Unlock()
	if out != nil {
		_ = out.Conn.Close()
	}
}

// crowded has somebody leave, and returns who, if there are too many at a step.
// The caller holds d.mu.
func (d *door) crowded(s step) *visitor {
	all := d.at[s]
	if len(all) <= d.places[s] {
		return nil
	}
	count, most := map[string]int{}, 0
	for _, v := range all {
		count[v.whose]++
		most = max(most, count[v.whose])
	}
	out := all[len(all)-1]
	if s != admitted || count[out.whose] < most {
		out = all[slices.IndexFunc(all, func(v *visitor) bool { return count[v.whose] == most })]
	}
	d.leave(out)
	return out
}

// leave takes v's place for good. The caller holds d.mu.
func (d *door) leave(v *visitor) {
	v.timer.Stop()
	d.remove(v)
	v.gone = true
}

func (d *door) remove(v *visitor) {
	if i := slices.Index(d.at[v.step], v); i >= 0 {
		d.at[v.step] = slices.Delete(d.at[v.step], i, i+1)
	}
}

// letStay notes that a participant's call was admitted on the connection of ctx.
func letStay(ctx context.Context, c callauth.Caller) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return
	}
	if at, ok := p.Addr.(visitorAddr); ok {
		at.visitor.door.advance(at.visitor, admitted, c.Key.Fingerprint())
	}
}

// Reached implements atls.Follower.
func (v *visitor) Reached(s atls.Step) { v.door.advance(v, reached[s], "") }

// expire is called when patience is over.
func (v *visitor) expire() {
	v.door.mu.Lock()
	stays := v.step == admitted
	if !stays {
		v.door.leave(v)
	}
	v.door.mu.Unlock()
	if !stays {
		_ = v.Conn.Close()
	}
}

// RemoteAddr implements net.Conn.
func (v *visitor) RemoteAddr() net.Addr { return visitorAddr{v.Conn.RemoteAddr(), v} }

// Close implements net.Conn.
func (v *visitor) Close() error {
	v.door.mu.Lock()
	v.door.leave(v)
	v.door.mu.Unlock()
	return v.Conn.Close()
}
