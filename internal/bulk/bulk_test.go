package bulk

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"

	agentv1 "github.com/ultravioletrs/cocos/api/agent/v1"
)

// protobuf is gRPC's own codec: the wire format that must be met.
func protobuf() encoding.CodecV2 { return encoding.GetCodecV2(proto.Name) }

func marshal(t testing.TB, c encoding.CodecV2, v any) []byte {
	t.Helper()
	b, err := c.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b.Materialize()
}

// pieces cuts b the way that frames do.
func pieces(b []byte, n int) (s mem.BufferSlice) {
	for len(b) > 0 {
		n := min(n, len(b))
		s = append(s, mem.SliceBuffer(b[:n]))
		b = b[n:]
	}
	return s
}

func noise(n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{9}).Read(b)
	return b
}

func TestAChunkIsAnOrdinaryMessage(t *testing.T) {
	for _, size := range []int{0, 1, 127, 128, 16384, ChunkSize} {
		data := noise(size)
		c := &Chunk{Data: mem.BufferSlice{mem.SliceBuffer(data)}}
		wire := marshal(t, codec{}, c)

		var up agentv1.UploadRequest
		var down agentv1.ResultResponse
		if err := protobuf().Unmarshal(pieces(wire, len(wire)), &up); err != nil || !bytes.Equal(up.GetChunk(), data) {
			t.Errorf("%d bytes as UploadRequest: %v", size, err)
		}
		if err := protobuf().Unmarshal(pieces(wire, len(wire)), &down); err != nil || !bytes.Equal(down.GetChunk(), data) || down.GetInfo() != nil {
			t.Errorf("%d bytes as ResultResponse: %v", size, err)
		}
		for _, m := range []any{
			&agentv1.UploadRequest{Message: &agentv1.UploadRequest_Chunk{Chunk: data}},
			&agentv1.ResultResponse{Chunk: data},
		} {
			wire := marshal(t, protobuf(), m)
			for _, n := range []int{1, 2, 3, 7, 16384, len(wire) + 1} {
				if n < 8 && size > 1000 {
					continue
				}
				var got Chunk
				if err := (codec{}).Unmarshal(pieces(wire, n), &got); err != nil || got.NotChunk || !bytes.Equal(got.Data.Materialize(), data) {
					t.Errorf("%T of %d bytes in pieces of %d: %v %t", m, size, n, err, got.NotChunk)
				}
			}
		}
	}
}

func TestWhatIsNotAChunk(t *testing.T) {
	begin := &agentv1.UploadRequest{Message: &agentv1.UploadRequest_Begin{Begin: &agentv1.UploadBegin{Offset: 1}}}
	info := &agentv1.ResultResponse{Info: &agentv1.ResultInfo{Size: 1}, Chunk: []byte("x")}
	good := marshal(t, protobuf(), &agentv1.ResultResponse{Chunk: []byte("abc")})
	for name, wire := range map[string][]byte{
		"begin":            marshal(t, protobuf(), begin),
		"info and chunk":   marshal(t, protobuf(), info),
		"one byte too big": marshal(t, protobuf(), &agentv1.ResultResponse{Chunk: make([]byte, ChunkSize+1)}),
		"cut":              good[:len(good)-1],
		"cut in its head":  good[:1],
		"a byte after it":  append(slices.Clone(good), 0),
		"two chunks":       append(slices.Clone(good), good...),
		"huge length":      {0x12, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f},
		"length overflows": {0x12, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f},
		"other field":      {0x1a, 1, 'x'},
		"other type":       {0x10, 1},
		"rubbish":          {0xff, 0xff, 0xff},
	} {
		var c Chunk
		if err := (codec{}).Unmarshal(pieces(wire, 4), &c); err != nil || !c.NotChunk || c.Data.Len() != 0 {
			t.Errorf("%s: %v %+v", name, err, c)
		}
	}
}

// Everything else is gRPC's own codec's.
func TestOtherMessagesPassThrough(t *testing.T) {
	want := &agentv1.UploadRequest{Message: &agentv1.UploadRequest_Begin{Begin: &agentv1.UploadBegin{Offset: 7}}}
	var got agentv1.UploadRequest
	if err := (codec{}).Unmarshal(pieces(marshal(t, codec{}, want), 3), &got); err != nil || got.GetBegin().GetOffset() != 7 {
		t.Errorf("%v %v", &got, err)
	}
	if _, err := (codec{}).Marshal("text"); err == nil {
		t.Error("marshalled a string")
	}
	if (codec{}).Name() != proto.Name {
		t.Error("another name on the wire")
	}
}

// wire is a stream in memory: what is sent is what is received.
type wire struct {
	messages [][]byte
	sendErr  error // of the message after failAt
	failAt   int
	end      error
}

func (w *wire) SendMsg(m any) error {
	if w.sendErr != nil && len(w.messages) == w.failAt {
		return w.sendErr
	}
	b, err := (codec{}).Marshal(m)
	if err != nil {
		return err
	}
	w.messages = append(w.messages, b.Materialize())
	b.Free()
	return nil
}

func (w *wire) RecvMsg(m any) error {
	if len(w.messages) == 0 {
		return w.end
	}
	b := w.messages[0]
	w.messages = w.messages[1:]
	return (codec{}).Unmarshal(pieces(b, 16384), m)
}

