package cli

import (
	"context"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"

	agentv1 "github.com/ultravioletrs/cocos/api/agent/v1"
	"github.com/ultravioletrs/cocos/atls"
	"github.com/ultravioletrs/cocos/attest/explain"
	"github.com/ultravioletrs/cocos/internal/bulk"
	"github.com/ultravioletrs/cocos/internal/callauth"
	"github.com/ultravioletrs/cocos/manifest"
)

// maxPEM bounds a file of certificates, in bytes.
const maxPEM = 1 << 20

// connectFlags are those of every command that talks to an agent. An empty flag
// takes the environment variable named in its help.
type connectFlags struct {
	agent, agentKey, agentCA, agentName string
	clientCert, clientKey               string
	key, manifest, manifestDigest       string
	timeout                             time.Duration
	// policy and what is beside it are for manifests that ask for attested TLS.
	policy                    policyFlags
	newInstance, acceptCached bool
	// images and firmwares are what the VM should run: a refusal is explained
	// with them.
	images, firmwares []string
}

// agentFlags gives cmd the flags of connectFlags.
func (a *app) agentFlags(cmd *cobra.Command) {
	f, c := cmd.Flags(), &a.conn
	f.StringVar(&c.agent, "agent", "", "the agent's `HOST:PORT` [$AGENT_GRPC_URL]")
	c.policy.add(cmd)
	f.StringArrayVar(&c.images, "image", nil, "a built image, a `DIR`, to find out with why evidence is refused (repeatable)")
	f.StringArrayVar(&c.firmwares, "firmware", nil, "the firmware, a `FILE`, for the same (repeatable)")
	f.BoolVar(&c.newInstance, "new-instance", false, "deal with another VM of this manifest than before, if there is one")
	f.StringVar(&c.agentKey, "agent-key", "", "`sha256:HEX` of the agent's TLS key, from the agent.ready event")
	f.StringVar(&c.agentCA, "agent-ca", "", "`FILE` of the CA that signed the agent's certificate [$AGENT_GRPC_SERVER_CA_CERTS]")
	f.StringVar(&c.agentName, "agent-name", "", "`NAME` in that certificate, if it is not the host of --agent")
	f.StringVar(&c.clientCert, "client-cert", "", "certificate `FILE` for mutual TLS [$AGENT_GRPC_CLIENT_CERT]")
	f.StringVar(&c.clientKey, "client-key", "", "its private key `FILE` [$AGENT_GRPC_CLIENT_KEY]")
	f.StringVar(&c.key, "key", "", "your private key `FILE`, as made by cocos-cli keys")
	f.StringVar(&c.manifest, "manifest", "", "the frozen manifest that you approved, a `FILE`")
	f.StringVar(&c.manifestDigest, "manifest-digest", "", "or only its digest, in `HEX`")
	f.DurationVar(&c.timeout, "timeout", 30*time.Second, "how long to wait for an answer; transfers may last longer [$AGENT_GRPC_TIMEOUT]")
}

// peer is the agent, and the connection to it.
type peer struct {
	agentv1.AgentServiceClient
	address string
	timeout time.Duration
	mutual  bool // this side shows a certificate
	app     *app
	// attested: what answers has shown evidence, or nothing is sent.
	attested bool
	// fetches: appraising may take longer than the agent waits.
	fetches bool
	// known is what refusals are explained with, read when it is needed.
	known  func() (explain.Inputs, error)
	causes *causes
	creds  credentials.TransportCredentials
	signer callauth.Signer
	conn   *grpc.ClientConn
}

// connect makes a connection over which calls can go.
func (a *app) connect(cmd *cobra.Command, id *identity, role manifest.Role) (*peer, error) {
	p, err := a.prepare(cmd, id, role)
	if err != nil {
		return nil, err
	}
	if err := p.open(cmd.Context()); err != nil {
		p.close()
		return nil, err
	}
	return p, nil
}

