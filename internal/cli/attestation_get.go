package cli

import (
	"bytes"
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/ultravioletrs/cocos/atls"
	"github.com/ultravioletrs/cocos/attest"
	"github.com/ultravioletrs/cocos/keys"
	"github.com/ultravioletrs/cocos/manifest"
)

// gotten is evidence as it was fetched, with what it must bind. Nobody has
// appraised it.
type gotten struct {
	Type attest.Type `json:"type"`
	// Verified is always false, for whoever reads the file later.
	Verified   bool            `json:"verified"`
	Manifest   manifest.Digest `json:"manifest_digest"`
	ReportData attest.Hex      `json:"report_data"`
	Instance   keys.Public     `json:"instance_key"`
	Evidence   attest.Evidence `json:"evidence"`
}

func (a *app) attestationGetCmd() *cobra.Command {
	var out, raw, certs string
	cmd := &cobra.Command{
		Use:   "get",
		Short: "Fetch evidence from an agent, without appraising it",
		Long: `Fetch fresh evidence from an agent by beginning a connection, and end it before any
call is made. No policy is asked: what comes is UNVERIFIED, and whoever answers may
have made it up. cocos-cli attestation verify appraises it, with the report data that
this command prints; cocos-cli attestation explain says what it means.

--out is one JSON file with all that came, for those commands; --raw the report or quote alone, as vendors'
tools read it; --certs the certificates that came with it, in PEM.`,
		Example: `  cocos-cli attestation get --agent 127.0.0.1:7020 --manifest manifest.json \
    --out evidence.json --raw report.bin --certs certs.pem`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.conn.withEnv(a.env.Getenv, cmd)
			if err != nil {
				return err
			}
			id, err := a.computation()
			if err != nil {
				return err
			}
			if id.manifest != nil && !id.attested() {
				return advise(fmt.Errorf("%s does not ask for attested TLS: its agent shows no evidence", c.manifest), "/attested_tls of the manifest would have to be true")
			}
			g, err := c.fetchEvidence(cmd.Context(), id)
			if err != nil {
				return err
			}
			if g.Type == attest.Sim {
				a.simulated()
			}
			if err := g.store(out, raw, certs); err != nil {
				return err
			}
			if err := a.out.result(g, "type         %s\nreport data  %s\ninstance     %s\n", clean(string(g.Type)), g.ReportData, g.Instance.Fingerprint()); err != nil {
				return err
			}
			a.out.hint("UNVERIFIED: nothing of this has been appraised. To do that:\n  cocos-cli attestation verify --evidence FILE --policy FILE --manifest FILE --report-data %s", g.ReportData)
			return nil
		},
	}
	f, c := cmd.Flags(), &a.conn
	f.StringVar(&c.agent, "agent", "", "the agent's `HOST:PORT` [$AGENT_GRPC_URL]")
	f.StringVar(&c.manifest, "manifest", "", "the frozen manifest that the agent should enforce, a `FILE`")
	f.StringVar(&c.manifestDigest, "manifest-digest", "", "or only its digest, in `HEX`")
	f.DurationVar(&c.timeout, "timeout", 30*time.Second, "how long to wait for the evidence [$AGENT_GRPC_TIMEOUT]")
	f.StringVar(&out, "out", "", "`FILE` for the evidence with all that came with it, in JSON")
	f.StringVar(&raw, "raw", "", "`FILE` for the report or quote alone")
	f.StringVar(&certs, "certs", "", "`FILE` for the certificates that came with it, in PEM")
	return cmd
}

// errFetched ends a handshake whose evidence was wanted and nothing else.
var errFetched = errors.New("the evidence was fetched, not appraised")

// fetching accepts nothing.
type fetching struct{}

// Verify implements attest.Verifier.
func (fetching) Verify(_ context.Context, e attest.Evidence, _ attest.Expected) (attest.Result, error) {
	return attest.Result{Type: e.Type}, errFetched
}

// fetchEvidence begins a handshake and ends it with the evidence.
func (c *connectFlags) fetchEvidence(ctx context.Context, id *identity) (*gotten, error) {
	const doing = "fetching evidence"
	launch := attest.LaunchDigests{SHA256: id.digest}
	if id.manifest != nil {
		launch = attest.LaunchDigestsOf(id.manifest.Raw)
	}
	creds, err := atls.Client(atls.ClientConfig{Appraisal: &atls.Appraisal{Verifier: fetching{}, Launch: launch}})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", doing, err)
	}
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	p := &peer{address: c.agent, timeout: c.timeout, attested: true, causes: &causes{}}
	conn, err := p.causes.dial(ctx, c.agent)
	if err == nil {
		defer conn.Close()
		stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) }) //nolint:errcheck // a connection that is gone has ended, too
		defer stop()
		var made net.Conn
		if made, _, err = creds.ClientHandshake(ctx, c.agent, conn); err == nil {
			made.Close()
			return nil, fmt.Errorf("%s: the handshake went on without an appraisal", doing)
		}
		p.causes.set(err)
	}
	var evidence *atls.EvidenceError
	code := codes.Unavailable
	if ctx.Err() != nil {
		code = codes.DeadlineExceeded
	}
	if !errors.As(err, &evidence) || !errors.Is(err, errFetched) {
		return nil, p.unreachable(doing, status.New(code, ""))
	}
	instance, err := keys.ParsePublic(evidence.Instance)
	if err != nil {
		return nil, fmt.Errorf("%s: the VM's instance key: %w", doing, err)
	}
	return &gotten{
		Type: evidence.Evidence.Type, Manifest: id.digest, ReportData: evidence.ReportData[:],
		Instance: instance, Evidence: evidence.Evidence,
	}, nil
}

// store writes the files that are asked for.
func (g *gotten) store(out, raw, certs string) error {
	all, err := encode(g.Evidence)
	if err != nil {
		return err
	}
	var chain bytes.Buffer
	for _, der := range g.Evidence.Endorsements.Certificates {
		if err := pem.Encode(&chain, &pem.Block{Type: "CERTIFICATE", Bytes: der}); err != nil {
			return err
		}
	}
	if certs != "" && chain.Len() == 0 {
		return advise(errors.New("no certificates came with the evidence"), "leave out --certs: cocos-cli attestation verify --fetch gets them from the vendor")
	}
	for _, f := range []struct {
		name string
		data []byte
	}{{out, all}, {raw, g.Evidence.Report}, {certs, chain.Bytes()}} {
		if f.name == "" {
			continue
		}
		if err := replaceFile(f.name, f.data); err != nil {
			return fmt.Errorf("writing %s: %w", f.name, err)
		}
	}
	return nil
}
