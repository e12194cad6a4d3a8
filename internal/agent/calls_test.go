package agent_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io"
	"log/slog"
	"math/big"
	"net"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	agentv1 "github.com/ultravioletrs/cocos/api/agent/v1"
	"github.com/ultravioletrs/cocos/atls"
	"github.com/ultravioletrs/cocos/internal/agent"
	"github.com/ultravioletrs/cocos/internal/agent/journal"
	"github.com/ultravioletrs/cocos/internal/callauth"
	"github.com/ultravioletrs/cocos/internal/oci/build"
	"github.com/ultravioletrs/cocos/internal/rpcerr"
	"github.com/ultravioletrs/cocos/keys"
	"github.com/ultravioletrs/cocos/manifest"
)

// fixed sends the same metadata with every call, as one who recorded it would.
type fixed map[string]string

func (f fixed) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return f, nil
}
func (fixed) RequireTransportSecurity() bool { return true }

// recorder signs like its Signer and keeps what it sent.
type recorder struct {
	callauth.Signer
	last fixed
}

func (r *recorder) GetRequestMetadata(ctx context.Context, uri ...string) (map[string]string, error) {
	m, err := r.Signer.GetRequestMetadata(ctx, uri...)
	r.last = m
	return m, err
}

// Each call is right in all but one thing. Strangers get one answer.
func TestCallsOfStrangers(t *testing.T) {
	p := everybody()
	e := start(t, basic(t))
	good := callauth.Signer{Key: p.consumer, Role: manifest.Consumer, Digest: e.digest}
	rec := &recorder{Signer: good}
	_, c := e.dial(grpc.WithPerRPCCredentials(rec))
	if _, err := c.State(e.ctx(), &agentv1.StateRequest{}); err != nil {
		t.Fatalf("the right call: %v", err)
	}
	recorded := rec.last
	change := func(name, value string) fixed {
		f := fixed{}
		for k, v := range recorded {
			f[k] = v
		}
		if value == "" {
			delete(f, name)
		} else {
			f[name] = value
		}
		return f
	}
	other := e.digest
	other[0] ^= 1
	var words string
	for _, tt := range []struct {
		name   string
		with   grpc.DialOption
		reason rpcerr.Reason
	}{
		{"unsigned", nil, rpcerr.Unsigned},
		{"without role", grpc.WithPerRPCCredentials(change(callauth.RoleHeader, "")), rpcerr.Unsigned},
		{"without key", grpc.WithPerRPCCredentials(change(callauth.KeyHeader, "")), rpcerr.Unsigned},
		{"without signature", grpc.WithPerRPCCredentials(change(callauth.SignatureHeader, "")), rpcerr.Unsigned},
		{"replayed on another connection", grpc.WithPerRPCCredentials(recorded), rpcerr.Signature},
		{"another manifest", grpc.WithPerRPCCredentials(callauth.Signer{Key: p.consumer, Role: manifest.Consumer, Digest: other}), rpcerr.Signature},
		{"a stranger's key", grpc.WithPerRPCCredentials(callauth.Signer{Key: p.stranger, Role: manifest.Consumer, Digest: e.digest}), rpcerr.Signature},
		{"a stranger with a participant's key", grpc.WithPerRPCCredentials(impostor{good, p.stranger}), rpcerr.Signature},
		{"role changed after signing", grpc.WithPerRPCCredentials(tamper{good, callauth.RoleHeader, string(manifest.Approver)}), rpcerr.Signature},
		{"signature bent", grpc.WithPerRPCCredentials(tamper{good, callauth.SignatureHeader, ""}), rpcerr.Signature},
		{"signature too long", grpc.WithPerRPCCredentials(tamper{good, callauth.SignatureHeader, strings.Repeat("x", 5000)}), rpcerr.Signature},
		{"key that is none", grpc.WithPerRPCCredentials(tamper{good, callauth.KeyHeader, "x"}), rpcerr.Signature},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var options []grpc.DialOption
			if tt.with != nil {
				options = append(options, tt.with)
			}
			_, c := e.dial(options...)
			for name, call := range everyCall(e, c) {
				err := call()
				refused(t, err, codes.Unauthenticated, tt.reason)
				if t.Failed() {
					t.Fatalf("call %s", name)
				}
				if tt.reason == rpcerr.Signature {
					if words == "" {
						words = status.Convert(err).Message()
					}
					if got := status.Convert(err).Message(); got != words {
						t.Errorf("another answer tells strangers apart: %q and %q", got, words)
					}
				}
			}
		})
	}
	if _, err := c.State(e.ctx(), &agentv1.StateRequest{}); err != nil {
		t.Errorf("the right call afterwards: %v", err)
	}
}

