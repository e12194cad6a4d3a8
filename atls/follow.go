package atls

import "net"

// Step is how far a client has come with a server of this package.
type Step int

// The steps, in their order. Without evidence there are the first and the last.
const (
	// Greeted: the client's ClientHello is complete.
	Greeted Step = iota + 1
	// Waiting: the client waits for the server's evidence, and nothing is awaited
	// of it.
	Waiting
	// Appraising: the evidence goes to the client, whose verdict is awaited.
	Appraising
	// Connected: the connection may carry calls.
	Connected
)

// Follower is what a connection may implement that is given to a server's
// ServerHandshake: it is told how far its client is, so that one that stalls can
// be told from one that is kept waiting. It must not wait.
type Follower interface {
	Reached(Step)
}

// tell tells the connection below conn, if it wants to know.
func tell(conn any, s Step) {
	if c, ok := conn.(interface{ NetConn() net.Conn }); ok { // a tls.Conn
		conn = c.NetConn()
	}
	if f, ok := conn.(Follower); ok {
		f.Reached(s)
	}
}
