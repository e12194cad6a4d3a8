package server

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	eventv1 "github.com/ultravioletrs/cocos/api/event/v1"
	managerv1 "github.com/ultravioletrs/cocos/api/manager/v1"
	"github.com/ultravioletrs/cocos/internal/archive"
	"github.com/ultravioletrs/cocos/internal/oci/build"
	"github.com/ultravioletrs/cocos/keys"
	"github.com/ultravioletrs/cocos/manifest"
)

const patience = 30 * time.Second

type stream = grpc.BidiStreamingClient[managerv1.ConnectRequest, managerv1.ConnectResponse]

// start serves until the test ends and returns how to connect to it.
func start(t *testing.T, cfg Config) (s *Server, connect func(hello *managerv1.Hello) stream, stop func()) {
	t.Helper()
	cert, ca, err := SelfSigned("127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	cfg.TLS = &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{cert}}
	if s, err = New(cfg); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, l) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(stop)
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	connect = func(hello *managerv1.Hello) stream {
		t.Helper()
		conn, err := grpc.NewClient("passthrough:///"+l.Addr().String(), grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{RootCAs: pool})))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		t.Cleanup(cancel)
		st, err := managerv1.NewComputationsServiceClient(conn).Connect(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if err := st.Send(&managerv1.ConnectRequest{Message: &managerv1.ConnectRequest_Hello{Hello: hello}}); err != nil {
			t.Fatal(err)
		}
		return st
	}
	return s, connect, stop
}

func hello(instance string) *managerv1.Hello {
	return &managerv1.Hello{ProtocolVersion: ProtocolVersion, InstanceId: instance}
}