// prepare is connect without the connection itself, which open or the first
// call makes.
func (a *app) prepare(cmd *cobra.Command, id *identity, role manifest.Role) (*peer, error) {
	c, err := a.conn.withEnv(a.env.Getenv, cmd)
	if err != nil {
		return nil, err
	}
	if m := id.manifest; m != nil && m.TEE == manifest.TEESim {
		a.simulated()
	} else if m != nil && m.TEE != manifest.TEENone && !m.AttestedTLS {
		a.out.hint("not attested: %s asks for %s without attested TLS; whoever answers is known by its key alone", c.manifest, m.TEE)
	}
	var (
		tlsConfig atls.ClientConfig
		known     func() (explain.Inputs, error)
	)
	if id.attested() {
		tlsConfig, known, err = a.appraised(cmd, &c, id)
	} else {
		tlsConfig, err = c.pinned(cmd, id)
	}
	if err != nil {
		return nil, err
	}
	creds, err := atls.Client(tlsConfig)
	if err != nil {
		return nil, err
	}
	p := &peer{address: c.agent, timeout: c.timeout, mutual: c.clientCert != "", causes: &causes{}, app: a, attested: id.attested(), fetches: c.policy.fetch, known: known,
		creds: creds, signer: callauth.Signer{Key: id.key, Role: role, Digest: id.digest}}
	return p, p.reconnect()
}

// another is one more connection to the same agent, under the same conditions.
func (p *peer) another() (*peer, error) {
	q := *p
	q.conn, q.AgentServiceClient, q.causes = nil, nil, &causes{}
	return &q, q.reconnect()
}

// reconnect drops the connection, if there is one, for one that makes its first
// attempt at the next call: gRPC's own would first wait out its pauses.
func (p *peer) reconnect() error {
	p.close()
	// passthrough: the dialer gets the address as it was given.
	conn, err := grpc.NewClient("passthrough:///"+p.address, append(bulk.DialOptions(),
		grpc.WithTransportCredentials(watched{p.creds, p.causes}),
		grpc.WithPerRPCCredentials(p.signer),
		grpc.WithContextDialer(p.causes.dial),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoff.DefaultConfig, MinConnectTimeout: p.timeout}),
		grpc.WithUserAgent("cocos-cli"),
	)...)
	if err != nil {
		return fmt.Errorf("connecting to %s: %w", p.address, err)
	}
	p.conn, p.AgentServiceClient = conn, agentv1.NewAgentServiceClient(conn)
	return nil
}

// close ends the connection.
func (p *peer) close() {
	if p.conn != nil {
		p.conn.Close() //nolint:errcheck // nothing is in flight
		p.conn = nil
	}
}

// call bounds a call that is answered at once.
func (p *peer) call(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, p.timeout)
}

// withEnv fills what no flag set, and checks what does not need a file.
func (c connectFlags) withEnv(getenv func(string) string, cmd *cobra.Command) (connectFlags, error) {
	fill := func(field *string, name string) {
		if *field == "" {
			*field = getenv(name)
		}
	}
	fill(&c.agent, "AGENT_GRPC_URL")
	fill(&c.clientCert, "AGENT_GRPC_CLIENT_CERT")
	fill(&c.clientKey, "AGENT_GRPC_CLIENT_KEY")
	if c.agentKey == "" {
		fill(&c.agentCA, "AGENT_GRPC_SERVER_CA_CERTS")
	}
	if v := getenv("AGENT_GRPC_TIMEOUT"); v != "" && !cmd.Flags().Changed("timeout") {
		d, err := time.ParseDuration(v)
		if err != nil {
			return c, usagef("for example AGENT_GRPC_TIMEOUT=30s", "AGENT_GRPC_TIMEOUT=%q is not a duration", v)
		}
		c.timeout = d
	}
	if c.timeout <= 0 {
		return c, usagef("for example --timeout 30s", "--timeout %s is not a positive duration", c.timeout)
	}
	if c.agent == "" {
		return c, usagef("give --agent HOST:PORT, or set AGENT_GRPC_URL; the answer to the run request has it", "--agent is missing")
	}
	if host, port, err := net.SplitHostPort(c.agent); err != nil || host == "" || port == "" {
		return c, usagef("for example --agent 127.0.0.1:7020", "--agent %q is not HOST:PORT", c.agent)
	}
	return c, nil
}

