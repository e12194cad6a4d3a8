package cli

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/net/netutil"

	"github.com/ultravioletrs/cocos/attest"
	"github.com/ultravioletrs/cocos/internal/keybroker"
	"github.com/ultravioletrs/cocos/internal/source"
	"github.com/ultravioletrs/cocos/manifest"
)

const (
	// brokerAddress is where a broker listens if nothing else is said.
	brokerAddress = "127.0.0.1:7030"
	// maxBrokerConns at once, and the times of one request on them.
	maxBrokerConns  = 256
	brokerHeadTime  = 10 * time.Second
	brokerReadTime  = 30 * time.Second
	brokerWriteTime = 2 * time.Minute
	brokerIdleTime  = time.Minute
	// brokerEndTime is how long calls may go on when the broker is to end.
	brokerEndTime = 2 * time.Second
	// maxRefusals that are printed in a minute; strangers could fill a disk.
	maxRefusals = 120
)

// serveFlags of a broker.
type serveFlags struct {
	url, listen, cert, key, provider, state string
	manifests, resources                    []string
	policy                                  policyFlags
}

func (a *app) brokerServeCmd() *cobra.Command {
	var s serveFlags
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run a key broker until it is interrupted",
		Long: `Run a key broker until it is interrupted. It releases a resource only to a VM whose
evidence your policy accepts, for a manifest that is given here, in which a dataset of
yours names this broker and the resource; and to one VM of a manifest (see broker
consent). Giving a manifest here is your consent to release to its VM: read it first
(manifest show). It need not have been approved on this machine before; where one was,
under the same id, another one is refused. A manifest in which somebody else's dataset names your broker is refused.

A resource is a file with what the agent needs for the dataset: age identities as
age-keygen writes them, the private key of an image that ocicrypt has encrypted (PEM or
JWK), or with credentials the JSON of cocos-cli data provide --help. One that does not
fit its dataset is refused at once.

Every acceptance, release and refusal is a line on standard output, with --json an object:
keep them. What can't be written is not released. Without --tls-cert it listens on
loopback alone, for a proxy on this machine that speaks https.`,
		Example: `  cocos-cli broker serve --url https://keys.hospital-a.example --provider hospital-a.pub.pem \
    --listen 0.0.0.0:443 --tls-cert cert.pem --tls-key key.pem --policy policy.json \
    --manifest manifest.json --resource default/key/patients=patients.age-key`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := a.brokerConfig(&s)
			if err != nil {
				return err
			}
			tlsConfig, err := s.tls()
			if err != nil {
				return err
			}
			return a.serveBroker(cmd.Context(), cfg, s.listen, tlsConfig)
		},
	}
	f := cmd.Flags()
	f.StringVar(&s.url, "url", "", "the broker's address as the manifests have it, https://HOST[:PORT][/PATH] (`URL`)")
	f.StringVar(&s.listen, "listen", brokerAddress, "where to listen, `HOST:PORT`")
	f.StringVar(&s.cert, "tls-cert", "", "the broker's certificate with its chain, a `FILE` in PEM")
	f.StringVar(&s.key, "tls-key", "", "its private key, a `FILE` in PEM")
	f.StringVar(&s.provider, "provider", "", "your public key, as the manifests name the datasets' provider, a `FILE` in PEM")
	f.StringArrayVar(&s.manifests, "manifest", nil, "a frozen manifest to whose VM you consent to release your keys, a `FILE` (repeatable)")
	f.StringArrayVar(&s.resources, "resource", nil, "`REPOSITORY/TYPE/TAG=FILE`: what to release under the name that the manifests have (repeatable)")
	s.policy.add(cmd)
	a.stateFlag(cmd, &s.state)
	return cmd
}

