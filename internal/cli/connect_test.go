package cli

import (
	"crypto/x509"
	"encoding/pem"
	"net"
	"strings"
	"testing"

	"github.com/ultravioletrs/cocos/atls"
)

func TestWrongAgentKeyIsFinal(t *testing.T) {
	u := newUser(t)
	f := &fakeAgent{want: []byte("secret")}
	f.serve(t)
	f.key = "sha256:" + strings.Repeat("0", 64)
	o := u.with(f, "data", u.file("d", f.want), "--name", "d", "--json")
	o.wants(t, ExitFailure)
	if _, reason, _, hint := o.failure(t); reason != reasonAgentKey || !strings.Contains(hint, "nothing was sent") {
		t.Errorf("reason %q, hint %q", reason, hint)
	}
	if len(f.calls) != 0 || len(u.sleeps) != 0 {
		t.Errorf("calls %v and %d pauses", f.calls, len(u.sleeps))
	}
}

func TestUnreachableAgentIsSaidAtOnce(t *testing.T) {
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	for name, tt := range map[string]struct{ addr, want string }{
		"a port that nobody listens on": {closed.Addr().String(), "connection refused"},
		"a name that does not exist":    {"host.invalid:7020", "host.invalid"},
	} {
		t.Run(name, func(t *testing.T) {
			u := newUser(t)
			f := &fakeAgent{addr: tt.addr, key: "sha256:" + strings.Repeat("0", 64)}
			u.with(f, "state", "--role", "consumer").wants(t, ExitFailure, tt.want, "check")
			u.with(f, "data", u.file("d", nil), "--name", "d").wants(t, ExitFailure, tt.want, "check")
			if len(u.sleeps) != 0 {
				t.Errorf("%d pauses for an address that never answered", len(u.sleeps))
			}
		})
	}
}

func TestOtherServersAreNotTakenForAgents(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			c.Write([]byte("SSH-2.0-OpenSSH_9.2\r\n")) //nolint:errcheck // a test's server
			c.Read(make([]byte, 1))                    //nolint:errcheck // lets the client read first
			c.Close()
		}
	}()
	t.Cleanup(func() { l.Close(); <-done })
	u := newUser(t)
	f := &fakeAgent{addr: l.Addr().String(), key: "sha256:" + strings.Repeat("0", 64)}
	u.with(f, "state", "--role", "consumer").wants(t, ExitFailure, "does not speak TLS")
}

func TestAgentThatDoesNotAnswer(t *testing.T) {
	u := newUser(t)
	f := &fakeAgent{hang: make(chan struct{})}
	f.serve(t)
	defer close(f.hang)
	u.run(t.Context(), append(u.flags(f, "state", "--role", "consumer"), "--timeout", "300ms")...).
		wants(t, ExitFailure, "no answer from "+f.addr+" within 300ms", "--timeout")
}

func TestMutualTLSAndCA(t *testing.T) {
	ca := newCA(t)
	server, client := ca.issue(t, "agent.example"), ca.issue(t, "someone")
	u := newUser(t)
	f := &fakeAgent{state: u.state(stateAwaiting, nil)}
	f.serve(t, func(c *atls.ServerConfig) {
		id, err := atls.LoadIdentity(server.cert, server.key)
		if err != nil {
			t.Fatal(err)
		}
		c.Identity = id
		c.ClientCAs = x509.NewCertPool()
		c.ClientCAs.AddCert(ca.cert)
	})
	caFile := u.file("ca.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.cert.Raw}))
	otherCA := u.file("other.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: newCA(t).cert.Raw}))
	mine := []string{"--client-cert", u.file("c.pem", client.cert), "--client-key", u.file("c.key", client.key)}
	for name, tt := range map[string]struct {
		args []string
		code int
		want string
	}{
		"all right":             {append([]string{"--agent-ca", caFile, "--agent-name", "agent.example"}, mine...), ExitOK, "AwaitingInputs"},
		"another name":          {append([]string{"--agent-ca", caFile}, mine...), ExitFailure, "not to be trusted"},
		"another CA":            {append([]string{"--agent-ca", otherCA, "--agent-name", "agent.example"}, mine...), ExitFailure, "not to be trusted"},
		"no client certificate": {[]string{"--agent-ca", caFile, "--agent-name", "agent.example"}, ExitFailure, "give --client-cert and --client-key"},
		"pinned, and mutual":    {append([]string{"--agent-key", f.key}, mine...), ExitOK, "AwaitingInputs"},
	} {
		t.Run(name, func(t *testing.T) {
			args := append([]string{"state", "--role", "consumer", "--agent", f.addr, "--key", u.key, "--manifest-digest", u.digest.String()}, tt.args...)
			u.run(t.Context(), args...).wants(t, tt.code, tt.want)
		})
	}
}

func TestEnvironmentStandsInForFlags(t *testing.T) {
	u := newUser(t)
	f := &fakeAgent{state: u.state(stateAwaiting, nil)}
	f.serve(t)
	env := map[string]string{"AGENT_GRPC_URL": f.addr, "AGENT_GRPC_SERVER_CA_CERTS": u.path("no-such-ca.pem"), "AGENT_GRPC_TIMEOUT": "20s"}
	args := []string{"state", "--role", "consumer", "--key", u.key, "--manifest-digest", u.digest.String()}
	u.runEnv(env, append(args, "--agent-key", f.key)...).wants(t, ExitOK, "AwaitingInputs")
	u.runEnv(env, args...).wants(t, ExitFailure, "--agent-ca", "no-such-ca.pem")
	env["AGENT_GRPC_TIMEOUT"] = "soon"
	u.runEnv(env, append(args, "--agent-key", f.key)...).wants(t, ExitUsage, `AGENT_GRPC_TIMEOUT="soon"`)
}
