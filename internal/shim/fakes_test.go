package shim

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	eventv1 "github.com/ultravioletrs/cocos/api/event/v1"
	guestv1 "github.com/ultravioletrs/cocos/api/guest/v1"
	shimv1 "github.com/ultravioletrs/cocos/api/shim/v1"
	"github.com/ultravioletrs/cocos/internal/vm"
)

// The test's binary is also the QEMU and the shim that the tests start.
const (
	roleVar   = "COCOS_TEST_ROLE"
	modeVar   = "COCOS_TEST_QEMU"
	socketCmd = "control.sock"
)

func TestMain(m *testing.M) {
	switch os.Getenv(roleVar) {
	case "qemu":
		os.Exit(fakeQEMU(os.Args[1:], os.Getenv(modeVar)))
	case "shim":
		os.Exit(childShim(vm.Dir(os.Args[1])))
	}
	os.Exit(m.Run())
}

// childShim is the shim as a process of its own.
func childShim(dir vm.Dir) int {
	signal.Ignore(syscall.SIGXFSZ) // a limit is an error of write, as a full disk is
	ctx, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer cancel()
	if err := Run(ctx, Config{Dir: dir, NewHost: unixHost, StopGrace: time.Second}); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// fakeQEMU stands in for qemu-system-x86_64: it has a monitor, a console, and
// the tests' word on when to end. mode is a set of words:
//
//	early      ends before it connects to the monitor
//	button     the power button works
//	stubborn   neither button nor quit work
//	frozen     connects to the monitor and says nothing
//	nonsense   connects to the monitor and says something else
func fakeQEMU(args []string, mode string) int {
	fmt.Println("char device redirected to /dev/pts/7 (label compat_monitor0)")
	if strings.Contains(mode, "early") {
		fmt.Fprintln(os.Stderr, "qemu-system-x86_64: could not load kernel 'nothing'")
		return 1
	}
	console, err := net.Dial("unix", socketAfter(args, "socket,id=console,path="))
	if err != nil {
		fmt.Fprintln(os.Stderr, "qemu-system-x86_64: console:", err)
		return 1
	}
	fmt.Fprintln(console, "Linux version 6.12 (fake)")
	conn, err := net.Dial("unix", socketAfter(args, "unix:"))
	if err != nil {
		fmt.Fprintln(os.Stderr, "qemu-system-x86_64: monitor:", err)
		return 1
	}
	exit := make(chan int)
	go serveControl(console, conn, exit)
	switch {
	case strings.Contains(mode, "nonsense"):
		fmt.Fprintln(conn, "220 mail.example.org ESMTP")
	case !strings.Contains(mode, "frozen"):
		go serveMonitor(conn, mode, exit)
	}
	return <-exit
}

// socketAfter finds the path of a socket on the command line.
func socketAfter(args []string, prefix string) string {
	for _, a := range args {
		if p, ok := strings.CutPrefix(a, prefix); ok {
			return strings.ReplaceAll(p, ",,", ",")
		}
	}
	return ""
}

func serveMonitor(conn net.Conn, mode string, exit chan<- int) {
	say := func(format string, args ...any) { fmt.Fprintf(conn, format+"\r\n", args...) }
	say(`{"QMP": {"version": {"qemu": {"micro": 2, "minor": 0, "major": 10}}, "capabilities": ["oob"]}}`)
	for lines := bufio.NewScanner(conn); lines.Scan(); {
		var c struct {
			Execute string
			ID      uint64
		}
		if err := json.Unmarshal(lines.Bytes(), &c); err != nil {
			say(`{"error": {"class": "GenericError", "desc": "JSON"}}`)
			continue
		}
		say(`{"return": {}, "id": %d}`, c.ID)
		switch {
		case c.Execute == "quit" && !strings.Contains(mode, "stubborn"):
			say(`{"timestamp": {"seconds": 1, "microseconds": 1}, "event": "SHUTDOWN", "data": {"guest": false, "reason": "host-qmp-quit"}}`)
			exit <- 0
		case c.Execute == "system_powerdown" && strings.Contains(mode, "button"):
			say(`{"timestamp": {"seconds": 1, "microseconds": 1}, "event": "SHUTDOWN", "data": {"guest": true, "reason": "guest-shutdown"}}`)
			exit <- 0
		}
	}
}

// serveControl obeys the test: "exit N", "console TEXT", "say TEXT" on the
// monitor, "hang up" on it, "flood" it, or say a "line" of 2 MiB on it.
func serveControl(console, monitor net.Conn, exit chan<- int) {
	l, err := net.Listen("unix", socketCmd)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(99)
	}
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		for lines := bufio.NewScanner(c); lines.Scan(); {
			word, rest, _ := strings.Cut(lines.Text(), " ")
			switch word {
			case "exit":
				n, _ := strconv.Atoi(rest)
				exit <- n
			case "console":
				fmt.Fprintln(console, rest)
			case "say":
				fmt.Fprintln(monitor, rest)
			case "hang":
				_ = monitor.Close()
			case "line":
				go func() { _, _ = monitor.Write(bytes.Repeat([]byte("x"), 2<<20)) }()
			case "flood":
				go func() {
					event := []byte(`{"event": "NONSENSE", "data": "` + strings.Repeat("x", 1<<19) + `"}` + "\n")
					for {
						if _, err := monitor.Write(event); err != nil {
							return
						}
					}
				}()
			}
			fmt.Fprintln(c, "done")
		}
	}
}

