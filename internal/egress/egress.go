// Package egress takes a guest's connections to the servers that its manifest
// names, through its host: the guest's network reaches nothing by itself.
//
// A connection is one of the guest's to the host's vsock port vm.EgressPort. The
// guest's first line names a server, the host answers with a line, and after an OK
// the bytes of a TCP connection go both ways, each half closed by itself:
//
//		CONNECT data.example.org:443
//		OK                              or ERROR and a Problem
//
//	  - Server is the host's end. The guest may be hostile: it gets only the servers
//	    of its manifest, which the Server was made with and the guest can't change.
//	  - A server's name is resolved once, on the host, and what is dialled is the
//	    address that was judged: whoever owns the name can't have another one dialled.
//	  - Addresses that are not of the public Internet, or are near the host, are
//	    refused unless its operator allowed them (Allow).
//	  - Dialer is the guest's end. The host may be hostile: of its answer only the
//	    fixed words count, and what follows is as trustworthy as any network, so that
//	    TLS or a digest must vouch for it.
//	  - Connections are bounded in number, in time to connect, and in time without a
//	    byte either way; nothing bounds how long one lasts.
package egress

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
)

// Problem is why there is no connection: the one word that follows ERROR.
type Problem string

// The problems.
const (
	Malformed   Problem = "malformed"
	Unnamed     Problem = "unnamed"
	Unresolved  Problem = "unresolved"
	Forbidden   Problem = "forbidden"
	Unreachable Problem = "unreachable"
)

var problems = map[Problem]string{
	Malformed:   "the host did not understand the request",
	Unnamed:     "the host says that the manifest does not name it",
	Unresolved:  "the host can't resolve its name",
	Forbidden:   "its address is not of the public Internet, and the host's operator has not allowed it (MANAGER_EGRESS_ALLOW)",
	Unreachable: "the host can't reach it",
}

func (p Problem) Error() string { return problems[p] }

// Bounds of the protocol.
const (
	// maxLine is that of a line in bytes, its end included: a name has at most 253.
	maxLine = 300
	// lineTimeout is how long the guest may take for its line, dialTimeout how
	// long resolving and connecting may, in which each address has leastDial or more
	// while there is time.
	lineTimeout = 30 * time.Second
	dialTimeout = 30 * time.Second
	leastDial   = 2 * time.Second
	// hostTimeout is how long the guest waits for a connection or a refusal: more
	// than an honest host takes, with a slot to wait for.
	hostTimeout = 75 * time.Second
	// maxConnections is how many there are at once; further ones wait.
	maxConnections = 64
	// idleTimeout is how long a connection may be without a byte either way.
	idleTimeout = 5 * time.Minute
	// bufferSize is that of each direction, in bytes.
	bufferSize = 64 << 10
)

const (
	connectWord = "CONNECT "
	okLine      = "OK"
	errorWord   = "ERROR "
)

// halfCloser is a connection whose directions end one by one.
type halfCloser interface {
	io.ReadWriteCloser
	CloseWrite() error
}

var errLongLine = errors.New("the line is too long")

// readLine reads byte by byte: what follows the line is the connection's content.
func readLine(r io.Reader) (string, error) {
	var line strings.Builder
	var b [1]byte
	for line.Len() < maxLine {
		if _, err := io.ReadFull(r, b[:]); err != nil {
			return "", fmt.Errorf("reading a line: %w", err)
		}
		if b[0] == '\n' {
			return line.String(), nil
		}
		line.WriteByte(b[0])
	}
	return "", errLongLine
}
