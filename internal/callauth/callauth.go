// Package callauth lets a participant prove, with each call of the agent, that
// it holds the key that the manifest names.
//
// A call carries the caller's role, its public key and a signature over
// manifest.CallText: purpose, manifest digest, role, key, the VM's instance key
// and the exporter value of the TLS connection. The exporter value exists on this connection alone, so
// what was seen on one proves nothing on another, and a relay that terminates
// TLS has a connection of its own. The agent checks the signature before
// anything else and answers every cause of failure in the same words: whoever is
// not a participant learns nothing, not even who is.
//
// This package authenticates. What a caller may do is the agent's to say.
package callauth

import (
	"context"
	"fmt"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/tap"

	"github.com/ultravioletrs/cocos/atls"
	"github.com/ultravioletrs/cocos/internal/rpcerr"
	"github.com/ultravioletrs/cocos/keys"
	"github.com/ultravioletrs/cocos/manifest"
)

// Metadata of a call.
const (
	RoleHeader      = "cocos-role"
	KeyHeader       = "cocos-key-bin"
	SignatureHeader = "cocos-signature-bin"
)

// maxSignature in bytes: that of an RSA key of 8192 bits is 1024.
const maxSignature = 1024

// Signer signs calls. It implements credentials.PerRPCCredentials.
type Signer struct {
	// Key of the caller.
	Key keys.Private
	// Role in which it calls.
	Role manifest.Role
	// Digest of the manifest that it approved.
	Digest manifest.Digest
}

// GetRequestMetadata signs for the connection that the call goes out on.
func (s Signer) GetRequestMetadata(ctx context.Context, _ ...string) (map[string]string, error) {
	info, err := atls.InfoFrom(ctx)
	if err != nil {
		return nil, fmt.Errorf("signing the call: %w", err)
	}
	sig, err := s.Key.Sign(manifest.CallText(s.Digest, s.Role, s.Key.Public(), info.Instance, info.Exporter[:]))
	if err != nil {
		return nil, fmt.Errorf("signing the call: %w", err)
	}
	return map[string]string{
		RoleHeader:      string(s.Role),
		KeyHeader:       string(s.Key.Public().SPKI()),
		SignatureHeader: string(sig),
	}, nil
}

// RequireTransportSecurity is always true.
func (Signer) RequireTransportSecurity() bool { return true }

// Caller is who signed a call, and as what.
type Caller struct {
	Key  keys.Public
	Role manifest.Role
}

type callerKey struct{}

// CallerFrom returns the caller that the gate authenticated.
func CallerFrom(ctx context.Context) (Caller, error) {
	c, ok := ctx.Value(callerKey{}).(Caller)
	if !ok {
		return Caller{}, errUnsigned()
	}
	return c, nil
}

// Gate admits calls for one manifest.
type Gate struct {
	Digest manifest.Digest
	// Admit judges an authenticated caller's call of a gRPC method, which may be
	// one that does not exist. It is called with the connection's context, and
	// must not wait. Required.
	Admit func(ctx context.Context, c Caller, method string) error
}

// ServerOptions put the gate before a server. It judges a call by its headers,
// before the server keeps a byte for it: what a stranger sends after them is
// thrown away. Interceptors refuse what did not come through the gate.
func (g Gate) ServerOptions() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.InTapHandle(g.enter),
		grpc.UnaryInterceptor(func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
			if _, err := CallerFrom(ctx); err != nil {
				return nil, err
			}
			return next(ctx, req)
		}),
		grpc.StreamInterceptor(func(srv any, s grpc.ServerStream, _ *grpc.StreamServerInfo, next grpc.StreamHandler) error {
			if _, err := CallerFrom(s.Context()); err != nil {
				return err
			}
			return next(srv, s)
		}),
	}
}

func (g Gate) enter(ctx context.Context, call *tap.Info) (context.Context, error) {
	info, err := atls.InfoFrom(ctx)
	if err != nil {
		return ctx, errUnsigned()
	}
	c, err := Authenticate(call.Header, g.Digest, info)
	if err != nil {
		return ctx, err
	}
	if err := g.Admit(ctx, c, call.FullMethodName); err != nil {
		return ctx, err
	}
	return context.WithValue(ctx, callerKey{}, c), nil
}

// Authenticate returns who signed, or an error with code Unauthenticated. The
// role is the signer's claim.
func Authenticate(md metadata.MD, digest manifest.Digest, info atls.Info) (Caller, error) {
	var values [3]string
	for i, name := range []string{RoleHeader, KeyHeader, SignatureHeader} {
		v := md.Get(name)
		if len(v) != 1 || v[0] == "" {
			return Caller{}, errUnsigned()
		}
		values[i] = v[0]
	}
	key, err := keys.ParsePublic([]byte(values[1]))
	if err != nil || len(values[2]) > maxSignature {
		return Caller{}, Stranger()
	}
	c := Caller{Key: key, Role: manifest.Role(values[0])}
	if key.Verify(manifest.CallText(digest, c.Role, key, info.Instance, info.Exporter[:]), []byte(values[2])) != nil {
		return Caller{}, Stranger()
	}
	return c, nil
}

func errUnsigned() error {
	return rpcerr.New(codes.Unauthenticated, rpcerr.Detail{
		Reason: rpcerr.Unsigned,
		Hint:   "sign the call with a participant's private key",
	}, "the call is not signed")
}

// Stranger is the one answer to whoever is not a participant, whatever the
// cause.
func Stranger() error {
	return rpcerr.New(codes.Unauthenticated, rpcerr.Detail{
		Reason: rpcerr.Signature,
		Hint:   "check the private key, the role and the manifest digest: they must be those of the computation that this agent runs",
	}, "the call's signature is not by a participant of this computation over this connection")
}

var _ credentials.PerRPCCredentials = Signer{}