// unixHost is a vsock host whose ports are the unix sockets of the VM's folder.
func unixHost(_ vm.Spec, dir vm.Dir, _ *slog.Logger) (Host, []*os.File, error) {
	return &socketHost{dir}, nil, nil
}

type socketHost struct{ dir vm.Dir }

func (h *socketHost) GuestCID() uint32 { return 3 }
func (h *socketHost) Close() error     { return nil }
func (h *socketHost) Listen(port uint32) (net.Listener, error) {
	return net.Listen("unix", guestSocket(h.dir, port))
}

func guestSocket(dir vm.Dir, port uint32) string {
	return dir.VsockSocket() + "_" + strconv.Itoa(int(port))
}

const testRun = "6f1c3f6e-0a57-4a1e-9d3b-0d6c5c1b2a3f"

// newVM makes the folder of a VM whose QEMU is the fake one.
func newVM(t *testing.T, mode string) (vm.Dir, vm.Spec) {
	t.Helper()
	// The paths of sockets are short; t.TempDir's are not.
	folder, err := os.MkdirTemp("", "shim")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(folder) })
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	qemu := filepath.Join(folder, "qemu")
	// It keeps its name, as a wrapper of the real one does.
	script := fmt.Sprintf("#!/bin/bash\n%s=qemu %s='%s' exec -a \"$0\" '%s' \"$@\"\n", roleVar, modeVar, mode, self)
	if err := os.WriteFile(qemu, []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	image := filepath.Join(folder, "image")
	if err := os.WriteFile(image, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	dir := vm.Dir(filepath.Join(folder, "vm"))
	if err := os.Mkdir(string(dir), 0o700); err != nil {
		t.Fatal(err)
	}
	spec := vm.Spec{
		RunID: testRun, Manifest: []byte(`{"version":1}`),
		Agent: vm.AgentConfig{
			Port: vm.AgentPort, LogLevel: "info",
			Address: netip.MustParsePrefix("10.0.2.15/24"), Gateway: netip.MustParseAddr("10.0.2.2"),
		},
		Machine: vm.Emulated(),
	}
	m := &spec.Machine
	m.QEMU, m.Memory.MiB = qemu, 256
	m.Boot = vm.Boot{Kernel: image, Initrd: image, CommandLine: "console=ttyS0"}
	m.Net.Forward = netip.MustParseAddrPort("127.0.0.1:7020")
	writeSpec(t, dir, spec)
	return dir, spec
}

func writeSpec(t *testing.T, dir vm.Dir, spec vm.Spec) {
	t.Helper()
	if err := vm.WriteSpec(dir, spec); err != nil {
		t.Fatal(err)
	}
}

// runningShim is a shim in this process.
type runningShim struct {
	t      *testing.T
	dir    vm.Dir
	api    shimv1.ShimServiceClient
	cancel context.CancelFunc
	ended  chan error
}

func startShim(t *testing.T, dir vm.Dir, change func(*Config)) *runningShim {
	t.Helper()
	c := Config{Dir: dir, NewHost: unixHost, StopGrace: 10 * time.Millisecond, Log: slog.New(slog.NewTextHandler(t.Output(), nil))}
	if change != nil {
		change(&c)
	}
	ctx, cancel := context.WithCancel(t.Context())
	s := &runningShim{t: t, dir: dir, cancel: cancel, ended: make(chan error, 1), api: dialAPI(t, dir)}
	go func() { s.ended <- Run(ctx, c) }()
	t.Cleanup(func() {
		cancel()
		select {
		case err, ok := <-s.ended:
			if ok && err != nil {
				t.Errorf("shim: %v", err)
			}
		case <-time.After(patience):
			t.Error("the shim did not end")
		}
	})
	return s
}

// wait waits for the shim's end by itself.
func (s *runningShim) wait() error {
	s.t.Helper()
	select {
	case err := <-s.ended:
		close(s.ended)
		return err
	case <-time.After(patience):
		s.t.Fatal("the shim did not end")
		return nil
	}
}

// patience is a generous deadline for what must happen.
const patience = time.Minute

func dialAPI(t *testing.T, dir vm.Dir) shimv1.ShimServiceClient {
	t.Helper()
	return shimv1.NewShimServiceClient(dialUnix(t, dir.ShimSocket()))
}

func dialUnix(t *testing.T, path string) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient("unix:"+path, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.WaitForReady(true)), grpc.WithIdleTimeout(0),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			return dialSoon(ctx, path)
		}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// dialSoon tries until somebody listens.