func TestSendAndReceive(t *testing.T) {
	for _, size := range []int{0, 1, ChunkSize - 1, ChunkSize, ChunkSize + 1, 5*ChunkSize + 12345} {
		data := noise(size)
		for name, feed := range map[string]func(*Sender) error{
			"read whole":   func(s *Sender) error { _, err := s.ReadFrom(bytes.NewReader(data)); return err },
			"read by half": func(s *Sender) error { _, err := s.ReadFrom(iotest.HalfReader(bytes.NewReader(data))); return err },
			"io.Copy":      func(s *Sender) error { _, err := io.Copy(s, bytes.NewReader(data)); return err },
			"write whole":  func(s *Sender) error { _, err := s.Write(data); return err },
			"write pieces": func(s *Sender) error {
				for b := data; len(b) > 0; {
					n := min(len(b), 100_003)
					if m, err := s.Write(b[:n]); err != nil || m != n {
						return err
					}
					b = b[n:]
				}
				return nil
			},
		} {
			w := &wire{end: io.EOF}
			sent := 0
			s := NewSender(w.SendMsg, func(n int) { sent += n })
			if err := feed(s); err != nil {
				t.Fatal(err)
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			if want := (size + ChunkSize - 1) / ChunkSize; len(w.messages) != want || sent != size {
				t.Errorf("%s: %d bytes in %d messages, want %d", name, sent, len(w.messages), want)
			}
			var one, two bytes.Buffer
			taken := 0
			n, err := Receive(w, int64(size), func(n int) { taken += n }, &one, &two)
			if err != nil || n != int64(size) || taken != size || !bytes.Equal(one.Bytes(), data) || !bytes.Equal(two.Bytes(), data) {
				t.Errorf("%s: received %d of %d bytes, %v", name, n, size, err)
			}
		}
	}
}

// A chunk's buffer is used again as it is: nothing of what it held may travel.
func TestNothingOfAnEarlierChunkIsSent(t *testing.T) {
	for range 20 {
		for _, data := range [][]byte{noise(ChunkSize), []byte("short")} {
			w := &wire{end: io.EOF}
			s := NewSender(w.SendMsg, nil)
			if _, err := s.Write(data); err != nil {
				t.Fatal(err)
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			var got bytes.Buffer
			if _, err := Receive(w, ChunkSize, nil, &got); err != nil || !bytes.Equal(got.Bytes(), data) {
				t.Fatalf("sent %d bytes, received %d: %v", len(data), got.Len(), err)
			}
		}
	}
}

func TestSenderFails(t *testing.T) {
	broken := errors.New("broken")
	for _, at := range []int{0, 1, 3} {
		w := &wire{sendErr: broken, failAt: at}
		s := NewSender(w.SendMsg, nil)
		_, err := s.ReadFrom(io.LimitReader(zeros{}, 50*ChunkSize))
		if closeErr := s.Close(); !errors.Is(err, broken) || !errors.Is(closeErr, broken) {
			t.Errorf("after %d messages: %v, %v", at, err, closeErr)
		}
		if _, err := s.free(); !errors.Is(err, broken) {
			t.Errorf("a write after the error: %v", err)
		}
	}
	s := NewSender((&wire{}).SendMsg, nil)
	if _, err := s.ReadFrom(iotest.ErrReader(broken)); !errors.Is(err, broken) {
		t.Errorf("a reader's error: %v", err)
	}
	s.Abandon()
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) {
	clear(b)
	return len(b), nil
}

// failing is a sink that takes so many bytes.
type failing struct{ left int }

func (f *failing) Write(b []byte) (int, error) {
	if f.left -= len(b); f.left < 0 {
		return 0, errors.New("disk full")
	}
	return len(b), nil
}

func TestReceiveFails(t *testing.T) {
	stream := func(end error, sizes ...int) *wire {
		w := &wire{end: end}
		for _, n := range sizes {
			if err := w.SendMsg(&Chunk{Data: mem.BufferSlice{mem.SliceBuffer(make([]byte, n))}}); err != nil {
				t.Fatal(err)
			}
		}
		return w
	}
	gone := errors.New("gone")
	for _, tt := range []struct {
		name  string
		in    *wire
		limit int64
		want  error
		n     int64
	}{
		{"stream breaks", stream(gone, 10, 20), 100, gone, 30},
		{"one byte too many", stream(io.EOF, 10, 20), 29, ErrTooLong, 10},
		{"nothing allowed", stream(io.EOF, 1), 0, ErrTooLong, 0},
		{"exactly enough", stream(io.EOF, 10, 20), 30, nil, 30},
		{"not a chunk", &wire{messages: [][]byte{{0x12, 1, 'x'}, {0x08, 1}}, end: io.EOF}, 100, ErrNotChunk, 1},
	} {
		var one, two bytes.Buffer
		n, err := Receive(tt.in, tt.limit, nil, &one, &two)
		if !errors.Is(err, tt.want) || n != tt.n || int64(one.Len()) != tt.n || int64(two.Len()) != tt.n {
			t.Errorf("%s: %d %v, sinks %d and %d", tt.name, n, err, one.Len(), two.Len())
		}
	}
	for _, slow := range []int{0, 1} {
		sinks := []io.Writer{&failing{left: 25}, io.Discard}
		if slow == 1 {
			slices.Reverse(sinks)
		}
		w := stream(io.EOF, slices.Repeat([]int{10}, 100)...)
		_, err := Receive(w, 1<<20, nil, sinks...)
		var sink *SinkError
		if !errors.As(err, &sink) || !strings.Contains(err.Error(), "disk full") {
			t.Errorf("failing sink %d: %v", slow, err)
		}
	}
}
