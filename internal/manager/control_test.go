package manager

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc/codes"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	reflectionv1 "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	controlv1 "github.com/ultravioletrs/cocos/api/control/v1"
	managerv1 "github.com/ultravioletrs/cocos/api/manager/v1"
	"github.com/ultravioletrs/cocos/internal/qemu"
	"github.com/ultravioletrs/cocos/internal/rpcerr"
	"github.com/ultravioletrs/cocos/internal/vm"
)

func TestOperatorSeesRuns(t *testing.T) {
	l := operated(t)
	change := l.change
	l.change = func(cfg *Config) {
		change(cfg)
		cfg.EOSVersion, cfg.OVMFVersion, cfg.QEMUVersion = "eos 7", "ovmf 9", "10.0.2"
		cfg.Digests = map[string]string{cfg.Host.Machine.Boot.Kernel: "abc"}
		cfg.Host.Limits = Limits{MaxVMs: 3, MaxMemoryMiB: 8192}
		cfg.Host.Machine.TEE = &vm.TEE{Kind: vm.Simulated, Root: "/sim"}
	}
	l.inside()
	o := l.operator()
	a, b := l.running(o), l.running(o)
	if a.GetVcpus() != 1 || a.GetMemory() != 1<<30 || a.GetComputationName() != "Test" || a.GetComputationId() != "test" ||
		a.GetManifestDigest() != freeze(t, testManifest()).Digest.String() || a.GetOver() || a.GetShimProblem() != "" || a.GetAccepted() == nil ||
		!strings.HasPrefix(a.GetAgentAddress(), ownAddress(l.state).String()+":21") || a.GetLifeLeft() != nil {
		t.Errorf("a run: %v", a)
	}
	for range maxLooks { // more looks than may be at once: each gives its token back
		if _, err := o.List(l.ctx, &controlv1.ListRequest{}); err != nil {
			t.Fatal(err)
		}
	}
	list, err := o.List(l.ctx, &controlv1.ListRequest{})
	if err != nil || len(list.GetRuns()) != 2 || list.GetRuns()[0].GetRunId() > list.GetRuns()[1].GetRunId() {
		t.Errorf("list: %v, %v", list, err)
	}
	s, err := o.Status(l.ctx, &controlv1.StatusRequest{})
	if err != nil {
		t.Fatal(err)
	}
	limits := map[string]*controlv1.Limit{}
	for _, limit := range s.GetLimits() {
		limits[limit.GetName()] = limit
	}
	switch {
	case s.GetInstanceId() != "host-1", s.GetVersion() != "test", s.GetEosVersion() != "eos 7", s.GetOvmfVersion() != "ovmf 9", int(s.GetPid()) != os.Getpid(),
		s.GetProtocolVersion() != ControlVersion, s.GetDraining(), s.GetStateDir() != l.state, s.GetDiskFree() == 0, s.GetDiskSize() < s.GetDiskFree(),
		!s.GetServer().GetConnected(), s.GetServer().GetAddress() != l.address, s.GetServer().GetSince() == nil,
		s.GetTee() != "sim", len(s.GetTees()) != 1, s.GetTees()[0] != "sim",
		s.GetQemu().GetVersion() != "10.0.2", s.GetQemu().GetAccelerator() != vm.AccelTCG,
		len(s.GetImages()) != 2, s.GetImages()[0].GetSha256() != "abc", s.GetImages()[0].GetSize() == 0,
		limits["vms"].GetUsed() != 2, limits["vms"].GetLimit() != 3, limits["vcpus"].GetUsed() != 2, limits["vcpus"].GetLimit() != 0,
		limits["memory"].GetUsed() != 2<<30, limits["memory"].GetLimit() != 8<<30, len(limits) != 5:
		t.Errorf("status: %v", s)
	}
	l.event(b.GetRunId(), vm.EventState)
	show, err := o.Show(l.ctx, &controlv1.ShowRequest{Run: b.GetRunId()[:13]})
	if err != nil {
		t.Fatal(err)
	}
	m := show.GetMachine()
	if show.GetRun().GetRunId() != b.GetRunId() || show.GetFolder() != string(vm.DirOf(l.state, b.GetRunId())) || show.GetFolderSize() == 0 ||
		m.GetVcpus() != 1 || m.GetCommandLine() != "console=ttyS0" || m.GetVsock() != string(vm.VsockUser) || m.GetAgentPort() != vm.AgentPort || m.GetServerCertSha256() != "" || m.GetTee() != "sim" || m.GetLaunchField() != a.GetManifestDigest() || len(m.GetImages()) != 2 {
		t.Errorf("show: %v", show)
	}
	var kinds []string
	for _, e := range show.GetEvents() {
		kinds = append(kinds, e.GetEvent().GetKind())
	}
	if len(kinds) < 4 || kinds[0] != vm.EventAccepted || !slices.Contains(kinds, vm.EventBooting) || !slices.Contains(kinds, vm.EventState) {
		t.Errorf("events: %q", kinds)
	}
}

