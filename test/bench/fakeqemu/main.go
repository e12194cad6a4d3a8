// Command fakeqemu stands in for QEMU in benchmarks of what the host does
// around a VM: it has a console, a monitor, and a guest whose agent opens its
// session over the vhost-user vsock, with the product's own packages. It boots
// in no time and needs next to nothing, so that a host can have a hundred.
//
// The guest does what the manifest's description says, "N" or "N GATE": it
// emits agent.ready, then, when the unix socket GATE hangs up on it, N events as
// fast as they are taken; it ends when it is asked to stop.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/ultravioletrs/cocos/internal/agent/journal"
	"github.com/ultravioletrs/cocos/internal/agent/session"
	"github.com/ultravioletrs/cocos/internal/vm"
)

func main() {
	if slices.Contains(os.Args, "--version") {
		fmt.Println("QEMU emulator version 10.0.2 (fake)")
		return
	}
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "fakeqemu:", err)
		os.Exit(1)
	}
}

// run is the VM's life.
func run(args []string) error {
	console, err := net.Dial("unix", socketOf(args, "console"))
	if err != nil {
		return fmt.Errorf("connecting the console: %w", err)
	}
	defer console.Close()
	monitor, err := net.Dial("unix", monitorOf(args))
	if err != nil {
		return fmt.Errorf("connecting the monitor: %w", err)
	}
	defer monitor.Close()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	m := &machine{monitor: monitor}
	ended := make(chan error, 2)
	go func() { ended <- m.serve() }()
	if path := socketOf(args, "vsock"); path != "" { // the bare reference has none
		go func() { ended <- boot(ctx, path) }()
	}
	if err := <-ended; err != nil {
		return err
	}
	m.say(`{"timestamp": {"seconds": 1, "microseconds": 0}, "event": "SHUTDOWN", "data": {"guest": true, "reason": "guest-shutdown"}}`)
	return nil
}

// socketOf finds the path of a character device on the command line.
func socketOf(args []string, id string) string {
	for _, a := range args {
		if p, ok := strings.CutPrefix(a, "socket,id="+id+",path="); ok {
			return strings.ReplaceAll(p, ",,", ",")
		}
	}
	return ""
}

// monitorOf finds the path of the monitor's socket.
func monitorOf(args []string) string {
	i := slices.Index(args, "-qmp")
	if i < 0 || i+1 == len(args) {
		return ""
	}
	return strings.ReplaceAll(strings.TrimPrefix(args[i+1], "unix:"), ",,", ",")
}

// machine is the VM as its monitor shows it.
type machine struct {
	mu      sync.Mutex
	monitor net.Conn
}

func (m *machine) say(line string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	fmt.Fprint(m.monitor, line, "\r\n") // the owner has gone, if it fails
}

// serve is the monitor: it returns when it is told to quit, or hung up on.
func (m *machine) serve() error {
	m.say(`{"QMP": {"version": {"qemu": {"micro": 2, "minor": 0, "major": 10}, "package": ""}, "capabilities": []}}`)
	for lines := bufio.NewScanner(m.monitor); lines.Scan(); {
		var c struct {
			Execute string          `json:"execute"`
			ID      json.RawMessage `json:"id"`
		}
		if err := json.Unmarshal(lines.Bytes(), &c); err != nil {
			return fmt.Errorf("a command that is no JSON: %w", err)
		}
		if c.ID == nil {
			c.ID = json.RawMessage("null")
		}
		m.say(fmt.Sprintf(`{"return": {}, "id": %s}`, c.ID))
		if c.Execute == "quit" {
			return nil
		}
	}
	return nil
}

// boot is the guest.
func boot(ctx context.Context, vhost string) error {
	d, err := newDriver(vhost)
	if err != nil {
		return fmt.Errorf("starting the guest's vsock: %w", err)
	}
	defer d.close()
	j := journal.New(time.Now)
	s, launch, err := session.Open(ctx, session.Options{
		Dial:         func(context.Context) (net.Conn, error) { return d.dial(vm.SessionPort) },
		Journal:      j,
		AgentVersion: "bench",
	})
	if err != nil {
		return err
	}
	defer s.Close()
	count, gate, _ := strings.Cut(launch.Manifest.Description, " ")
	n, err := strconv.Atoi(count)
	if err != nil {
		return fmt.Errorf("the manifest's description begins with no number of events: %w", err)
	}
	j.Emit(vm.EventReady, "the agent of the benchmark is ready", nil)
	if gate != "" {
		if err := queue(gate); err != nil {
			return err
		}
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

// queue returns when the gate hangs up.
func queue(gate string) error {
	c, err := net.Dial("unix", gate)
	if err != nil {
		return fmt.Errorf("waiting at the gate: %w", err)
	}
	defer c.Close()
	_, _ = c.Read(make([]byte, 1))
	return nil
}
