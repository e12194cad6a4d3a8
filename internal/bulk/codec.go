package bulk

import (
	"errors"

	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
)

// chunkField is the number of the bytes field in UploadRequest and in
// ResultResponse.
const chunkField = 2

// Chunk is a message that carries bytes and nothing else. Whoever received one
// must Free it.
type Chunk struct {
	// Data of a received chunk; at most ChunkSize bytes.
	Data mem.BufferSlice
	// NotChunk: the message was something else, or longer.
	NotChunk bool
}

// Free gives the buffers back.
func (c *Chunk) Free() {
	c.Data.Free()
	c.Data = nil
}

// codec is gRPC's protobuf codec except for Chunks.
type codec struct{}

// Name is that of protobuf: on the wire nothing differs.
func (codec) Name() string { return proto.Name }

func (codec) Marshal(v any) (mem.BufferSlice, error) {
	c, ok := v.(*Chunk)
	if !ok {
		return encoding.GetCodecV2(proto.Name).Marshal(v)
	}
	head := protowire.AppendTag(make([]byte, 0, 8), chunkField, protowire.BytesType)
	head = protowire.AppendVarint(head, uint64(c.Data.Len()))
	return append(mem.BufferSlice{mem.SliceBuffer(head)}, c.Data...), nil
}

func (codec) Unmarshal(data mem.BufferSlice, v any) error {
	c, ok := v.(*Chunk)
	if !ok {
		return encoding.GetCodecV2(proto.Name).Unmarshal(data, v)
	}
	var head [16]byte
	n, err := parseHead(head[:data.CopyTo(head[:])], data.Len())
	if err != nil {
		c.NotChunk = true // the receiver has better words for it
		return nil
	}
	for _, b := range data {
		if n >= b.Len() {
			n -= b.Len()
			continue
		}
		if n > 0 {
			c.Data = append(c.Data, b.Slice(n, b.Len()))
			n = 0
			continue
		}
		b.Ref()
		c.Data = append(c.Data, b)
	}
	return nil
}

var errNotChunk = errors.New("not a chunk")

// parseHead returns where the chunk's bytes begin in a message of size bytes.
func parseHead(head []byte, size int) (int, error) {
	if size == 0 {
		return 0, nil // an empty chunk is a message without fields
	}
	num, typ, n := protowire.ConsumeTag(head)
	if n < 0 || num != chunkField || typ != protowire.BytesType {
		return 0, errNotChunk
	}
	length, m := protowire.ConsumeVarint(head[n:])
	if m < 0 || length > ChunkSize || n+m+int(length) != size {
		return 0, errNotChunk
	}
	return n + m, nil
}