// What waits is seen also while there is no server, and by the next Manager,
// which has seen none of it pass.
func TestOperatorSeesWhatWaits(t *testing.T) {
	l := operated(t)
	stop := l.inside()
	o := l.operator()
	id := l.running(o).GetRunId()
	stop()
	if _, err := net.Dial("unix", l.socket()); err == nil {
		t.Error("the socket outlives the Manager")
	}
	address := l.address
	l.address = "127.0.0.1:1"
	l.inside()
	o = l.operator()
	r := l.seen(o, id, "found", func(r *controlv1.Run) bool { return r.GetShimAnswers() })
	if r.GetState() != "running" {
		t.Errorf("found: %v", r)
	}
	l.say("after the restart")
	lines, err := collect(o.Logs(l.ctx, &controlv1.LogsRequest{Run: id, Lines: 5, Sources: []controlv1.LogSource{controlv1.LogSource_LOG_SOURCE_AGENT}}))
	if err != io.EOF || len(lines) != 1 || lines[0].GetMessage() != "after the restart" {
		t.Errorf("lines: %v, %v", lines, err)
	}
	s, err := o.Status(l.ctx, &controlv1.StatusRequest{})
	if err != nil || s.GetServer().GetConnected() || s.GetServer().GetLastError() == "" || s.GetServer().GetSince() == nil {
		t.Errorf("without a server: %v, %v", s.GetServer(), err)
	}
	show, err := o.Show(l.ctx, &controlv1.ShowRequest{Run: id})
	if err != nil {
		t.Fatal(err)
	}
	waiting := 0
	for _, e := range show.GetEvents() {
		if e.GetWaiting() {
			waiting++
		}
	}
	if waiting != int(show.GetRun().GetUnacknowledged()) {
		t.Errorf("%d events wait, and %d are shown", show.GetRun().GetUnacknowledged(), waiting)
	}
	_ = address
}

