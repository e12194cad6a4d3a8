package vhostuser

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/ultravioletrs/cocos/internal/vsock/virtq"
)

// vring is a queue with its event descriptors. The session's lock guards it:
// the write half to change it, the read half to work it.
type vring struct {
	index   int
	ring    virtq.Queue
	layout  virtq.Layout
	chain   virtq.Chain // the worker's
	kick    *os.File    // the guest notifies through it; nil: stopped
	call    int         // interrupts go there; -1: none
	err     int         // a broken ring is reported there; -1: none
	enabled bool
	broken  atomic.Bool
	wake    chan struct{}
}

func newVring(index int) *vring {
	return &vring{index: index, call: -1, err: -1, wake: make(chan struct{}, 1)}
}

// notify makes the worker look at the queue.
func (q *vring) notify() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

func (q *vring) ready() bool {
	return q.kick != nil && q.enabled && !q.broken.Load() && q.ring.Attached()
}

// attach places the ring in memory once its place is known.
func (q *vring) attach(m *virtq.Memory) error {
	if m == nil || q.layout.Desc == 0 {
		q.ring.Detach()
		return nil
	}
	return q.ring.Attach(m, q.layout)
}

func (q *vring) publish() {
	if q.ring.Publish() {
		signal(q.call)
	}
}

func (q *vring) signalError() { signal(q.err) }

// signal adds one to an event descriptor. It is non-blocking: a counter that
// is full has an event pending anyway.
func signal(fd int) {
	if fd >= 0 {
		unix.Write(fd, []byte{1, 0, 0, 0, 0, 0, 0, 0})
	}
}

// setKick starts the ring (or stops it, with nil). The reader of an earlier
// descriptor ends when that is closed.
func (q *vring) setKick(f *os.File) {
	if q.kick != nil {
		q.kick.Close()
	}
	q.kick = f
}

func setEvent(slot *int, fd int) {
	if *slot >= 0 {
		unix.Close(*slot)
	}
	*slot = fd
}

func (q *vring) close() {
	q.setKick(nil)
	setEvent(&q.call, -1)
	setEvent(&q.err, -1)
	q.ring.Detach()
}

// readKicks passes the guest's notifications on until the file is closed.
func (q *vring) readKicks(kick *os.File) {
	var b [8]byte
	for {
		if _, err := kick.Read(b[:]); err != nil {
			return
		}
		q.notify()
	}
}

// eventFile takes fd if it is an event descriptor, and makes it non-blocking:
// anything else could block or spin the one who uses it.
func eventFile(fd int) error {
	name, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
	if err != nil {
		return fmt.Errorf("looking at the file descriptor: %w", err)
	}
	if !strings.HasPrefix(name, "anon_inode:[eventfd") {
		return errors.New("the file descriptor is not an eventfd")
	}
	return unix.SetNonblock(fd, true)
}
