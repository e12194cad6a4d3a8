// Command eventguest is the guest of the events benchmark: an agent that boots
// and opens its session as the product's does, with the product's packages, and
// then emits as many events as the manifest's description says, as fast as they
// are taken. It powers off when it is asked to stop.
package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"strconv"
	"time"

	"github.com/ultravioletrs/cocos/internal/agent/journal"
	"github.com/ultravioletrs/cocos/internal/agent/session"
	"github.com/ultravioletrs/cocos/internal/guest"
	"github.com/ultravioletrs/cocos/internal/vm"
	"github.com/ultravioletrs/cocos/internal/vsock"
)

const initPath = "/init"

func main() {
	if os.Args[0] != guest.AgentName {
		guest.Supervise(initPath, os.Stderr)
	}
	if err := run(context.Background()); err != nil {
		guest.Say(os.Stderr, "%v", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	if err := guest.Run(ctx, new(guest.Machine).Phases()); err != nil {
		return err
	}
	j := journal.New(time.Now)
	s, launch, err := session.Open(ctx, session.Options{
		Dial:         func(ctx context.Context) (net.Conn, error) { return vsock.DialHost(ctx, vm.SessionPort) },
		Journal:      j,
		AgentVersion: "bench",
	})
	if err != nil {
		return err
	}
	defer s.Close()
	n, err := strconv.Atoi(launch.Manifest.Description)
	if err != nil {
		return fmt.Errorf("the manifest's description is not a number of events: %w", err)
	}
	for i := range n {
		j.Emit("bench.event", "an event of the benchmark", map[string]string{"number": strconv.Itoa(i)})
	}
	select {
	case <-s.Stop():
		return s.Flush(ctx)
	case <-s.Ended():
		return s.Err()
	}
}
