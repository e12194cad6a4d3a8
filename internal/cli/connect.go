package cli

import (
	"context"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	agentv1 "github.com/ultravioletrs/cocos/api/agent/v1"
	"github.com/ultravioletrs/cocos/atls"
	"github.com/ultravioletrs/cocos/internal/bulk"
	"github.com/ultravioletrs/cocos/internal/callauth"
	"github.com/ultravioletrs/cocos/keys"
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
}

// agentFlags gives cmd the flags of connectFlags.
func (a *app) agentFlags(cmd *cobra.Command) {
	f, c := cmd.Flags(), &a.conn
	f.StringVar(&c.agent, "agent", "", "the agent's `HOST:PORT` [$AGENT_GRPC_URL]")
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

// identity is who calls, and for which computation.
type identity struct {
	key    keys.Private
	digest manifest.Digest
	// manifest is nil if only the digest is known.
	manifest *manifest.Frozen
}

// identity reads --key, --manifest and --manifest-digest.
func (a *app) identity() (*identity, error) {
	c := &a.conn
	if c.key == "" {
		return nil, usagef("give the private key whose public key the manifest names; cocos-cli keys makes one", "--key is missing")
	}
	if c.manifest == "" && c.manifestDigest == "" {
		return nil, usagef("give the frozen manifest that you approved, or its digest: what you sign is bound to it",
			"--manifest or --manifest-digest is missing")
	}
	var id identity
	if c.manifestDigest != "" {
		d, err := manifest.ParseDigest(c.manifestDigest)
		if err != nil {
			return nil, usage(fmt.Errorf("--manifest-digest %w", err), "cocos-cli manifest digest FILE prints it")
		}
		id.digest = d
	}
	if c.manifest != "" {
		f, err := readManifest(c.manifest)
		if err != nil {
			return nil, err
		}
		if c.manifestDigest != "" && f.Digest != id.digest {
			return nil, advise(fmt.Errorf("%s has the digest %s, not that of --manifest-digest, %s", c.manifest, f.Digest, id.digest),
				"one of the two is not the computation that you approved: don't go on before you know which")
		}
		if f.AttestedTLS || f.TEE != manifest.TEENone {
			return nil, advise(fmt.Errorf("%s asks for attestation (tee %s, attested_tls %t), which this version of cocos-cli can't check", c.manifest, f.TEE, f.AttestedTLS),
				"nothing was sent; use a version that can")
		}
		id.manifest, id.digest = &f, f.Digest
	}
	var err error
	id.key, err = readPrivate(c.key)
	return &id, err
}

// readPrivate reads a private key.
func readPrivate(name string) (keys.Private, error) {
	b, err := readSmall(name, maxKeyFile)
	if err != nil {
		return keys.Private{}, advise(fmt.Errorf("reading the private key: %w", err), "cocos-cli keys makes a key pair")
	}
	k, err := keys.ParsePrivatePEM(b)
	if err != nil {
		return keys.Private{}, advise(fmt.Errorf("reading the private key %s: %w", name, err), "give a file as cocos-cli keys writes it: PREFIX.pem")
	}
	return k, nil
}

// role checks that the manifest, if it is known, gives the key the role.
func (id *identity) role(r manifest.Role) error {
	if id.manifest == nil || id.manifest.HasRole(id.key.Public(), r) {
		return nil
	}
	has := "no role at all"
	if rs := id.manifest.RolesOf(id.key.Public()); len(rs) > 0 {
		has = "only " + joined(rs)
	}
	return advise(fmt.Errorf("the manifest does not make the key %s %s: it has %s", id.key.Public().Fingerprint(), article(r), has),
		"give the --key that you registered for this role; cocos-cli manifest check shows the fingerprints")
}

func article(r manifest.Role) string {
	if strings.ContainsRune("aeiou", rune(r[0])) {
		return "an " + string(r)
	}
	return "a " + string(r)
}

func joined(rs []manifest.Role) string {
	s := make([]string, len(rs))
	for i, r := range rs {
		s[i] = string(r)
	}
	return strings.Join(s, ", ")
}

// roleFlag is for commands that every role may give.
func (a *app) roleFlag(cmd *cobra.Command, role *string) {
	cmd.Flags().StringVar(role, "role", "", "`ROLE` to speak in (default: the first that the manifest gives your key)")
	complete(cmd, "role", func() []string {
		var s []string
		for _, r := range manifest.Roles() {
			s = append(s, string(r))
		}
		return s
	})
}

// anyRole is the role named, or the first that the manifest gives.
func (id *identity) anyRole(named string) (manifest.Role, error) {
	if named != "" {
		for _, r := range manifest.Roles() {
			if named == string(r) {
				return r, id.role(r)
			}
		}
		return "", usagef("use one of: "+joined(manifest.Roles()), "--role %q is not known", named)
	}
	if id.manifest == nil {
		return "", usagef("use one of: "+joined(manifest.Roles()), "--role is missing: without --manifest it is not known which one your key has")
	}
	rs := id.manifest.RolesOf(id.key.Public())
	if len(rs) == 0 {
		return "", advise(fmt.Errorf("the manifest gives the key %s no role", id.key.Public().Fingerprint()),
			"give the --key that you registered; cocos-cli manifest check shows the fingerprints")
	}
	return rs[0], nil
}

// peer is the agent, and the connection to it.
type peer struct {
	agentv1.AgentServiceClient
	address string
	timeout time.Duration
	mutual  bool // this side shows a certificate
	causes  *causes
	options []grpc.DialOption
	conn    *grpc.ClientConn
}

// connect prepares a connection; nothing is sent before the first call.
func (a *app) connect(cmd *cobra.Command, id *identity, role manifest.Role) (*peer, error) {
	c, err := a.conn.withEnv(a.env.Getenv, cmd)
	if err != nil {
		return nil, err
	}
	tlsConfig, err := c.tls()
	if err != nil {
		return nil, err
	}
	creds, err := atls.Client(tlsConfig)
	if err != nil {
		return nil, err
	}
	p := &peer{address: c.agent, timeout: c.timeout, mutual: c.clientCert != "", causes: &causes{}}
	p.options = append(bulk.DialOptions(),
		grpc.WithTransportCredentials(watched{creds, p.causes}),
		grpc.WithPerRPCCredentials(callauth.Signer{Key: id.key, Role: role, Digest: id.digest}),
		grpc.WithContextDialer(p.causes.dial),
		grpc.WithUserAgent("cocos-cli"),
	)
	return p, p.reconnect()
}

// reconnect drops the connection, if there is one, for one that makes its first
// attempt at the next call: gRPC's own would first wait out its pauses.
func (p *peer) reconnect() error {
	p.close()
	// passthrough: the dialer gets the address as it was given.
	conn, err := grpc.NewClient("passthrough:///"+p.address, p.options...)
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
	switch {
	case c.agentKey != "" && c.agentCA != "":
		return c, usagef("give the one that the run was started with", "--agent-key and --agent-ca exclude each other")
	case c.agentKey == "" && c.agentCA == "":
		return c, usagef("the event agent.ready has the key as agent_key: --agent-key sha256:…; a run that brought its own certificate wants --agent-ca",
			"neither --agent-key nor --agent-ca is given: nothing would say who answers at %s", c.agent)
	case c.agentName != "" && c.agentCA == "":
		return c, usagef("leave it out: a pinned key needs no name", "--agent-name is of use with --agent-ca only")
	case (c.clientCert == "") != (c.clientKey == ""):
		return c, usagef("give both, or neither", "--client-cert and --client-key belong together")
	}
	return c, nil
}

// tls reads the files that the flags name.
func (c connectFlags) tls() (cfg atls.ClientConfig, err error) {
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
}

func (c *causes) set(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.err = err
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
	return conn, info, err
}

func (w watched) Clone() credentials.TransportCredentials {
	return watched{w.TransportCredentials.Clone(), w.causes}
}