// impostor shows one key and signs with another.
type impostor struct {
	callauth.Signer
	signs keys.Private
}

func (i impostor) GetRequestMetadata(ctx context.Context, _ ...string) (map[string]string, error) {
	info, err := atls.InfoFrom(ctx)
	if err != nil {
		return nil, err
	}
	sig, err := i.signs.Sign(manifest.CallText(i.Digest, i.Role, i.Key.Public(), info.Instance, info.Exporter[:]))
	return map[string]string{
		callauth.RoleHeader: string(i.Role), callauth.KeyHeader: string(i.Key.Public().SPKI()), callauth.SignatureHeader: string(sig),
	}, err
}

// tamper changes one value after signing; "" bends a bit of it.
type tamper struct {
	callauth.Signer
	name, value string
}

func (x tamper) GetRequestMetadata(ctx context.Context, uri ...string) (map[string]string, error) {
	m, err := x.Signer.GetRequestMetadata(ctx, uri...)
	if err != nil {
		return nil, err
	}
	if x.value != "" {
		m[x.name] = x.value
		return m, nil
	}
	b := []byte(m[x.name])
	b[len(b)/2] ^= 1
	m[x.name] = string(b)
	return m, nil
}

// everyCall makes each call of the API once.
func everyCall(e *env, c agentv1.AgentServiceClient) map[string]func() error {
	return map[string]func() error{
		"State": func() error { _, err := c.State(e.ctx(), &agentv1.StateRequest{}); return err },
		"UploadStatus": func() error {
			_, err := c.UploadStatus(e.ctx(), &agentv1.UploadStatusRequest{Input: algoRef()})
			return err
		},
		"Upload": func() error { _, err := e.upload(c, algoRef(), algorithm, 0); return err },
		"Result": func() error { _, _, err := e.takeResult(c, 0); return err },
		"ConfirmResult": func() error {
			_, err := c.ConfirmResult(e.ctx(), &agentv1.ConfirmResultRequest{Sha256: make([]byte, 32)})
			return err
		},
		"Receipt": func() error { _, err := c.Receipt(e.ctx(), &agentv1.ReceiptRequest{}); return err },
		"Events": func() error {
			s, err := c.Events(e.ctx(), &agentv1.EventsRequest{})
			if err == nil {
				_, err = s.Recv()
			}
			return err
		},
		"Logs": func() error {
			s, err := c.Logs(e.ctx(), &agentv1.LogsRequest{})
			if err == nil {
				_, err = s.Recv()
			}
			return err
		},
	}
}

// A participant in a role that is not its own, or in one that the call is not
// for, is told so.
func TestCallsInWrongRoles(t *testing.T) {
	p := everybody()
	m := basic(t)
	m.Approvals = []keys.Public{p.approver.Public()}
	f, err := manifest.Freeze(m)
	if err != nil {
		t.Fatal(err)
	}
	approval, err := f.Approve(p.approver)
	if err != nil {
		t.Fatal(err)
	}
	e := start(t, m, func(c *agent.Config) { c.Approvals = []manifest.Approval{approval} })
	open := []string{"State", "Events", "Logs"}
	for _, tt := range []struct {
		name    string
		key     keys.Private
		role    manifest.Role
		reason  rpcerr.Reason // of what is not open
		allowed []string
	}{
		{"approver", p.approver, manifest.Approver, rpcerr.RoleNotAllowed, open},
		{"consumer", p.consumer, manifest.Consumer, rpcerr.RoleNotAllowed, append(open, "Result", "ConfirmResult", "Receipt")},
		{"dataset provider", p.data, manifest.DatasetProvider, rpcerr.RoleNotAllowed, open},
		{"consumer as provider", p.consumer, manifest.AlgorithmProvider, rpcerr.RoleNotGranted, nil},
		{"provider as consumer", p.algo, manifest.Consumer, rpcerr.RoleNotGranted, nil},
		{"participant in no role", p.algo, "owner", rpcerr.RoleNotGranted, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			allowed := map[string]bool{}
			for _, a := range tt.allowed {
				allowed[a] = true
			}
			for name, call := range everyCall(e, e.as(tt.key, tt.role)) {
				err := call()
				if allowed[name] {
					if c := status.Code(err); c == codes.PermissionDenied || c == codes.Unauthenticated {
						t.Errorf("%s was refused: %v", name, err)
					}
					continue
				}
				refused(t, err, codes.PermissionDenied, tt.reason)
			}
		})
	}
}