func TestOperatorRefusals(t *testing.T) {
	l := operated(t)
	l.inside()
	o := l.operator()
	// Two runs that begin alike, whatever their ids.
	var a, b string
	for {
		a, b = uuid.NewString(), uuid.NewString()
		if a[0] == b[0] {
			break
		}
	}
	for _, id := range []string{a, b} {
		l.server.Submit(&managerv1.RunRequest{RunId: id, Manifest: freeze(t, testManifest()).Raw})
		l.event(id, vm.EventState)
	}
	other := func() string {
		for _, c := range "0123456789abcdef" {
			if byte(c) != a[0] {
				return string(c)
			}
		}
		return ""
	}()
	calls := map[string]func(run string) error{
		"run show": func(run string) error { _, err := o.Show(l.ctx, &controlv1.ShowRequest{Run: run}); return err },
		"run logs": func(run string) error {
			stream, err := o.Logs(l.ctx, &controlv1.LogsRequest{Run: run, Lines: 1})
			_, err = collect(stream, err)
			return err
		},
		"runs/0 stop": func(run string) error {
			_, err := o.Stop(l.ctx, &controlv1.StopRequest{Runs: []string{run}})
			return err
		},
		"run args": func(run string) error {
			if run == "" {
				run = "?" // without one it is another question
			}
			_, err := o.QemuArgs(l.ctx, &controlv1.QemuArgsRequest{Run: run})
			return err
		},
	}
	for name, call := range calls {
		field, _, _ := strings.Cut(name, " ")
		t.Run(name, func(t *testing.T) {
			for run, want := range map[string]struct {
				code   codes.Code
				reason rpcerr.Reason
				says   string
			}{
				"":                         {codes.InvalidArgument, rpcerr.ArgumentInvalid, "not a run's UUID"},
				"../" + a:                  {codes.InvalidArgument, rpcerr.ArgumentInvalid, "not a run's UUID"},
				strings.ToUpper("A" + "b"): {codes.InvalidArgument, rpcerr.ArgumentInvalid, "not a run's UUID"},
				a + "0":                    {codes.InvalidArgument, rpcerr.ArgumentInvalid, "not a run's UUID"},
				"0123456789":               {codes.InvalidArgument, rpcerr.ArgumentInvalid, "not a run's UUID"},
				a[:1] + "\n":               {codes.InvalidArgument, rpcerr.ArgumentInvalid, "not a run's UUID"},
				other:                      {codes.NotFound, rpcerr.RunUnknown, "no run " + other},
				uuid.NewString():           {codes.NotFound, rpcerr.RunUnknown, "no run "},
				a[:1]:                      {codes.FailedPrecondition, rpcerr.RunAmbiguous, "2 runs begin with"},
			} {
				refusedWith(t, call(run), want.code, want.reason, field, want.says)
			}
		})
	}
	grace := func(n uint32) *uint32 { return &n }
	for name, tt := range map[string]struct {
		r     *controlv1.StopRequest
		field string
	}{
		"nothing":            {&controlv1.StopRequest{}, "runs"},
		"all and one":        {&controlv1.StopRequest{All: true, Runs: []string{a}}, "all"},
		"drain of one":       {&controlv1.StopRequest{Drain: true, Runs: []string{a}}, "drain"},
		"drain of nothing":   {&controlv1.StopRequest{Drain: true}, "runs"},
		"no grace":           {&controlv1.StopRequest{Runs: []string{a}, GraceSeconds: grace(0)}, "grace_seconds"},
		"too much grace":     {&controlv1.StopRequest{Runs: []string{a}, GraceSeconds: grace(3601)}, "grace_seconds"},
		"endless grace":      {&controlv1.StopRequest{All: true, GraceSeconds: grace(1<<32 - 1)}, "grace_seconds"},
		"one of two unknown": {&controlv1.StopRequest{Runs: []string{a, "zz"}}, "runs/1"},
	} {
		t.Run("stop "+name, func(t *testing.T) {
			_, err := o.Stop(l.ctx, tt.r)
			refusedWith(t, err, codes.InvalidArgument, rpcerr.ArgumentInvalid, tt.field, tt.field)
		})
	}
	for name, tt := range map[string]struct {
		r     *controlv1.LogsRequest
		field string
	}{
		"too many lines": {&controlv1.LogsRequest{Run: a, Lines: maxLogLines + 1}, "lines"},
		"minus one":      {&controlv1.LogsRequest{Run: a, Lines: 1<<32 - 1}, "lines"},
		"no source":      {&controlv1.LogsRequest{Run: a, Sources: []controlv1.LogSource{0}}, "sources/0"},
		"strange source": {&controlv1.LogsRequest{Run: a, Sources: []controlv1.LogSource{1, 99}}, "sources/1"},
	} {
		t.Run("logs "+name, func(t *testing.T) {
			_, err := collect(o.Logs(l.ctx, tt.r))
			refusedWith(t, err, codes.InvalidArgument, rpcerr.ArgumentInvalid, tt.field, tt.field)
		})
	}
	// Nothing of all that has stopped anything.
	for _, id := range []string{a, b} {
		l.seen(o, id, "running", func(r *controlv1.Run) bool { return r.GetState() == "running" && r.GetShimAnswers() })
	}
	if _, err := o.Status(l.ctx, &controlv1.StatusRequest{}); err != nil {
		t.Error(err)
	}
	// More than a request may have.
	if _, err := o.Show(l.ctx, &controlv1.ShowRequest{Run: strings.Repeat("a", maxControlRequest)}); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("a huge request: %v", err)
	}
}

