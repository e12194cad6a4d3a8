package vhostuser

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/ultravioletrs/cocos/internal/vsock/virtq"
)

// errReset is what connections of the guest's earlier life end with.
var errReset = fmt.Errorf("the guest was reset: %w", unix.ECONNRESET)

// handle serves one request. A reply is nil where the request has none.
func (s *Session) handle(m *message) (reply []byte, err error) {
	switch m.request {
	case reqGetFeatures:
		return u64(features), nil
	case reqGetProtocolFeatures:
		return u64(protocolFeatures), nil
	case reqGetQueueNum:
		return u64(numQueues), nil
	case reqGetConfig:
		return s.getConfig(m.body), nil
	case reqSetOwner:
		return nil, nil
	case reqSetConfig:
		return nil, errors.New("the configuration of a vsock device can't be written")
	case reqSetFeatures:
		return nil, s.setFeatures(binary.LittleEndian.Uint64(m.body))
	case reqSetProtocolFeatures:
		v := binary.LittleEndian.Uint64(m.body)
		if v&^protocolFeatures != 0 {
			return nil, fmt.Errorf("protocol features %#x were not offered (%#x)", v, uint64(protocolFeatures))
		}
		s.proto = v
		return nil, nil
	}
	// The rest changes what the workers use.
	s.mu.Lock()
	defer s.mu.Unlock()
	switch m.request {
	case reqSetMemTable:
		return nil, s.setMemTable(m)
	case reqResetOwner:
		for _, q := range s.queues {
			q.setKick(nil)
			q.enabled = false
		}
		s.handler.Reset(errReset)
		return nil, nil
	case reqSetVringNum, reqSetVringAddr, reqSetVringBase, reqGetVringBase, reqSetVringEnable,
		reqSetVringKick, reqSetVringCall, reqSetVringErr:
		return s.handleVring(m)
	}
	return nil, errors.New("not supported, and not offered")
}

func (s *Session) getConfig(body []byte) []byte {
	off, size := uint64(binary.LittleEndian.Uint32(body)), uint64(binary.LittleEndian.Uint32(body[4:]))
	if size != uint64(len(body)-12) || off+size > uint64(len(s.config)) {
		return []byte{} // an empty body tells the front end that it failed
	}
	out := append([]byte(nil), body...)
	copy(out[12:], s.config[off:off+size])
	return out
}

func (s *Session) setFeatures(v uint64) error {
	if v&^uint64(features) != 0 {
		return fmt.Errorf("features %#x were not offered (%#x)", v, uint64(features))
	}
	s.acked = v
	return nil
}

// setMemTable maps the new memory before it lets go of the old.
func (s *Session) setMemTable(m *message) error {
	l := binary.LittleEndian
	n := int(l.Uint32(m.body))
	if n < 0 || n > maxRegions || len(m.body) < 8+32*n {
		return fmt.Errorf("a memory table of %d regions in %d bytes", n, len(m.body))
	}
	regions := make([]virtq.Region, n)
	for i := range regions {
		e := m.body[8+32*i:]
		regions[i] = virtq.Region{GuestAddr: l.Uint64(e), Size: l.Uint64(e[8:]), UserAddr: l.Uint64(e[16:]), Offset: l.Uint64(e[24:])}
	}
	mem, err := virtq.Map(regions, m.files)
	if err != nil {
		return err
	}
	old := s.mem
	s.mem = mem
	defer old.Unmap()
	for _, q := range s.queues {
		if err = q.attach(mem); err != nil {
			for _, q := range s.queues { // none may keep a piece of the old memory
				q.ring.Detach()
			}
			return err
		}
		q.notify()
	}
	return nil
}

// handleVring serves the requests that name a queue; mu is held.
func (s *Session) handleVring(m *message) (reply []byte, err error) {
	l := binary.LittleEndian
	index := l.Uint32(m.body)
	noFile := false
	switch m.request {
	case reqSetVringKick, reqSetVringCall, reqSetVringErr:
		noFile = index&(1<<8) != 0
		index &= 0xff
	}
	if index >= numQueues {
		return nil, fmt.Errorf("there is no queue %d", index)
	}
	q := s.queues[index]
	// Whatever changes, let the worker look again.
	defer q.notify()
	switch m.request {
	case reqSetVringNum:
		n := l.Uint32(m.body[4:])
		if n == 0 || n > virtq.MaxSize || n&(n-1) != 0 {
			return nil, fmt.Errorf("queue size %d is not a power of two up to %d", n, virtq.MaxSize)
		}
		q.layout.Size = int(n)
		q.ring.Detach() // until its address comes
	case reqSetVringAddr:
		q.layout.Desc, q.layout.Used, q.layout.Avail = l.Uint64(m.body[8:]), l.Uint64(m.body[16:]), l.Uint64(m.body[24:])
		return nil, q.attach(s.mem)
	case reqSetVringBase:
		s.setBase(q, l.Uint32(m.body[4:]))
	case reqGetVringBase: // stops the queue; a start brings its place anew
		q.setKick(nil)
		q.layout = virtq.Layout{}
		q.ring.Detach()
		reply = binary.LittleEndian.AppendUint32(append(reply, m.body[:4]...), uint32(q.ring.Index()))
		return reply, nil
	case reqSetVringEnable:
		q.enabled = l.Uint32(m.body[4:]) == 1
	case reqSetVringKick:
		return nil, s.setKick(q, m, noFile)
	case reqSetVringCall:
		return nil, setSlot(&q.call, m, noFile)
	case reqSetVringErr:
		return nil, setSlot(&q.err, m, noFile)
	}
	return nil, nil
}

// setBase tells a reset from a resume: see the package comment.
func (s *Session) setBase(q *vring, base uint32) {
	if base == 0 && (q.ring.Index() != 0 || q.broken.Load()) {
		s.handler.Reset(errReset)
		q.broken.Store(false)
	}
	q.ring.SetIndex(uint16(base))
}

func (s *Session) setKick(q *vring, m *message, noFile bool) error {
	fd, ok := m.takeFile()
	if !ok || noFile {
		if ok {
			unix.Close(fd)
		}
		return errors.New("a kick without an eventfd (polling is not supported)")
	}
	if err := eventFile(fd); err != nil {
		unix.Close(fd)
		return err
	}
	kick := os.NewFile(uintptr(fd), "kick")
	q.setKick(kick)
	if s.acked&featProtocol == 0 {
		q.enabled = true // without protocol features there is no SET_VRING_ENABLE
	}
	s.wg.Go(func() { q.readKicks(kick) })
	return nil
}

// setSlot stores the message's event descriptor, or none.
func setSlot(slot *int, m *message, noFile bool) error {
	fd, ok := m.takeFile()
	if !ok && !noFile {
		return errors.New("exactly one file descriptor is needed")
	}
	if !ok {
		setEvent(slot, -1)
		return nil
	}
	if err := eventFile(fd); err != nil {
		unix.Close(fd)
		return err
	}
	setEvent(slot, fd)
	return nil
}