func dialSoon(ctx context.Context, path string) (net.Conn, error) {
	for {
		c, err := new(net.Dialer).DialContext(ctx, "unix", path)
		if err == nil {
			return c, nil
		}
		select {
		case <-time.After(5 * time.Millisecond):
		case <-ctx.Done():
			return nil, err
		}
	}
}

// control tells the fake QEMU what to do.
func control(t *testing.T, dir vm.Dir, command string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	c, err := dialSoon(ctx, filepath.Join(string(dir), socketCmd))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	fmt.Fprintln(c, command)
	_, _ = bufio.NewReader(c).ReadString('\n') // ends with the process, or says done
}

// follow is the Manager's end of Follow.
type follow struct {
	t      *testing.T
	stream shimv1.ShimService_FollowClient
	cancel context.CancelFunc
}

func (s *runningShim) follow() *follow {
	s.t.Helper()
	return newFollow(s.t, s.api)
}

func newFollow(t *testing.T, api shimv1.ShimServiceClient) *follow {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	stream, err := api.Follow(ctx)
	if err == nil {
		err = stream.Send(&shimv1.FollowRequest{})
	}
	if err != nil {
		t.Fatal(err)
	}
	return &follow{t, stream, cancel}
}

func (f *follow) next() *shimv1.FollowResponse {
	f.t.Helper()
	m, err := f.stream.Recv()
	if err != nil {
		f.t.Fatalf("following: %v", err)
	}
	return m
}

// event returns the next event and passes over logs.
func (f *follow) event() *eventv1.Event {
	f.t.Helper()
	for {
		if m := f.next(); m.GetLog() == nil {
			if m.GetEvent() == nil {
				f.t.Fatalf("got %v where an event was expected", m)
			}
			return m.GetEvent()
		}
	}
}

// until returns the first event of a kind, and acknowledges all on the way.
func (f *follow) until(kind string) *eventv1.Event {
	f.t.Helper()
	for {
		e := f.event()
		f.ack(e)
		if e.GetKind() == kind {
			return e
		}
	}
}

func (f *follow) ack(e *eventv1.Event) {
	f.t.Helper()
	if err := f.stream.Send(&shimv1.FollowRequest{Source: e.GetSource(), Sequence: e.GetSequence()}); err != nil {
		f.t.Fatal(err)
	}
}

// guest is the agent's end of a session.
type guest struct {
	t      *testing.T
	stream guestv1.GuestService_SessionClient
	conn   *grpc.ClientConn
}

func openSession(t *testing.T, dir vm.Dir) *guest {
	t.Helper()
	conn := dialUnix(t, guestSocket(dir, vm.SessionPort))
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	stream, err := guestv1.NewGuestServiceClient(conn).Session(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return &guest{t, stream, conn}
}

// dialGuest opens a session and returns its Launch.
func dialGuest(t *testing.T, dir vm.Dir) (*guest, *guestv1.Launch) {
	t.Helper()
	g := openSession(t, dir)
	g.send(&guestv1.SessionRequest{Message: &guestv1.SessionRequest_Hello{Hello: &guestv1.Hello{ProtocolVersion: 1, AgentVersion: "test"}}})
	l := g.next().GetLaunch()
	if l == nil {
		t.Fatal("the first message is not a launch")
	}
	return g, l
}

func (g *guest) send(m *guestv1.SessionRequest) {
	g.t.Helper()
	if err := g.stream.Send(m); err != nil {
		g.t.Fatal(err)
	}
}

func (g *guest) next() *guestv1.SessionResponse {
	g.t.Helper()
	m, err := g.stream.Recv()
	if err != nil {
		g.t.Fatalf("session: %v", err)
	}
	return m
}

func (g *guest) event(sequence uint64) {
	g.t.Helper()
	g.send(&guestv1.SessionRequest{Message: &guestv1.SessionRequest_Event{Event: agentEvent(sequence)}})
}

// acked waits until sequence is acknowledged.
func (g *guest) acked(sequence uint64) {
	g.t.Helper()
	for {
		if a := g.next().GetEventAck(); a.GetSequence() >= sequence {
			return
		}
	}
}

func agentEvent(sequence uint64) *eventv1.Event {
	return &eventv1.Event{
		RunId: testRun, Source: eventv1.Source_SOURCE_AGENT, Sequence: sequence,
		Kind: vm.EventState, Message: fmt.Sprintf("event %d", sequence), Attributes: map[string]string{"n": strconv.FormatUint(sequence, 10)},
	}
}