func TestEventsFromASequence(t *testing.T) {
	e := start(t, basic(t))
	c := e.as(everybody().data, manifest.DatasetProvider)
	e.uploadAll()
	e.wait(agent.ResultReady)
	want := e.journal.EventsAfter(0)
	for _, after := range []uint64{0, 1, uint64(len(want)) - 1, uint64(len(want)), 1 << 62} {
		s, err := c.Events(e.ctx(), &agentv1.EventsRequest{After: after})
		if err != nil {
			t.Fatal(err)
		}
		next := after + 1
		for {
			m, err := s.Recv()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			ev := m.GetEvent()
			if ev.GetSequence() != next || ev.GetKind() != want[next-1].Kind || ev.GetRunId() != runID {
				t.Errorf("after %d: got %v, want sequence %d", after, ev, next)
			}
			next++
		}
		if after < uint64(len(want)) && next != uint64(len(want))+1 {
			t.Errorf("after %d: ended before %d", after, next)
		}
	}
}

func TestLogsAreThoseOfTheAgent(t *testing.T) {
	e := start(t, basic(t))
	e.uploadAll()
	e.wait(agent.ResultReady)
	s, err := e.as(everybody().consumer, manifest.Consumer).Logs(e.ctx(), &agentv1.LogsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	var all string
	for {
		m, err := s.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		all += m.GetLog().GetMessage() + "\n"
	}
	if !strings.Contains(all, "serving") || strings.Contains(all, "secret") {
		t.Errorf("the log is\n%s", all)
	}
}

// newCA makes a CA and a certificate of it for 127.0.0.1, all in PEM.
func newCA(t testing.TB) (ca, cert, key []byte) {
	t.Helper()
	mk := func(template, parent *x509.Certificate, signer *ecdsa.PrivateKey) (*ecdsa.PrivateKey, []byte) {
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		if signer == nil {
			signer = k
		}
		der, err := x509.CreateCertificate(rand.Reader, template, parent, k.Public(), signer)
		if err != nil {
			t.Fatal(err)
		}
		return k, der
	}
	now := time.Now()
	root := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "CA"}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	rootKey, rootDER := mk(root, root, nil)
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2), NotBefore: root.NotBefore, NotAfter: root.NotAfter, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	leafKey, leafDER := mk(leaf, root, rootKey)
	pkcs8, err := x509.MarshalPKCS8PrivateKey(leafKey)
	if err != nil {
		t.Fatal(err)
	}
	block := func(kind string, b []byte) []byte { return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: b}) }
	return block("CERTIFICATE", rootDER), block("CERTIFICATE", leafDER), block("PRIVATE KEY", pkcs8)
}

