package cli

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/status"

	"github.com/ultravioletrs/cocos/atls"
	"github.com/ultravioletrs/cocos/attest"
	"github.com/ultravioletrs/cocos/attest/explain"
	"github.com/ultravioletrs/cocos/hal/measure"
	"github.com/ultravioletrs/cocos/keys"
	"github.com/ultravioletrs/cocos/manifest"
)

// simulatedMark stands wherever something is simulated.
const simulatedMark = "SIMULATED"

// attested tells whether the manifest asks for attested TLS.
func (id *identity) attested() bool { return id.manifest != nil && id.manifest.AttestedTLS }

// cachedFlag is for calls that carry nothing secret.
func (a *app) cachedFlag(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&a.conn.acceptCached, "accept-cached", false, "accept evidence that is older than the connection, which is quicker where many connect")
}

// given is the first of the flags that the command line has, or "".
func given(cmd *cobra.Command, flags ...string) string {
	for _, name := range flags {
		if cmd.Flags().Changed(name) {
			return "--" + name
		}
	}
	return ""
}

// appraised is for agents whose evidence is appraised here: no key or CA that
// somebody names stands in for it.
func (a *app) appraised(cmd *cobra.Command, c *connectFlags, id *identity) (cfg atls.ClientConfig, known func() (explain.Inputs, error), err error) {
	if f := given(cmd, "agent-key", "agent-ca", "agent-name"); f != "" {
		return cfg, known, usagef("leave it out and give --policy FILE: whoever told you to use "+f+" may want you to talk to another VM",
			"%s asks for attested TLS, which %s can't take the place of", c.manifest, f)
	}
	if f := given(cmd, "client-cert", "client-key"); f != "" {
		return cfg, known, usagef("leave it out: the signature on each call says who you are", "%s is of no use with attested TLS, which %s asks for", f, c.manifest)
	}
	if !cmd.Flags().Changed("policy") {
		return cfg, known, usagef("cocos-cli policy init writes one from an image that you trust; take none from whoever runs the VM",
			"--policy is missing: %s asks for attested TLS, and nothing says which evidence you accept", c.manifest)
	}
	policy, err := a.policy(&c.policy)
	if err != nil {
		return cfg, known, err
	}
	v, err := a.verifier(&c.policy)
	if err != nil {
		return cfg, known, err
	}
	launch := attest.LaunchDigestsOf(id.manifest.Raw)
	known = func() (explain.Inputs, error) {
		l := launchedFlags{images: c.images, firmwares: c.firmwares}
		l.features = strconv.Itoa(measure.DefaultGuestFeatures)
		in, err := l.read(cmd)
		in.Manifests, in.Policy = []explain.Manifest{{Name: c.manifest, Digests: launch}}, &policy
		return in, err
	}
	guard := &instanceGuard{app: a, consent: c.newInstance}
	cfg.Appraisal = &atls.Appraisal{
		Verifier: v, Launch: launch, AcceptCached: c.acceptCached,
		CheckInstance: func(spki []byte, at atls.Attestation) error {
			// Whatever the verifier was: the TEE is the one that was approved.
			if at.Evidence.Type != attest.Type(id.manifest.TEE) {
				return &otherTEE{id.manifest.TEE, at.Evidence.Type}
			}
			k, err := keys.ParsePublic(spki)
			if err != nil {
				return fmt.Errorf("the VM's instance key: %w", err)
			}
			return guard.admit(instance{
				Manifest: id.digest, Computation: id.manifest.ID, Key: k, TEE: at.Evidence.Type,
				Since: a.out.now().UTC().Truncate(time.Second),
			})
		},
	}
	return cfg, known, nil
}

// otherTEE refuses good evidence of another TEE than the manifest asks for.
type otherTEE struct {
	want manifest.TEE
	got  attest.Type
}

func (e *otherTEE) Error() string {
	return fmt.Sprintf("the evidence is of the TEE %q, and the manifest asks for %q", e.got, e.want)
}

// unappraised refuses the flags of attested TLS where there is none.
func (c *connectFlags) unappraised(cmd *cobra.Command, id *identity) error {
	f := given(cmd, "policy", "collateral", "fetch", "new-instance", "accept-cached", "image", "firmware")
	switch {
	case f == "":
		return nil
	case id.manifest == nil:
		return usagef("give the frozen manifest that you approved: with the digest alone it is not known whether the agent is attested, and TDX binds another digest of the same bytes",
			"--manifest is missing, and %s needs it", f)
	}
	return usagef("leave it out; /attested_tls must be true in the manifest for an agent that shows evidence",
		"%s is of no use: %s does not ask for attested TLS, and nothing would be appraised", f, c.manifest)
}

// open makes the connection where its evidence is to be judged before anything
// else happens. A plain one is made by its first call.
func (p *peer) open(ctx context.Context) error {
	if !p.attested {
		return nil
	}
	ctx, cancel := p.call(ctx)
	defer cancel()
	for {
		s := p.conn.GetState()
		switch s {
		case connectivity.Ready:
			at := p.causes.peer()
			if at == nil || !at.Result.Accepted {
				return fmt.Errorf("%s: no evidence was appraised", connecting)
			}
			if at.Result.Simulated {
				p.app.simulated()
			}
			return nil
		case connectivity.TransientFailure:
			if p.fetches && interruptedInside(p.causes.last()) {
				break // gRPC tries again; what was fetched meanwhile is kept
			}
			return p.unreachable(connecting, status.New(codes.Unavailable, "the handshake failed"))
		case connectivity.Idle:
			p.conn.Connect()
		}
		if !p.conn.WaitForStateChange(ctx, s) {
			if errors.Is(ctx.Err(), context.Canceled) {
				return ctx.Err()
			}
			return p.unreachable(connecting, status.New(codes.DeadlineExceeded, ""))
		}
	}
}

// interruptedInside tells whether a connection ended that had been made: an agent
// waits some 20 s for a verdict, and vendors' services may take longer.
func interruptedInside(cause error) bool {
	var op *net.OpError
	if errors.As(cause, &op) && op.Op == "dial" {
		return false
	}
	return cause != nil && broken(cause)
}

// connecting is what open does, for errors.
const connecting = "connecting to the agent"

// simulated says so to people, and with each object to scripts.
func (a *app) simulated() {
	if a.out.simulated.Swap(true) {
		return
	}
	a.out.hint("%s: this computation runs in a simulated TEE, which protects nothing from the host", simulatedMark)
}
