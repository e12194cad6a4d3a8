// Package bulk moves gigabytes over gRPC without copying them more than TLS
// and HTTP/2 must.
//
// It holds the options that both ends of the agent's API use (windows, buffers,
// limits), a codec that hands chunk bytes through instead of marshalling them,
// and the two loops that send and receive. On the wire a chunk is an ordinary
// message of api/agent/v1: UploadRequest and ResultResponse both carry their
// bytes in field 2, so that any other client of the protocol is understood and
// understands.
//
// Memory is bounded whatever the size of the data: a stream window, and a few
// chunks between the stages. Bytes are delivered in order, and when Receive
// returns nothing is under way any more.
package bulk

import (
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/mem"
)

const (
	// ChunkSize is the most that one chunk carries, in bytes; the protocol's bound.
	ChunkSize = 1 << 20

	// maxMessage leaves room for chunks that are too long: beyond it gRPC refuses
	// in its own words, up to it the receiver can use better ones.
	maxMessage = 4 << 20

	streamWindow = 4 << 20
	connWindow   = 8 << 20
	ioBuffer     = 128 << 10

	// maxCalls at once on a connection: each can make the server hold a window
	// and a message.
	maxCalls = 16

	// queued chunks wait before each stage of a receiver.
	queued = 4
)

// ServerOptions of the agent's API, without credentials and the gate.
func ServerOptions() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.ForceServerCodecV2(codec{}),
		grpc.StaticStreamWindowSize(streamWindow),
		grpc.StaticConnWindowSize(connWindow),
		grpc.ReadBufferSize(ioBuffer),
		grpc.WriteBufferSize(ioBuffer),
		grpc.MaxRecvMsgSize(maxMessage),
		grpc.MaxHeaderListSize(32 << 10),
		grpc.MaxConcurrentStreams(maxCalls),
		grpc.ConnectionTimeout(20 * time.Second),
		grpc.KeepaliveParams(keepalive.ServerParameters{
			MaxConnectionIdle: 5 * time.Minute,
			// A peer that vanished holds its upload for so long at most.
			Time:    20 * time.Second,
			Timeout: 10 * time.Second,
		}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{
			MinTime:             10 * time.Second,
			PermitWithoutStream: true,
		}),
	}
}

// DialOptions for the agent's API, without credentials.
func DialOptions() []grpc.DialOption {
	return []grpc.DialOption{
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(codec{}), grpc.MaxCallRecvMsgSize(maxMessage)),
		grpc.WithStaticStreamWindowSize(streamWindow),
		grpc.WithStaticConnWindowSize(connWindow),
		grpc.WithReadBufferSize(ioBuffer),
		grpc.WithWriteBufferSize(ioBuffer),
		// Transparent retries would keep what was sent.
		grpc.WithDisableRetry(),
		grpc.WithDisableServiceConfig(),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 20 * time.Second, Timeout: 10 * time.Second}),
	}
}

// chunkPool keeps chunks that were sent. gRPC's own pool clears a buffer each
// time it is taken; a Sender fills what it sends and sends no more than that.
type chunkPool struct{ chunks sync.Pool }

var pool mem.BufferPool = new(chunkPool)

// Get implements mem.BufferPool for at most ChunkSize bytes.
func (p *chunkPool) Get(n int) *[]byte {
	if b, ok := p.chunks.Get().(*[]byte); ok {
		*b = (*b)[:n]
		return b
	}
	b := make([]byte, n, ChunkSize)
	return &b
}

// Put implements mem.BufferPool.
func (p *chunkPool) Put(b *[]byte) { p.chunks.Put(b) }