func recv(t *testing.T, st stream) *managerv1.ConnectResponse {
	t.Helper()
	m, err := st.Recv()
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func event(sequence uint64) *managerv1.ConnectRequest {
	return &managerv1.ConnectRequest{Message: &managerv1.ConnectRequest_Event{Event: &eventv1.Event{
		RunId: "r", Source: eventv1.Source_SOURCE_AGENT, Sequence: sequence, Kind: "agent.state"}}}
}

func send(t *testing.T, st stream, m *managerv1.ConnectRequest) {
	t.Helper()
	if err := st.Send(m); err != nil {
		t.Fatal(err)
	}
}

func TestOneRequestToOneManager(t *testing.T) {
	s, connect, _ := start(t, Config{})
	s.Submit(&managerv1.RunRequest{RunId: "r"})
	first := connect(hello("a"))
	if recv(t, first).GetWelcome().GetProtocolVersion() != ProtocolVersion {
		t.Fatal("no welcome")
	}
	if got := recv(t, first).GetRunRequest().GetRunId(); got != "r" {
		t.Fatalf("request for %q", got)
	}
	// Another Manager gets nothing; the first one gets it again, unanswered as it is.
	second := connect(hello("b"))
	recv(t, second)
	again := connect(hello("a"))
	recv(t, again)
	if got := recv(t, again).GetRunRequest().GetRunId(); got != "r" {
		t.Fatalf("request for %q", got)
	}
	send(t, again, &managerv1.ConnectRequest{Message: &managerv1.ConnectRequest_RunReply{RunReply: &managerv1.RunReply{RunId: "r", AgentHostPort: 6100}}})
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	_, address, err := s.Reply(ctx, "r")
	if err != nil || address != "127.0.0.1:6100" {
		t.Errorf("%q, %v", address, err)
	}
	// Answered: not sent any more. What comes next is the answer to an event.
	third := connect(hello("a"))
	recv(t, third)
	send(t, third, event(1))
	if recv(t, third).GetEventAck() == nil {
		t.Error("something else than an acknowledgement")
	}
}

func TestJournalAndRepetitions(t *testing.T) {
	journal := filepath.Join(t.TempDir(), "journal")
	for round, sequences := range [][]uint64{{1, 2, 2, 1, 3}, {3, 4}} {
		if round == 1 {
			// A crash leaves half a line.
			f, err := os.OpenFile(journal, os.O_APPEND|os.O_WRONLY, 0)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := f.WriteString(`{"type":"event","run_id":"r","sour`); err != nil {
				t.Fatal(err)
			}
			f.Close()
		}
		s, connect, stop := start(t, Config{Journal: journal})
		st := connect(hello("a"))
		recv(t, st)
		for _, sequence := range sequences {
			send(t, st, event(sequence))
			if ack := recv(t, st).GetEventAck(); ack.GetSequence() != sequence {
				t.Errorf("acknowledged %d", ack.GetSequence())
			}
			// Acknowledged means written.
			b, err := os.ReadFile(journal)
			if err != nil || !strings.HasSuffix(string(b), "\n") {
				t.Fatalf("%q, %v", b, err)
			}
		}
		if n := len(s.Arrivals("r")); n != len(sequences) {
			t.Errorf("%d arrivals", n)
		}
		stop()
	}
	b, err := os.ReadFile(journal)
	if err != nil {
		t.Fatal(err)
	}
	var got []uint64
	for line := range strings.Lines(string(b)) {
		var e Entry
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		if e.Type == "event" {
			got = append(got, e.Sequence)
			if e.Source != "agent" || e.Kind != "agent.state" || e.RunID != "r" {
				t.Errorf("%+v", e)
			}
		}
	}
	if !slices.Equal(got, []uint64{1, 2, 3, 4}) {
		t.Errorf("events in the journal: %v", got)
	}
}

func TestJournalOfSomebodyElse(t *testing.T) {
	name := filepath.Join(t.TempDir(), "notes")
	if err := os.WriteFile(name, []byte("dear diary\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := New(Config{TLS: &tls.Config{}, Journal: name}); err == nil || !strings.Contains(err.Error(), "notes:1") {
		t.Errorf("%v", err)
	}
	if _, err := New(Config{}); err == nil {
		t.Error("a server without TLS")
	}
}

func TestManagersThatAreRefused(t *testing.T) {
	_, connect, _ := start(t, Config{})
	for name, c := range map[string]struct {
		hello *managerv1.Hello
		then  *managerv1.ConnectRequest
		says  string
	}{
		"another version":  {&managerv1.Hello{ProtocolVersion: 2}, nil, "FailedPrecondition"},
		"hello twice":      {hello("a"), &managerv1.ConnectRequest{Message: &managerv1.ConnectRequest_Hello{Hello: hello("a")}}, "InvalidArgument"},
		"an empty message": {hello("a"), &managerv1.ConnectRequest{}, "InvalidArgument"},
	} {
		t.Run(name, func(t *testing.T) {
			st := connect(c.hello)
			if c.then != nil {
				recv(t, st)
				send(t, st, c.then)
			}
			if _, err := st.Recv(); err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%v", err)
			}
		})
	}
}

func TestVerdicts(t *testing.T) {
	for name, c := range map[string]struct {
		verdict   Verdict
		acked     bool
		cut       bool
		committed bool
	}{
		"ack":      {Ack, true, false, true},
		"withhold": {Withhold, false, false, true},
		"lose":     {Lose, false, false, false},
		"ackcut":   {AckAndCut, true, true, true},
		"cut":      {Cut, false, true, true},
	} {
		t.Run(name, func(t *testing.T) {
			s, connect, _ := start(t, Config{Verdict: func(e *eventv1.Event) Verdict {
				if e.GetSequence() == 1 {
					return c.verdict
				}
				return Ack
			}})
			st := connect(hello("a"))
			recv(t, st)
			send(t, st, event(1))
			if !c.cut {
				send(t, st, event(2)) // always acknowledged
			}
			var acks []uint64
			for {
				m, err := st.Recv()
				if err != nil {
					if !c.cut {
						t.Errorf("the stream broke: %v", err)
					}
					break
				}
				acks = append(acks, m.GetEventAck().GetSequence())
				if m.GetEventAck().GetSequence() == 2 {
					break
				}
			}
			if slices.Contains(acks, 1) != c.acked {
				t.Errorf("acknowledged: %v", acks)
			}
			committed := slices.ContainsFunc(s.Events("r"), func(e *eventv1.Event) bool { return e.GetSequence() == 1 })
			if committed != c.committed {
				t.Errorf("committed: %v", committed)
			}
		})
	}
}

func TestFreeze(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string) string {
		name = filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return name
	}
	key, err := keys.Generate(keys.Ed25519)
	if err != nil {
		t.Fatal(err)
	}
	data := file("data.csv", "a,b\n")
	file("folder/x", "12345")
	file("folder/sub/y", "678")
	for name, c := range map[string]struct {
		algorithm string
		as        manifest.AlgorithmType
		data      []string
		want      manifest.AlgorithmType
		says      string
	}{
		"python by name":    {algorithm: file("a.py", "print()"), want: manifest.Python},
		"python by line":    {algorithm: file("script", "#!/usr/bin/env python3\n"), want: manifest.Python},
		"ELF":               {algorithm: file("elf.py", "\x7fELF..."), want: manifest.Binary},
		"module":            {algorithm: file("a.wasm", "\x00asm\x01\x00\x00\x00"), want: manifest.Wasm},
		"said":              {algorithm: file("odd", "x"), as: manifest.Python, want: manifest.Python},
		"archive":           {algorithm: file("stats.tar", image(t)), want: manifest.Container},
		"no image in it":    {algorithm: file("other.tar", strings.Replace(image(t), "manifest.json", "manifest.none", 1)), says: "image archive"},
		"neither":           {algorithm: file("a.sh", "#!/bin/sh\n"), says: "ALGO_TYPE"},
		"unknown":           {algorithm: data, as: "fortran", says: "/algorithm/type"},
		"empty":             {algorithm: file("empty.py", ""), says: "empty"},
		"missing":           {algorithm: filepath.Join(dir, "none.py"), says: "none.py"},
		"folder":            {algorithm: dir, says: "not a file"},
		"no such data":      {algorithm: file("b.py", "x"), data: []string{filepath.Join(dir, "none")}, says: "none"},
		"same name twice":   {algorithm: file("b.py", "x"), data: []string{data, data}, says: "/datasets/1/name"},
		"name with a space": {algorithm: file("b.py", "x"), data: []string{file("a b", "x")}, says: "/datasets/0/name"},
	} {
		t.Run(name, func(t *testing.T) {
			datasets := c.data
			if datasets == nil {
				datasets = []string{data, filepath.Join(dir, "folder")}
			}
			f, err := Computation{Algorithm: c.algorithm, Type: c.as, Args: []string{"-v"}, Data: datasets, Owner: key.Public()}.Freeze()
			if c.says != "" {
				if err == nil || !strings.Contains(err.Error(), c.says) {
					t.Errorf("%v\nexpected %q in it", err, c.says)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if f.Algorithm.Type != c.want || f.TEE != manifest.TEENone || f.AttestedTLS || len(f.Datasets) != 2 {
				t.Errorf("%+v", f.Manifest)
			}
			digest, size, err := archive.Sum(filepath.Join(dir, "folder"))
			if err != nil {
				t.Fatal(err)
			}
			if d := f.Datasets[1]; d.Name != "folder" || d.SHA256 != digest || d.Size != size || d.UnpackedMax != 8 {
				t.Errorf("the folder is %+v", d)
			}
			if d := f.Datasets[0]; d.Name != "data.csv" || d.SHA256 != manifest.Sum([]byte("a,b\n")) || d.UnpackedMax != 0 {
				t.Errorf("the file is %+v", d)
			}
		})
	}
}

// TestLinesOfAGuest: nothing that a guest says makes a line of its own.
func TestLinesOfAGuest(t *testing.T) {
	const evil = "x\n12:00:00 event  manager   9 vm.removed \x1b[2J\u202e"
	for _, e := range []Entry{
		{Type: "event", Source: evil, Kind: evil, Message: evil, Attributes: map[string]string{evil: evil}},
		{Type: "log", Source: evil, Level: evil, Message: evil, Dropped: 3},
		{Type: "run_reply", RunID: evil, Faults: []Fault{{Reason: evil, Field: evil, Message: evil, Hint: evil}}},
		{Type: "run_reply", RunID: evil, AgentAddress: evil},
		{Type: "connected", Instance: evil},
	} {
		if s := e.String(); strings.ContainsAny(s, "\n\x1b\u202e") {
			t.Errorf("%q", s)
		}
	}
}

// image is the archive of an image.
func image(t *testing.T) string {
	t.Helper()
	entries, err := build.Docker(build.Image{Names: []string{"stats:1"}})
	if err != nil {
		t.Fatal(err)
	}
	b, err := build.Tar(entries)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