// pinned is for agents that are known by a key or a CA.
func (c *connectFlags) pinned(cmd *cobra.Command, id *identity) (cfg atls.ClientConfig, err error) {
	if err := c.unappraised(cmd, id); err != nil {
		return cfg, err
	}
	switch {
	case c.agentKey != "" && c.agentCA != "":
		return cfg, usagef("give the one that the run was started with", "--agent-key and --agent-ca exclude each other")
	case c.agentKey == "" && c.agentCA == "":
		return cfg, usagef("the event agent.ready has the key as agent_key: --agent-key sha256:…; a run that brought its own certificate wants --agent-ca",
			"neither --agent-key nor --agent-ca is given: nothing would say who answers at %s", c.agent)
	case c.agentName != "" && c.agentCA == "":
		return cfg, usagef("leave it out: a pinned key needs no name", "--agent-name is of use with --agent-ca only")
	case (c.clientCert == "") != (c.clientKey == ""):
		return cfg, usagef("give both, or neither", "--client-cert and --client-key belong together")
	}
	return c.tls()
}

// tls reads the files that the flags name.
func (c *connectFlags) tls() (cfg atls.ClientConfig, err error) {
	if c.agentKey != "" {
		if _, err := atls.ParseKey(c.agentKey); err != nil {
			return cfg, usage(fmt.Errorf("--agent-key: %w", err), "copy agent_key from the event agent.ready")
		}
		cfg.ServerKey = c.agentKey
	} else {
		b, err := readSmall(c.agentCA, maxPEM)
		if err != nil {
			return cfg, fmt.Errorf("--agent-ca: %w", err)
		}
		if cfg.ServerCAs, err = atls.LoadCAs(b); err != nil {
			return cfg, fmt.Errorf("--agent-ca %s: %w", c.agentCA, err)
		}
		cfg.ServerName = c.agentName
		if cfg.ServerName == "" {
			cfg.ServerName, _, _ = net.SplitHostPort(c.agent)
		}
	}
	if c.clientCert != "" {
		cert, err := readSmall(c.clientCert, maxPEM)
		if err != nil {
			return cfg, fmt.Errorf("--client-cert: %w", err)
		}
		key, err := readSmall(c.clientKey, maxPEM)
		if err != nil {
			return cfg, fmt.Errorf("--client-key: %w", err)
		}
		if cfg.Identity, err = atls.LoadIdentity(cert, key); err != nil {
			return cfg, fmt.Errorf("--client-cert %s with --client-key %s: %w", c.clientCert, c.clientKey, err)
		}
	}
	return cfg, nil
}

// causes remembers why the last attempt to connect failed: gRPC's status has it
// as text only, and a wrong key must not be tried again like a busy network.
type causes struct {
	mu  sync.Mutex
	err error
	// attestation of the last connection that was made.
	attestation *atls.Attestation
}

func (c *causes) set(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.err = err
}

func (c *causes) met(a *atls.Attestation) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.attestation = a
}

func (c *causes) peer() *atls.Attestation {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.attestation
}

func (c *causes) last() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

func (c *causes) dial(ctx context.Context, address string) (net.Conn, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
	c.set(err)
	return conn, err
}

// watched tells causes how handshakes end.
type watched struct {
	credentials.TransportCredentials
	causes *causes
}

func (w watched) ClientHandshake(ctx context.Context, authority string, raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	conn, info, err := w.TransportCredentials.ClientHandshake(ctx, authority, raw)
	w.causes.set(err)
	if i, ok := info.(atls.Info); ok && err == nil {
		w.causes.met(i.Attestation)
	}
	return conn, info, err
}

func (w watched) Clone() credentials.TransportCredentials {
	return watched{w.TransportCredentials.Clone(), w.causes}
}
