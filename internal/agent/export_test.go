package agent

import (
	"context"
	"io"
	"net"
	"time"

	"google.golang.org/grpc/peer"

	"github.com/ultravioletrs/cocos/internal/callauth"
	"github.com/ultravioletrs/cocos/keys"
	"github.com/ultravioletrs/cocos/manifest"
)

// SilentPlaces and GreetedPlaces are how many may stop at these steps.
var SilentPlaces, GreetedPlaces = allPlaces[silent], allPlaces[greeted]

// NewDoor has n places at each step.
func NewDoor(l net.Listener, n int, after func(time.Duration, func()) *time.Timer) net.Listener {
	d := &door{Listener: l, after: after}
	for s := range d.places {
		d.places[s] = n
	}
	return d
}

// LetStay is what an admitted call of the key's owner on c does.
func LetStay(c net.Conn, key keys.Public) {
	letStay(peer.NewContext(context.Background(), &peer.Peer{Addr: c.RemoteAddr()}), callauth.Caller{Key: key})
}

// PlanFolder is what is made of a folder's archive before it goes to a scratch disk.
func PlanFolder(archived io.Reader, unpackedMax int64) error {
	_, err := planFolder(archived, unpackedMax)
	return err
}

// MaxPulls is how many datasets are taken from their sources at once.
const MaxPulls = maxPulls

// CheckRoom is what New asks of memory and the scratch disk.
func CheckRoom(m *manifest.Manifest, room int64, disk Scratch) error {
	return checkRoom(newInputs(m), m, room, disk)
}
