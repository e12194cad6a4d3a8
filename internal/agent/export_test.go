package agent

import (
	"context"
	"net"
	"time"

	"google.golang.org/grpc/peer"
)

const MaxVisitors = maxVisitors

func NewDoor(l net.Listener, places int, after func(time.Duration, func()) *time.Timer) net.Listener {
	return &door{Listener: l, max: places, after: after}
}

// LetStay is what an admitted call on c does.
func LetStay(c net.Conn) {
	letStay(peer.NewContext(context.Background(), &peer.Peer{Addr: c.RemoteAddr()}))
}
