package vsock_test

import (
	"io"
	"log/slog"
	"testing"
	"time"

	"github.com/ultravioletrs/cocos/internal/vsock"
	"github.com/ultravioletrs/cocos/internal/vsock/vsocktest/frontend"
)

// FuzzControl sends a device control messages that are nearly right, in any
// order, while packets wait in the rings. Whatever comes, it neither panics nor
// hangs, and when QEMU has gone it ends.
func FuzzControl(f *testing.F) {
	const step = 4
	var start, twice []byte // four bytes a message: which, where to change it, how, and its files
	for i := range 16 {
		start = append(start, byte(i), 0, 0, 0)
	}
	twice = append(append(append(twice, start...), 16, 0, 0, 0, 17, 0, 0, 0), start...)
	f.Add(start)
	f.Add(twice)
	f.Add([]byte{0, 8, 1, 0, 1, 0, 0, 0, 2, 0, 0, 0})
	f.Add([]byte{3, 8, 0xff, 0, 200, 9, 1, 3})
	f.Fuzz(func(t *testing.T, script []byte) {
		host, err := vsock.NewUserHost(vsock.UserConfig{GuestCID: guestCID, Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		defer host.Close()
		if _, err := host.Listen(9000); err != nil {
			t.Fatal(err)
		}
		front, err := frontend.FromFile(host.QEMUFile())
		if err != nil {
			t.Fatal(err)
		}
		defer front.Close()
		host.QEMUFile().Close()
		go io.Copy(io.Discard, front.Conn) // the replies
		// Something to do for whichever ring comes to life.
		if err := front.FillRX(); err != nil {
			t.Fatal(err)
		}
		front.TX.Post(packet(frontend.OpRequest, 1000, 9000, "").Bytes())
		front.TX.Post(packet(frontend.OpData, 1000, 9000, "data").Bytes())

		messages := front.Messages()
		for _, r := range []*frontend.Ring{front.RX, front.TX} {
			messages = append(messages, frontend.Message{Request: frontend.GetVringBase, Body: frontend.Pair(uint32(r.Index), 0)})
		}
		memfd := messages[0].Files[0]
		for ; len(script) >= step; script = script[step:] {
			m := frontend.Message{Request: uint32(script[0]), Body: make([]byte, 64)}
			if i := int(script[0]); i < len(messages) {
				m = messages[i]
				m.Body = append([]byte(nil), m.Body...)
			}
			m.Body[int(script[1])%len(m.Body)] ^= script[2]
			switch script[3] {
			case 1:
				m.Files = nil
			case 2:
				m.Files = append(m.Files, memfd)
			case 3:
				m.Files = []int{memfd}
			}
			if front.Send(m.Request, 1|uint32(script[3]&8), m.Body, m.Files...) != nil {
				break // the device has hung up
			}
		}
		front.Conn.CloseWrite()
		select {
		case <-host.Done():
		case <-time.After(frontend.Patience):
			t.Fatal("the device goes on after QEMU has gone")
		}
	})
}
