package manager

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	managerv1 "github.com/ultravioletrs/cocos/api/manager/v1"
	"github.com/ultravioletrs/cocos/test/computations/server"
)

func TestLanes(t *testing.T) {
	l := newLanes(4, 100, 2)
	gate := make(chan struct{})
	var mu sync.Mutex
	var done []string
	job := func(name string, wait bool) func() {
		return func() {
			if wait {
				<-gate
			}
			mu.Lock()
			defer mu.Unlock()
			done = append(done, name)
		}
	}
	if !l.add("a", 40, job("a1", true)) || !l.add("a", 40, job("a2", false)) {
		t.Fatal("there is room")
	}
	if l.add("b", 21, job("b", false)) {
		t.Error("101 bytes were taken where 100 may be")
	}
	other := make(chan struct{})
	if !l.add("b", 20, func() { close(other) }) {
		t.Error("exactly 100 bytes were refused")
	}
	<-other // while a waits
	for !l.add("c", 10, job("c1", true)) || !l.add("c", 0, job("c2", false)) {
		time.Sleep(time.Millisecond) // until b is out of the books
	}
	if l.add("d", 0, job("d", false)) {
		t.Error("a fifth request was taken where 4 may be")
	}
	close(gate)
	l.wait()
	for _, name := range []string{"a", "c"} {
		if first, second := slices.Index(done, name+"1"), slices.Index(done, name+"2"); first < 0 || second < first {
			t.Errorf("done in the order %q", done)
		}
	}
	if !l.add("e", 100, func() {}) {
		t.Error("what is done still counts")
	}
	l.wait()
}

// held is a service whose run requests wait for gate.
type held struct {
	quiet
	gate  chan struct{}
	acked chan eventKey

	mu    sync.Mutex
	order []string
}

func (h *held) accept(r RunRequest) Reply {
	<-h.gate
	h.mu.Lock()
	defer h.mu.Unlock()
	h.order = append(h.order, "run "+r.RunID)
	return Reply{RunID: r.RunID, Port: 1}
}

func (h *held) halt(_ context.Context, id string, _ time.Duration) []Fault {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.order = append(h.order, "stop "+id)
	return nil
}

func (h *held) ack(k eventKey) { h.acked <- k }

// flooder asks for more than a Manager takes, and then acknowledges an event.
type flooder struct {
	managerv1.UnimplementedComputationsServiceServer
	requests int
	replies  chan *managerv1.ConnectRequest
}

func (f *flooder) Connect(stream grpc.BidiStreamingServer[managerv1.ConnectRequest, managerv1.ConnectResponse]) error {
	if _, err := stream.Recv(); err != nil {
		return err
	}
	send := func(m *managerv1.ConnectResponse) error { return stream.Send(m) }
	err := send(welcome(ProtocolVersion)[0])
	for i := 0; err == nil && i < f.requests; i++ {
		id := fmt.Sprint(i)
		err = send(&managerv1.ConnectResponse{Message: &managerv1.ConnectResponse_RunRequest{RunRequest: &managerv1.RunRequest{RunId: id}}})
		if err == nil {
			err = send(&managerv1.ConnectResponse{Message: &managerv1.ConnectResponse_StopRequest{StopRequest: &managerv1.StopRequest{RunId: id}}})
		}
	}
	if err == nil {
		err = send(&managerv1.ConnectResponse{Message: &managerv1.ConnectResponse_EventAck{EventAck: &managerv1.EventAck{RunId: "x", Sequence: 7}}})
	}
	for err == nil {
		var m *managerv1.ConnectRequest
		if m, err = stream.Recv(); err == nil {
			f.replies <- m
		}
	}
	return err
}

// TestServerThatFloods: however much it asks, acknowledgements pass, what is too
// much is refused, and a stop never overtakes the run that it is for.
func TestServerThatFloods(t *testing.T) {
	const requests = 1500
	cert, ca, err := server.SelfSigned("127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	f := &flooder{requests: requests, replies: make(chan *managerv1.ConnectRequest, 2*requests)}
	address := serveGreeter(t, f, grpc.Creds(credentials.NewTLS(&tls.Config{Certificates: []tls.Certificate{cert}})))
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	h := &held{gate: make(chan struct{}), acked: make(chan eventKey, 1)}
	link := newLink(address, SystemClock{}, &tls.Config{RootCAs: pool})
	link.service = h
	ended := make(chan error, 1)
	go func() { ended <- link.connect(ctx) }()
	defer func() { cancel(); <-ended }()
	select {
	case k := <-h.acked:
		if k.sequence != 7 {
			t.Errorf("acknowledged: %+v", k)
		}
	case err := <-ended:
		ended <- err
		t.Fatal(err)
	case <-ctx.Done():
		t.Fatal("requests hold an acknowledgement up")
	}
	close(h.gate)
	refused, good := 0, 0
	for range 2 * requests {
		select {
		case m := <-f.replies:
			r := m.GetRunReply().GetRefusal()
			if r == nil {
				r = m.GetStopReply().GetRefusal()
			}
			switch {
			case r == nil:
				good++
			case r.GetFaults()[0].GetReason() == string(NoCapacity):
				refused++
			default:
				t.Fatalf("%v", m)
			}
		case <-ctx.Done():
			t.Fatalf("%d and %d replies of %d", good, refused, 2*requests)
		}
	}
	if good < maxRequests || refused == 0 {
		t.Errorf("%d were worked on, %d refused", good, refused)
	}
	place := map[string]int{}
	for i, what := range h.order {
		place[what] = i + 1
	}
	for i := range requests {
		run, stop := place[fmt.Sprint("run ", i)], place[fmt.Sprint("stop ", i)]
		if run > 0 && stop > 0 && stop < run {
			t.Errorf("the stop of run %d overtook it", i)
		}
	}
}
