package agent_test

import (
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	agentv1 "github.com/ultravioletrs/cocos/api/agent/v1"
	"github.com/ultravioletrs/cocos/internal/agent"
	"github.com/ultravioletrs/cocos/internal/callauth"
	"github.com/ultravioletrs/cocos/internal/rpcerr"
	"github.com/ultravioletrs/cocos/manifest"
)

// A stranger is refused by what it says first: it is not waited for, and what it
// would send is not kept.
func TestStrangersAreRefusedByTheirHeaders(t *testing.T) {
	e := start(t, basic(t))
	conn, _ := e.dial()
	for _, method := range []string{
		agentv1.AgentService_State_FullMethodName, agentv1.AgentService_ConfirmResult_FullMethodName,
		agentv1.AgentService_Upload_FullMethodName, agentv1.AgentService_Events_FullMethodName, "/no.such/Method",
	} {
		s, err := conn.NewStream(e.ctx(), &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, method)
		if err != nil {
			t.Fatal(err)
		}
		// Nothing is sent, and nothing is closed.
		err = s.RecvMsg(&agentv1.StateResponse{})
		refused(t, err, codes.Unauthenticated, rpcerr.Unsigned)
	}
}

// Silent strangers in any number lose their places to whoever comes; a
// participant that came before them keeps its own.
func TestStrangersTakeNoPlaces(t *testing.T) {
	p := everybody()
	e := start(t, basic(t))
	early := e.as(p.consumer, manifest.Consumer)
	if _, err := early.State(e.ctx(), &agentv1.StateRequest{}); err != nil {
		t.Fatal(err)
	}
	var strangers []net.Conn
	for range 2*agent.MaxVisitors + 1 {
		c, err := net.Dial("tcp", e.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		strangers = append(strangers, c)
	}
	late := e.as(p.algo, manifest.AlgorithmProvider)
	if _, err := late.State(e.ctx(), &agentv1.StateRequest{}); err != nil {
		t.Errorf("a participant that came after them: %v", err)
	}
	if _, err := early.State(e.ctx(), &agentv1.StateRequest{}); err != nil {
		t.Errorf("a participant that came before them: %v", err)
	}
	// More came than there are places: the first ones are gone.
	for i, c := range strangers[:agent.MaxVisitors] {
		_ = c.SetReadDeadline(time.Now().Add(deadline))
		if _, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("stranger %d still has its place: %v", i, err)
		}
	}
}

// pipes is a listener for one end of each pipe that is put into it.
type pipes chan net.Conn

func (p pipes) Accept() (net.Conn, error) {
	c, ok := <-p
	if !ok {
		return nil, net.ErrClosed
	}
	return c, nil
}
func (pipes) Close() error   { return nil }
func (pipes) Addr() net.Addr { return &net.UnixAddr{} }

// Time ends a visit only if no call was admitted meanwhile.
func TestVisitsEnd(t *testing.T) {
	var expired []func()
	after := func(_ time.Duration, f func()) *time.Timer {
		expired = append(expired, f)
		timer := time.NewTimer(time.Hour)
		t.Cleanup(func() { timer.Stop() })
		return timer
	}
	in := make(pipes, 1)
	door := agent.NewDoor(in, 2, after)
	enter := func() (ours, theirs net.Conn) {
		theirs, inner := net.Pipe()
		in <- inner
		ours, err := door.Accept()
		if err != nil {
			t.Fatal(err)
		}
		return ours, theirs
	}
	gone := func(theirs net.Conn) bool {
		_ = theirs.SetReadDeadline(time.Now().Add(time.Millisecond))
		_, err := theirs.Read(make([]byte, 1))
		return errors.Is(err, io.EOF)
	}
	participant, participantFar := enter()
	agent.LetStay(participant)
	_, silentFar := enter()
	for _, f := range expired {
		f()
	}
	if gone(participantFar) || !gone(silentFar) {
		t.Errorf("when time was up: participant gone %t, stranger gone %t", gone(participantFar), gone(silentFar))
	}

	// Two that stay fill the house: the third leaves.
	other, otherFar := enter() // takes the place of the silent one, which nobody has closed yet
	agent.LetStay(other)
	_, thirdFar := enter()
	if !gone(thirdFar) || gone(participantFar) || gone(otherFar) {
		t.Errorf("full house: third gone %t, others %t %t", gone(thirdFar), gone(participantFar), gone(otherFar))
	}
	// A closed connection makes room.
	_ = other.Close()
	_ = other.Close()
	if _, far := enter(); gone(far) {
		t.Error("there was room, and the visitor had to leave")
	}
}

// The log is for participants: strangers can't fill it.
func TestStrangersAreNotLogged(t *testing.T) {
	p := everybody()
	e := start(t, basic(t))
	_, c := e.dial(grpc.WithPerRPCCredentials(callauth.Signer{Key: p.stranger, Role: manifest.Consumer, Digest: e.digest}))
	_, err := c.State(e.ctx(), &agentv1.StateRequest{})
	refused(t, err, codes.Unauthenticated, rpcerr.Signature)
	before, _ := e.journal.LinesAfter(0, 1000)
	for range 3 {
		if _, err := c.State(e.ctx(), &agentv1.StateRequest{}); err == nil {
			t.Fatal("a stranger's call was taken")
		}
	}
	if after, _ := e.journal.LinesAfter(0, 1000); len(after) != len(before) {
		t.Errorf("a stranger's calls made log lines: %v", after[len(before):])
	}
}