// brokerConfig reads what the flags name.
func (a *app) brokerConfig(s *serveFlags) (cfg keybroker.ServerConfig, err error) {
	switch {
	case s.url == "":
		return cfg, usagef("give the address that the manifests have in source.broker, such as https://keys.hospital-a.example", "--url is missing")
	case s.provider == "":
		return cfg, usagef("give your public key, as the manifests name the provider of your datasets: only their keys are released", "--provider is missing")
	case len(s.manifests) == 0:
		return cfg, usagef("give each frozen manifest that you consent to: keys are released for these alone", "--manifest is missing")
	case len(s.resources) == 0:
		return cfg, usagef("give what is to be released: REPOSITORY/TYPE/TAG=FILE", "--resource is missing")
	}
	cfg = keybroker.ServerConfig{URL: s.url, Now: a.out.now, Resources: map[string][]byte{}, Record: (&auditor{app: a}).record}
	if cfg.Owner, err = readPublic(s.provider); err != nil {
		return cfg, err
	}
	if cfg.Verifier, err = a.verifier(&s.policy); err != nil {
		return cfg, err
	}
	for _, name := range s.manifests {
		f, err := readManifest(name)
		if err == nil {
			err = a.asApproved(name, &f)
		}
		if err != nil {
			return cfg, err
		}
		cfg.Manifests = append(cfg.Manifests, f)
		if f.TEE == manifest.TEESim {
			a.simulated()
		}
	}
	for _, r := range s.resources {
		name, file, ok := strings.Cut(r, "=")
		switch {
		case !ok || name == "" || file == "":
			return cfg, usagef("such as default/key/patients=patients.age-key", "--resource %q is not REPOSITORY/TYPE/TAG=FILE", r)
		case cfg.Resources[name] != nil:
			return cfg, usagef("give each once", "--resource %s is given twice", name)
		}
		if cfg.Resources[name], err = readSmall(file, keybroker.MaxResource); err != nil {
			return cfg, fmt.Errorf("reading --resource %s: %w", name, err)
		}
	}
	dir, err := a.brokerState(s.state)
	if err != nil {
		return cfg, err
	}
	// A state that can't be kept is found out now, and not when a VM waits.
	var state brokered
	if err := updateOwn(dir, brokerFile, &state, func() error { return nil }); err != nil {
		return cfg, fmt.Errorf("the broker's --state %s: %w", dir, err)
	}
	cfg.Admit = func(v keybroker.Instance) error { return admitTo(dir, instanceOf(v)) }
	return cfg, nil
}

// fitting refuses what the agent could make no use of, now that its owner is there.
func (a *app) fitting(cfg *keybroker.ServerConfig) error {
	for i := range cfg.Manifests {
		m := &cfg.Manifests[i]
		for _, d := range m.Datasets {
			if d.Source.Broker != cfg.URL {
				continue
			}
			secret, err := source.ParseSecret(cfg.Resources[d.Source.Resource])
			if err == nil {
				err = secret.Fits(d.Source)
			}
			switch {
			case err != nil:
			case d.Content().Committed() && secret.Salt == nil:
				err = errors.New("the manifest names the dataset by a commitment, and the secret has no salt")
			case !d.Content().Committed() && secret.Salt != nil:
				err = errors.New("the secret has a salt, and the manifest names the dataset by its sha256")
			}
			if err != nil {
				return advise(fmt.Errorf("--resource %s is of no use for the dataset %s of the manifest %s (%s): %w", d.Source.Resource, d.Name, m.Digest, m.ID, err),
					"write it as cocos-cli data provide --help says of a secret")
			}
			if strings.HasPrefix(d.Source.URL, "s3://") && secret.Anonymous() {
				a.out.hint("%s has no credentials (s3): the agent asks for %s without any", d.Source.Resource, d.Source.URL)
			}
		}
	}
	return nil
}

// tls is nil where a proxy speaks it.
func (s *serveFlags) tls() (*tls.Config, error) {
	if s.cert == "" && s.key == "" {
		host, _, err := net.SplitHostPort(s.listen)
		if ip := net.ParseIP(host); err != nil || host != "localhost" && (ip == nil || !ip.IsLoopback()) {
			return nil, usagef("give --tls-cert and --tls-key; or listen on loopback, behind a proxy that speaks https", "--listen %s is not a loopback address, and there is no certificate", s.listen)
		}
		return nil, nil
	}
	if s.cert == "" || s.key == "" {
		return nil, usagef("give both", "--tls-cert and --tls-key go together")
	}
	pair, err := tls.LoadX509KeyPair(s.cert, s.key)
	if err != nil {
		return nil, fmt.Errorf("reading --tls-cert and --tls-key: %w", err)
	}
	return &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{pair}}, nil
}