// What is secret in a run is shown nowhere.
func TestOperatorSeesNoSecrets(t *testing.T) {
	l := operated(t)
	var log lockedBuffer
	l.insideLogging(&log)
	o := l.operator()
	cert, key := pair(t, func(c *x509.Certificate) {
		c.NotBefore, c.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	})
	id := uuid.NewString()
	l.server.Submit(&managerv1.RunRequest{RunId: id, Manifest: freeze(t, testManifest()).Raw,
		AgentConfig: &managerv1.AgentConfig{ServerCert: cert, ServerKey: key}})
	l.event(id, vm.EventState)
	var all []byte
	add := func(m proto.Message, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		wire, err := proto.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		all = append(append(all, wire...), protojson.Format(m)...)
	}
	show, err := o.Show(l.ctx, &controlv1.ShowRequest{Run: id})
	add(show, err)
	if len(show.GetMachine().GetServerCertSha256()) != 64 {
		t.Errorf("the certificate is not told: %v", show.GetMachine())
	}
	status, err := o.Status(l.ctx, &controlv1.StatusRequest{})
	add(status, err)
	list, err := o.List(l.ctx, &controlv1.ListRequest{})
	add(list, err)
	args, err := o.QemuArgs(l.ctx, &controlv1.QemuArgsRequest{Run: id})
	add(args, err)
	lines, err := collect(o.Logs(l.ctx, &controlv1.LogsRequest{Run: id, Lines: maxLogLines}))
	if err != io.EOF {
		t.Fatal(err)
	}
	for _, line := range lines {
		add(line, nil)
	}
	all = append(all, log.String()...)
	block, _ := pem.Decode(key)
	if bytes.Contains(all, block.Bytes) {
		t.Error("the key is in it, in binary")
	}
	for text := range strings.Lines(string(key)) {
		if text = strings.TrimSpace(text); len(text) > 16 && bytes.Contains(all, []byte(text)) {
			t.Errorf("the key is in it: %q", text)
		}
	}
}

type lockedBuffer struct {
	mu sync.Mutex
	bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Buffer.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Buffer.String()
}

func TestHealthAndReflection(t *testing.T) {
	l := operated(t)
	l.inside()
	o := l.operator()
	h := healthv1.NewHealthClient(o)
	watch, err := h.Watch(l.ctx, &healthv1.HealthCheckRequest{Service: healthServer})
	if err != nil {
		t.Fatal(err)
	}
	until := func(want healthv1.HealthCheckResponse_ServingStatus) {
		t.Helper()
		for {
			r, err := watch.Recv()
			if err != nil {
				t.Fatalf("waiting for %v: %v", want, err)
			}
			if r.GetStatus() == want {
				return
			}
		}
	}
	until(healthv1.HealthCheckResponse_SERVING)
	l.server.Disconnect()
	until(healthv1.HealthCheckResponse_NOT_SERVING)
	for _, service := range []string{"", "cocos.control.v1.ControlService"} {
		if r, err := h.Check(l.ctx, &healthv1.HealthCheckRequest{Service: service}); err != nil || r.GetStatus() != healthv1.HealthCheckResponse_SERVING {
			t.Errorf("health of %q: %v, %v", service, r, err)
		}
	}
	until(healthv1.HealthCheckResponse_SERVING)
	stream, err := reflectionv1.NewServerReflectionClient(o).ServerReflectionInfo(l.ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&reflectionv1.ServerReflectionRequest{MessageRequest: &reflectionv1.ServerReflectionRequest_ListServices{}}); err != nil {
		t.Fatal(err)
	}
	r, err := stream.Recv()
	if err != nil || !strings.Contains(r.String(), "cocos.control.v1.ControlService") {
		t.Errorf("reflection: %v, %v", r, err)
	}
}

