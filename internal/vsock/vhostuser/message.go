package vhostuser

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"

	"golang.org/x/sys/unix"
)

// Requests of a front end, by the numbers of QEMU's docs/interop/vhost-user.
const (
	reqGetFeatures         = 1
	reqSetFeatures         = 2
	reqSetOwner            = 3
	reqResetOwner          = 4
	reqSetMemTable         = 5
	reqSetVringNum         = 8
	reqSetVringAddr        = 9
	reqSetVringBase        = 10
	reqGetVringBase        = 11
	reqSetVringKick        = 12
	reqSetVringCall        = 13
	reqSetVringErr         = 14
	reqGetProtocolFeatures = 15
	reqSetProtocolFeatures = 16
	reqGetQueueNum         = 17
	reqSetVringEnable      = 18
	reqGetConfig           = 24
	reqSetConfig           = 25
)

const (
	flagVersion     = 1
	flagVersionMask = 3
	flagReply       = 1 << 2
	flagNeedReply   = 1 << 3

	headerSize = 12
	maxBody    = 4096 // bytes; the largest request served here has 264
	maxRegions = 8    // memory regions, so also descriptors in one message
)

// minBody is the size in bytes that a request's body has at least.
var minBody = map[uint32]int{
	reqSetFeatures: 8, reqSetMemTable: 8, reqSetVringNum: 8, reqSetVringAddr: 40,
	reqSetVringBase: 8, reqGetVringBase: 8, reqSetVringKick: 8, reqSetVringCall: 8, reqSetVringErr: 8,
	reqSetProtocolFeatures: 8, reqSetVringEnable: 8, reqGetConfig: 12,
}

// message is one request with the file descriptors that came with it.
type message struct {
	request, flags uint32
	body           []byte
	files          []int
}

// takeFile hands the one descriptor of the message to the caller; false where
// there is not exactly one.
func (m *message) takeFile() (int, bool) {
	if len(m.files) != 1 {
		return -1, false
	}
	fd := m.files[0]
	m.files = nil
	return fd, true
}

// closeFiles closes what nobody has taken.
func (m *message) closeFiles() {
	for _, fd := range m.files {
		unix.Close(fd)
	}
	m.files = nil
}

// readMessage reads one request. Its descriptors are the caller's to close,
// also with an error. At the end of the stream it returns io.EOF.
func readMessage(conn *net.UnixConn) (message, error) {
	var m message
	var hdr [headerSize]byte
	oob := make([]byte, unix.CmsgSpace(4*maxRegions))
	for n := 0; n < headerSize; {
		k, on, flags, _, err := conn.ReadMsgUnix(hdr[n:], oob)
		if on > 0 {
			files, perr := parseFiles(oob[:on])
			m.files = append(m.files, files...)
			if perr != nil {
				return m, perr
			}
		}
		if flags&unix.MSG_CTRUNC != 0 {
			return m, fmt.Errorf("a message with more than %d file descriptors", maxRegions)
		}
		if k == 0 && (err == nil || errors.Is(err, io.EOF)) {
			if n == 0 {
				return m, io.EOF
			}
			return m, io.ErrUnexpectedEOF
		}
		if err != nil {
			return m, err
		}
		n += k
	}
	l := binary.LittleEndian
	m.request, m.flags = l.Uint32(hdr[:]), l.Uint32(hdr[4:])
	size := l.Uint32(hdr[8:])
	if len(m.files) > maxRegions {
		return m, fmt.Errorf("request %d with more than %d file descriptors", m.request, maxRegions)
	}
	if m.flags&flagVersionMask != flagVersion || m.flags&flagReply != 0 {
		return m, fmt.Errorf("request %d with flags %#x, which are not a request's of version 1", m.request, m.flags)
	}
	if size > maxBody {
		return m, fmt.Errorf("request %d of %d bytes, more than %d", m.request, size, maxBody)
	}
	m.body = make([]byte, size)
	if _, err := io.ReadFull(conn, m.body); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return m, fmt.Errorf("reading the body of request %d: %w", m.request, err)
	}
	if len(m.body) < minBody[m.request] {
		return m, fmt.Errorf("request %d of %d bytes, at least %d are needed", m.request, size, minBody[m.request])
	}
	return m, nil
}

func parseFiles(oob []byte) ([]int, error) {
	ms, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, fmt.Errorf("parsing ancillary data: %w", err)
	}
	var files []int
	for i := range ms {
		if f, err := unix.ParseUnixRights(&ms[i]); err == nil {
			files = append(files, f...)
		}
	}
	return files, nil
}

// writeReply answers a request.
func writeReply(conn *net.UnixConn, request uint32, body []byte) error {
	out := make([]byte, headerSize, headerSize+len(body))
	l := binary.LittleEndian
	l.PutUint32(out, request)
	l.PutUint32(out[4:], flagVersion|flagReply)
	l.PutUint32(out[8:], uint32(len(body)))
	if _, err := conn.Write(append(out, body...)); err != nil {
		return fmt.Errorf("answering request %d: %w", request, err)
	}
	return nil
}