// serveBroker serves until ctx ends.
func (a *app) serveBroker(ctx context.Context, cfg keybroker.ServerConfig, listen string, tlsConfig *tls.Config) error {
	handler, err := keybroker.NewServer(cfg)
	if err != nil {
		return advise(fmt.Errorf("the broker would be of no use: %w", err), "correct --url, --provider, --manifest or --resource")
	}
	if err := a.fitting(&cfg); err != nil {
		return err
	}
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", listen)
	if err != nil {
		return advise(fmt.Errorf("listening on --listen %s: %w", listen, err), "choose an address of this machine that is free")
	}
	a.out.hint("the broker %s listens on %s", cfg.URL, l.Addr())
	bounded := netutil.LimitListener(l, maxBrokerConns)
	if tlsConfig != nil {
		tlsConfig.NextProtos = []string{"http/1.1"}
		bounded = tls.NewListener(bounded, tlsConfig)
	}
	server := &http.Server{
		Handler: handler, ReadHeaderTimeout: brokerHeadTime, ReadTimeout: brokerReadTime, WriteTimeout: brokerWriteTime,
		IdleTimeout: brokerIdleTime, MaxHeaderBytes: 16 << 10, ErrorLog: log.New(io.Discard, "", 0), // strangers' doings
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(bounded) }()
	select {
	case err := <-served:
		return fmt.Errorf("serving: %w", err)
	case <-ctx.Done():
	}
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), brokerEndTime)
	defer cancel()
	if err := server.Shutdown(end); err != nil {
		server.Close()
	}
	if err := <-served; !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serving: %w", err)
	}
	return nil
}

// auditor prints what a broker did.
type auditor struct {
	app *app

	mu      sync.Mutex
	minute  time.Time
	printed int
	dropped int
}

// audited is a record as it is printed.
type audited struct {
	keybroker.Record
	// Dropped refusals before this line that were not printed.
	Dropped int `json:"dropped,omitzero"`
}

func (u *auditor) record(r keybroker.Record) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if r.Event == keybroker.EventRefused {
		if d := r.At.Sub(u.minute); d >= time.Minute || d < 0 {
			u.minute, u.printed = r.At, 0
		}
		if u.printed++; u.printed > maxRefusals {
			u.dropped++
			return nil
		}
	}
	line := audited{r, u.dropped}
	if err := u.app.out.result(line, "%s\n", line.text()); err != nil {
		return err
	}
	u.dropped = 0
	return nil
}

func (l *audited) text() string {
	var b strings.Builder
	if l.Dropped > 0 {
		fmt.Fprintf(&b, "(%d refusals before this line are not shown) ", l.Dropped)
	}
	fmt.Fprintf(&b, "%s %s", l.At.Format(time.RFC3339), l.Event)
	if l.Resource != "" {
		fmt.Fprintf(&b, " %s", l.Resource)
	}
	fmt.Fprintf(&b, " from %s", l.Remote)
	if l.Manifest != "" {
		fmt.Fprintf(&b, ", manifest %s", l.Manifest)
	}
	if l.Computation != "" {
		fmt.Fprintf(&b, " (%s)", l.Computation)
	}
	if l.Instance != "" {
		fmt.Fprintf(&b, ", VM %s", l.Instance)
	}
	if l.TEE == attest.Sim {
		b.WriteString(", " + simulatedMark)
	} else if l.TEE != "" {
		fmt.Fprintf(&b, ", %s", l.TEE)
	}
	if l.Reason != "" {
		fmt.Fprintf(&b, ": %s: %s", l.Reason, l.Detail)
	}
	return clean(b.String())
}