func TestMutualTLSWithTheCreatorsCertificates(t *testing.T) {
	ca, cert, key := newCA(t)
	otherCA, otherCert, otherKey := newCA(t)
	e := start(t, basic(t), func(c *agent.Config) {
		c.TLS = agent.TLSConfig{ServerCert: cert, ServerKey: key, ClientCAs: ca}
	})
	signer := grpc.WithPerRPCCredentials(callauth.Signer{Key: everybody().consumer, Role: manifest.Consumer, Digest: e.digest})
	load := func(cert, key []byte) atls.Identity {
		id, err := atls.LoadIdentity(cert, key)
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	pool := func(b []byte) *x509.CertPool {
		p, err := atls.LoadCAs(b)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	for _, tt := range []struct {
		name string
		cfg  atls.ClientConfig
		ok   bool
	}{
		{"CA and client certificate", atls.ClientConfig{ServerCAs: pool(ca), ServerName: "127.0.0.1", Identity: load(cert, key)}, true},
		{"pin and client certificate", atls.ClientConfig{ServerKey: e.agent.Key(), Identity: load(cert, key)}, true},
		{"no client certificate", atls.ClientConfig{ServerCAs: pool(ca), ServerName: "127.0.0.1"}, false},
		{"another CA's client certificate", atls.ClientConfig{ServerCAs: pool(ca), ServerName: "127.0.0.1", Identity: load(otherCert, otherKey)}, false},
		{"another CA for the server", atls.ClientConfig{ServerCAs: pool(otherCA), ServerName: "127.0.0.1", Identity: load(cert, key)}, false},
		{"another name", atls.ClientConfig{ServerCAs: pool(ca), ServerName: "example.org", Identity: load(cert, key)}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			creds, err := atls.Client(tt.cfg)
			if err != nil {
				t.Fatal(err)
			}
			_, c := e.dial(signer, grpc.WithTransportCredentials(creds))
			_, err = c.State(e.ctx(), &agentv1.StateRequest{})
			if tt.ok != (err == nil) || !tt.ok && status.Code(err) != codes.Unavailable {
				t.Errorf("got %v", err)
			}
		})
	}
	if ready := e.journal.EventsAfter(0)[0]; ready.Attributes["agent_key"] != e.agent.Key() || ready.Attributes["manifest_digest"] != e.digest.String() {
		t.Errorf("the ready event says %v", ready.Attributes)
	}
}

// Each configuration is right in all but one thing.
func TestNewRefuses(t *testing.T) {
	ca, cert, key := newCA(t)
	_, _, otherKey := newCA(t)
	p := everybody()
	approved := basic(t)
	approved.Approvals = []keys.Public{p.approver.Public()}
	huge := basic(t)
	huge.Datasets[0].Size = manifest.MaxInputSize
	unpacked := basic(t)
	unpacked.Datasets[1].UnpackedMax = manifest.MaxInputSize
	image, _ := containerOf(t, build.Image{})
	image.Algorithm.Image.UnpackedMax = manifest.MaxInputSize
	sev := basic(t)
	sev.TEE = manifest.TEESNP
	attested := sev
	attested.AttestedTLS = true
	for _, tt := range []struct {
		name, want string
		m          manifest.Manifest
		change     option
	}{
		{"no run", "incomplete", basic(t), func(c *agent.Config) { c.RunID = "" }},
		{"no storage", "incomplete", basic(t), func(c *agent.Config) { c.Storage = nil }},
		{"no runner", "incomplete", basic(t), func(c *agent.Config) { c.Runner = nil }},
		{"no journal", "incomplete", basic(t), func(c *agent.Config) { c.Journal = nil }},
		{"no manifest", "incomplete", basic(t), func(c *agent.Config) { c.Manifest = manifest.Frozen{} }},
		{"a TEE", `/tee "sev-snp"`, sev, func(*agent.Config) {}},
		{"attested TLS", "/attested_tls true", attested, func(*agent.Config) {}},
		{"approval missing", "/approvals lack", approved, func(*agent.Config) {}},
		{"dataset beyond the storage", "give the VM more memory", huge, func(*agent.Config) {}},
		{"archive beyond the storage", "unpacked_max", unpacked, func(*agent.Config) {}},
		{"image beyond the storage", "unpacked_max", image, func(*agent.Config) {}},
		{"certificate without key", "TLS certificate", basic(t), func(c *agent.Config) { c.TLS.ServerCert = cert }},
		{"key without certificate", "TLS certificate", basic(t), func(c *agent.Config) { c.TLS.ServerKey = key }},
		{"another certificate's key", "TLS certificate", basic(t), func(c *agent.Config) { c.TLS = agent.TLSConfig{ServerCert: cert, ServerKey: otherKey} }},
		{"client CA that is none", "CA certificates", basic(t), func(c *agent.Config) { c.TLS.ClientCAs = []byte("x") }},
		{"client CA with a key in it", "PRIVATE KEY", basic(t), func(c *agent.Config) { c.TLS.ClientCAs = append(bytes.Clone(ca), key...) }},
		{"folder in use", "not empty", basic(t), func(c *agent.Config) { c.Storage = agent.FolderStorage(".") }},
		{"folder missing", "no such file", basic(t), func(c *agent.Config) { c.Storage = agent.FolderStorage("/nonexistent/cocos") }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f, err := manifest.Freeze(tt.m)
			if err != nil {
				t.Fatal(err)
			}
			j := journal.New(time.Now)
			cfg := agent.Config{
				RunID: runID, Manifest: f, Storage: agent.FolderStorage(t.TempDir()), Runner: runner(succeed),
				Journal: j, Log: slog.New(slog.DiscardHandler),
			}
			tt.change(&cfg)
			_, err = agent.New(cfg)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want an error with %q", err, tt.want)
			}
			if j.LastEvent() != 0 {
				t.Error("there are events")
			}
		})
	}
}
