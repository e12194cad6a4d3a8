package userapi

import (
	"context"
	"errors"
	"net"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
)

// maxSecret is longer than any secret, in bytes.
const maxSecret = 128

// unary is the gate for calls with one request and one answer.
func (a *API) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	if !ours(info.FullMethod) {
		return next(ctx, req)
	}
	ctx, cancel := context.WithTimeout(ctx, a.c.Deadline)
	defer cancel()
	ctx, leave, err := a.enter(ctx, info.FullMethod)
	if err != nil {
		return nil, a.status(info.FullMethod, err)
	}
	defer leave()
	if err := checkRequest(info.FullMethod, req); err != nil {
		return nil, a.status(info.FullMethod, err)
	}
	resp, err := next(ctx, req)
	if err != nil {
		return nil, a.status(info.FullMethod, err)
	}
	return resp, nil
}

// stream is the gate for calls that watch: they last until the caller leaves, or
// the service goes down. Each use case that watches looks again by itself whether
// the credential still holds.
func (a *API) stream(srv any, s grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
	if !ours(info.FullMethod) {
		return next(srv, s)
	}
	ctx, leave, err := a.enter(s.Context(), info.FullMethod)
	if err != nil {
		return a.status(info.FullMethod, err)
	}
	defer leave()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		select {
		case <-a.draining:
			cancel(errDraining)
		case <-ctx.Done():
		}
	}()
	err = next(srv, &gatedStream{s, ctx, info.FullMethod, a.c.Patience})
	if err != nil && errors.Is(context.Cause(ctx), errDraining) {
		err = errDraining
	}
	cancel(nil)
	<-watched
	return a.status(info.FullMethod, err)
}

// gatedStream has the context of a caller who was let in.
type gatedStream struct {
	grpc.ServerStream
	ctx      context.Context
	method   string
	patience time.Duration
}

func (s *gatedStream) Context() context.Context { return s.ctx }

// SendMsg gives up on a caller who doesn't read: what waits to be sent would stay in
// memory for as long as the connection does. The send itself ends with the stream,
// when this error has ended the call.
func (s *gatedStream) SendMsg(m any) error {
	sent := make(chan error, 1)
	go func() { sent <- s.ServerStream.SendMsg(m) }()
	t := time.NewTimer(s.patience)
	defer t.Stop()
	select {
	case err := <-sent:
		return err
	case <-t.C:
		return errSlow
	}
}

func (s *gatedStream) RecvMsg(m any) error {
	if err := s.ServerStream.RecvMsg(m); err != nil {
		return err
	}
	return checkRequest(s.method, m)
}

// enter lets a caller in who has a credential that holds, or who needs none, and
// not too many calls under way.
func (a *API) enter(ctx context.Context, method string) (_ context.Context, leave func(), err error) {
	place := "address " + address(ctx)
	if !open[method] {
		secret, ok := bearer(ctx)
		if !ok {
			return nil, nil, errSignIn
		}
		id, err := a.c.Service.Authenticate(ctx, secret)
		if err != nil {
			return nil, nil, unauthenticated(err)
		}
		ctx = context.WithValue(ctx, identityKey{}, id)
		place = "user " + string(id.User) // who can have many credentials
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.running[place] >= a.c.Concurrent {
		return nil, nil, errBusy(a.c.Concurrent)
	}
	a.running[place]++
	return ctx, func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		if a.running[place]--; a.running[place] == 0 {
			delete(a.running, place)
		}
	}, nil
}

// bearer finds the one secret of a call.
func bearer(ctx context.Context) (string, bool) {
	md, _ := metadata.FromIncomingContext(ctx)
	values := md.Get("authorization")
	if len(values) != 1 {
		return "", false
	}
	scheme, secret, ok := strings.Cut(values[0], " ")
	if !ok || !strings.EqualFold(scheme, "Bearer") || secret == "" || len(secret) > maxSecret {
		return "", false
	}
	return secret, true
}

// address is where the caller comes from, without the port.
func address(ctx context.Context) string {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return ""
	}
	host, _, err := net.SplitHostPort(p.Addr.String())
	if err != nil {
		return p.Addr.String()
	}
	return host
}
