package shim

import (
	"context"
	"fmt"
	"sync"

	"github.com/ultravioletrs/cocos/internal/egress"
	"github.com/ultravioletrs/cocos/internal/vm"
	"github.com/ultravioletrs/cocos/manifest"
)

// letOut connects the guest with the servers of its manifest, until the returned
// function is called. Where the operator lets no guest out, or the manifest names no
// server, nobody listens.
func (s *shim) letOut(host Host) (stop func(), err error) {
	if s.spec.Egress == nil {
		return func() {}, nil
	}
	frozen, err := manifest.Parse(s.spec.Manifest)
	if err != nil {
		return nil, fmt.Errorf("letting the guest out: manifest: %w", err)
	}
	servers := frozen.Servers()
	if len(servers) == 0 {
		return func() {}, nil
	}
	allow, err := egress.ParseAllow(s.spec.Egress.Allow)
	if err != nil {
		return nil, fmt.Errorf("letting the guest out: egress.allow: %w", err)
	}
	l, err := host.Listen(vm.EgressPort)
	if err != nil {
		return nil, fmt.Errorf("letting the guest out: %w", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	server := &egress.Server{Servers: servers, Allow: allow, Log: s.Log}
	var served sync.WaitGroup
	served.Go(func() {
		// The session's port tells of a guest that can't be reached.
		if err := server.Serve(ctx, l); err != nil {
			s.Log.Error("the guest reaches no server any more", "error", err)
		}
	})
	s.Log.Info("the guest may connect to the servers of its manifest", "servers", servers)
	return func() {
		cancel()
		served.Wait()
	}, nil
}