// Callers that do nothing, never read or ask for too much hold up neither others
// nor the Manager's end.
func TestHostileCallers(t *testing.T) {
	l := operated(t)
	l.say(slices.Repeat([]string{strings.Repeat("much ", 1000)}, 2000)...)
	stop := l.inside()
	o := l.operator()
	id := l.running(o).GetRunId()

	// As many readers as there may be; none of them reads on.
	readers := []operator{o, l.operator()}
	follow := &controlv1.LogsRequest{Run: id, Lines: 2000, Follow: true}
	for i := range maxTails {
		stream, err := readers[i%2].Logs(l.ctx, follow)
		if err == nil {
			_, err = stream.Recv()
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	late := l.operator()
	_, err := collect(late.Logs(l.ctx, &controlv1.LogsRequest{Run: id}))
	refusedWith(t, err, codes.ResourceExhausted, rpcerr.TooManyCalls, "", "read logs already")
	l.event(l.submit(), vm.EventState)

	// Connections that say nothing; those over the bound are closed at once.
	var idle []net.Conn
	refused := false
	for !refused {
		c, err := net.Dial("unix", l.socket())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		idle = append(idle, c)
		if len(idle) > maxControlConns {
			one := make([]byte, 1)
			_, err := io.ReadFull(c, one)
			refused = err != nil
		}
		if len(idle) > 2*maxControlConns {
			t.Fatal("no connection is refused")
		}
	}
	if _, err := late.Status(l.ctx, &controlv1.StatusRequest{}); err != nil {
		t.Errorf("a connection that was there before: %v", err)
	}
	for _, c := range idle {
		c.Close()
	}
	if _, err := l.operator().Status(l.ctx, &controlv1.StatusRequest{}); err != nil {
		t.Errorf("when they have gone: %v", err)
	}
	// One that waits, one that says nothing, and one that speaks nonsense.
	go func() { _, _ = late.Stop(l.ctx, &controlv1.StopRequest{Runs: []string{id}, Wait: true}) }()
	silent, err := net.Dial("unix", l.socket())
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	rude, err := net.Dial("unix", l.socket())
	if err != nil {
		t.Fatal(err)
	}
	defer rude.Close()
	if _, err := rude.Write(bytes.Repeat([]byte("GET / HTTP/1.0\r\n"), 100)); err != nil && !errors.Is(err, syscall.EPIPE) {
		t.Error(err)
	}
	ends(t, "the Manager", stop)
	if _, err := os.Lstat(l.socket()); err == nil {
		t.Error("the socket is left")
	}
}

func TestControlSocketIsTakenAtStart(t *testing.T) {
	l := operated(t)
	cfg, err := testConfig(l.state, l.address, l.ca, l.env)
	if err != nil {
		t.Fatal(err)
	}
	cfg.Log = slog.New(slog.DiscardHandler)
	if err := os.WriteFile(l.socket(), []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg.ControlSocket = l.socket()
	if err := Run(l.ctx, cfg); err == nil || !strings.Contains(err.Error(), "MANAGER_CONTROL_SOCKET") || !strings.Contains(err.Error(), "is no socket") {
		t.Errorf("it ran: %v", err)
	}
	if b, err := os.ReadFile(l.socket()); err != nil || string(b) != "precious" {
		t.Errorf("the file: %q, %v", b, err)
	}
}

func TestQemuArgs(t *testing.T) {
	l := operated(t)
	var host Host
	change := l.change
	l.change = func(cfg *Config) { change(cfg); host = cfg.Host }
	l.inside()
	o := l.operator()
	id := l.running(o).GetRunId()
	spec, err := vm.ReadSpec(vm.DirOf(l.state, id))
	if err != nil {
		t.Fatal(err)
	}
	got, err := o.QemuArgs(l.ctx, &controlv1.QemuArgsRequest{Run: id[:35]})
	if want := qemu.CommandLine(spec, vm.DirOf(l.state, id)); err != nil || !slices.Equal(got.GetArgv(), want) {
		t.Errorf("of a run: %q, %v; want %q", got.GetArgv(), err, want)
	}
	got, err = o.QemuArgs(l.ctx, &controlv1.QemuArgsRequest{})
	sample, sampleErr := SampleCommand(host, l.state)
	if err := errors.Join(err, sampleErr); err != nil || !slices.Equal(got.GetArgv(), sample) {
		t.Errorf("of none: %q, %v; want %q", got.GetArgv(), err, sample)
	}
	line := strings.Join(sample, " ")
	for _, want := range []string{host.Machine.QEMU + " ", "guest=" + sampleRun, "hostfwd=tcp:" + host.Forward.Addr.String() + ":21000-:7002", "-kernel " + host.Machine.Boot.Kernel} {
		if !strings.Contains(line, want) {
			t.Errorf("the sample lacks %q: %s", want, line)
		}
	}
	if _, err := os.Stat(string(vm.DirOf(l.state, sampleRun))); err == nil {
		t.Error("asking made a folder")
	}
}

func TestSampleCommandRefusals(t *testing.T) {
	dir := t.TempDir()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	good := testHost(exe, exe, exe)
	if _, err := SampleCommand(good, dir); err != nil {
		t.Fatal(err)
	}
	for want, edit := range map[string]func(*Host){
		"MANAGER_QEMU_HOST_FWD_RANGE": func(h *Host) { h.Forward.First, h.Forward.Last = 0, 0 },
		"boot":                        func(h *Host) { h.Machine.Boot.Kernel = dir + "/none" },
		"vcpus":                       func(h *Host) { h.Machine.VCPUs = 0 },
	} {
		h := good
		edit(&h)
		if _, err := SampleCommand(h, dir); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", want, err)
		}
	}
	h := good
	h.Forward.Preferred, h.Machine.Sudo = 7020, true
	argv, err := SampleCommand(h, dir)
	if err != nil || argv[0] != "sudo" || !strings.Contains(strings.Join(argv, " "), ":7020-:7002") {
		t.Errorf("%q, %v", argv, err)
	}
}
