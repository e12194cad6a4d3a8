package agent

import (
	"bytes"
	"context"
	"errors"
	"strconv"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"

	agentv1 "github.com/ultravioletrs/cocos/api/agent/v1"
	"github.com/ultravioletrs/cocos/atls"
	"github.com/ultravioletrs/cocos/attest"
	"github.com/ultravioletrs/cocos/internal/callauth"
	"github.com/ultravioletrs/cocos/internal/rpcerr"
	"github.com/ultravioletrs/cocos/internal/vm"
	"github.com/ultravioletrs/cocos/manifest"
)

// checkTEE wants the TEE that the manifest asks for, and nothing beside it that
// could stand in its place.
func checkTEE(cfg *Config) error {
	m := &cfg.Manifest
	if cfg.Attester == nil {
		if m.TEE != manifest.TEENone || m.AttestedTLS {
			return vm.Refuse(vm.RefusedTEE, "the manifest asks for /tee %q and /attested_tls %t, and nothing vouches for this machine", m.TEE, m.AttestedTLS)
		}
		return nil
	}
	if kind := cfg.Attester.Type(); m.TEE != manifest.TEENone && attest.Type(m.TEE) != kind {
		return vm.Refuse(vm.RefusedTEE, "the manifest asks for /tee %q, and this machine's TEE is %q", m.TEE, kind)
	}
	if cfg.Instance.Public().IsZero() {
		return errors.New("the configuration is incomplete: there is no instance key")
	}
	t := cfg.TLS
	if m.AttestedTLS && len(t.ServerCert)+len(t.ServerKey)+len(t.ClientCAs) > 0 {
		return vm.Refuse(vm.RefusedConfiguration, "the run request brings a server certificate, its key or client CAs, and manifest field /attested_tls is true: there the agent makes its own key; leave them out")
	}
	return nil
}

// evidenceEpoch is for how long a report serves those who take evidence that is
// older than their connection, for calls that carry nothing secret: they watch a
// run without keeping the TEE busy.
const evidenceEpoch = time.Minute

// credentials are how participants are met. done ends the giving of evidence, to
// those who wait for it and to key brokers, too.
func (a *Agent) credentials() (creds credentials.TransportCredentials, done func(), err error) {
	cfg := atls.ServerConfig{Identity: a.identity, ClientCAs: a.clients}
	done = func() {}
	if a.cfg.Attester != nil && (a.cfg.Manifest.AttestedTLS || a.namesBroker()) {
		a.prover, err = atls.NewProver(atls.ProverConfig{
			Attester: a.cfg.Attester, Manifest: a.cfg.Manifest.Digest, Instance: a.cfg.Instance, Epoch: evidenceEpoch,
		})
		if err != nil {
			return nil, nil, err
		}
		done = a.prover.Close
	}
	if a.cfg.Manifest.AttestedTLS {
		cfg.Prover = a.prover
	}
	creds, err = atls.Server(cfg)
	if err != nil {
		done()
		return nil, nil, err
	}
	return creds, done, nil
}

// harmless are the calls that can be made on a connection whose evidence is
// older than itself. Inputs, results and receipts are for fresh ones.
var harmless = map[string]bool{
	agentv1.AgentService_State_FullMethodName:        true,
	agentv1.AgentService_UploadStatus_FullMethodName: true,
	agentv1.AgentService_Events_FullMethodName:       true,
	agentv1.AgentService_Logs_FullMethodName:         true,
}

// admitConnection judges what a call came over, before who made it.
func (a *Agent) admitConnection(ctx context.Context, method string) error {
	if !a.cfg.Manifest.AttestedTLS {
		return nil
	}
	info, err := atls.InfoFrom(ctx)
	if err != nil || !bytes.Equal(info.Instance, a.cfg.Instance.Public().SPKI()) {
		return callauth.Stranger() // package atls lets none of these through
	}
	if info.Cached && !harmless[method] {
		return rpcerr.New(codes.FailedPrecondition, rpcerr.Detail{
			Reason: rpcerr.EvidenceCached, Hint: "connect again without accepting cached evidence",
		}, "this connection stands on evidence that is older than itself, which serves nothing secret")
	}
	return nil
}

// readyAttributes are those of agent.ready.
func (a *Agent) readyAttributes() map[string]string {
	m := map[string]string{"agent_key": a.Key(), "manifest_digest": a.cfg.Manifest.Digest.String()}
	if a.cfg.Attester == nil {
		return m
	}
	kind := a.cfg.Attester.Type()
	m["tee"] = string(kind)
	m["instance"] = a.cfg.Instance.Public().Fingerprint()
	m["attested"] = strconv.FormatBool(a.cfg.Manifest.AttestedTLS)
	if kind == attest.Sim {
		m["simulated"] = "true"
	}
	return m
}
