// Package atlstest has what tests and benchmarks of attested TLS need: a VM in
// the simulated TEE, a platform as slow as hardware, and handshakes in numbers.
package atlstest

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/credentials"

	"github.com/ultravioletrs/cocos/atls"
	"github.com/ultravioletrs/cocos/attest"
	"github.com/ultravioletrs/cocos/attest/sim"
	"github.com/ultravioletrs/cocos/keys"
)

// VM in the simulated TEE of a host.
type VM struct {
	Host        *sim.Authority
	Measurement [48]byte
	// Launch are the digests of the manifest that it was launched for.
	Launch   attest.LaunchDigests
	Instance keys.Private
}

// NewVM launches one for a manifest; the host's keys are in dir, which is made.
func NewVM(dir string, manifest []byte) (VM, error) {
	host, err := sim.LoadOrCreate(dir)
	if err != nil {
		return VM{}, err
	}
	vm := VM{Host: host, Measurement: [48]byte{7}, Launch: attest.LaunchDigestsOf(manifest)}
	vm.Instance, err = keys.Generate(keys.Ed25519)
	return vm, err
}

// Attester of the VM.
func (v VM) Attester() attest.Attester { return v.Host.Attester(v.Measurement, v.Launch.SHA256) }

// Prover over the VM's attester, or one that stands before it; close it.
func (v VM) Prover(a attest.Attester, epoch time.Duration) (*atls.Prover, error) {
	return atls.NewProver(atls.ProverConfig{Attester: a, Manifest: v.Launch.SHA256, Instance: v.Instance, Epoch: epoch})
}

// Verifier accepts VMs of the host that booted what this one did.
func (v VM) Verifier() attest.Verifier {
	_, root := v.Host.Root()
	return verifier{&attest.SimPolicy{
		Accept: attest.SimConsent, Roots: []attest.Hex{root[:]}, Measurements: []attest.Hex{v.Measurement[:]},
	}}
}

// Appraisal by that verifier, for the VM's manifest.
func (v VM) Appraisal() *atls.Appraisal {
	return &atls.Appraisal{Verifier: v.Verifier(), Launch: v.Launch}
}

type verifier struct{ policy *attest.SimPolicy }

// Verify implements attest.Verifier.
func (v verifier) Verify(ctx context.Context, e attest.Evidence, want attest.Expected) (attest.Result, error) {
	return sim.Appraise(ctx, e, want, v.policy, time.Now())
}

// Throttle makes an attester give one report per interval, as platforms do.
func Throttle(a attest.Attester, interval time.Duration) *Throttled {
	return &Throttled{Attester: a, interval: interval}
}

// Throttled is an attester that Throttle made.
type Throttled struct {
	attest.Attester
	interval time.Duration
	reports  atomic.Int64

	mu   sync.Mutex
	next time.Time
}

// Reports made so far.
func (t *Throttled) Reports() int64 { return t.reports.Load() }

// Attest implements attest.Attester.
func (t *Throttled) Attest(ctx context.Context, data attest.ReportData) (attest.Evidence, error) {
	t.mu.Lock()
	at := t.next
	if now := time.Now(); at.Before(now) {
		at = now
	}
	t.next = at.Add(t.interval)
	t.mu.Unlock()
	select {
	case <-time.After(time.Until(at)):
	case <-ctx.Done():
		return attest.Evidence{}, ctx.Err()
	}
	t.reports.Add(1)
	return t.Attester.Attest(ctx, data)
}

// Rates are handshakes per second.
type Rates struct{ MutualTLS, AttestedTLS float64 }

// Compare measures fresh attested TLS, on a TEE that makes reports as fast as it
// is asked to, beside plain mutual TLS: workers at once, in rounds of d each that
// alternate, so that what else the machine does hurts both alike. Both ends run in
// this process. The simulated host's keys are made in dir.
func Compare(ctx context.Context, dir string, workers, rounds int, d time.Duration) (r Rates, err error) {
	vm, err := NewVM(dir, []byte("manifest"))
	if err != nil {
		return r, err
	}
	prover, err := vm.Prover(vm.Attester(), 0)
	if err != nil {
		return r, err
	}
	defer prover.Close()
	plain, err := newMutual()
	if err != nil {
		return r, err
	}
	var attested pair
	id, err := atls.NewIdentity()
	if err != nil {
		return r, err
	}
	if attested.server, err = atls.Server(atls.ServerConfig{Identity: id, Prover: prover}); err != nil {
		return r, err
	}
	if attested.client, err = atls.Client(atls.ClientConfig{Appraisal: vm.Appraisal()}); err != nil {
		return r, err
	}
	for range rounds {
		for _, m := range []struct {
			pair
			sum *float64
		}{{plain, &r.MutualTLS}, {attested, &r.AttestedTLS}} {
			rate, err := Handshakes(ctx, m.server, m.client, workers, d)
			if err != nil {
				return r, err
			}
			*m.sum += rate / float64(rounds)
		}
	}
	return r, nil
}

type pair struct {
	server, client credentials.TransportCredentials
}

// newMutual is plain TLS with a certificate on either side.
func newMutual() (p pair, err error) {
	id, err := atls.NewIdentity()
	if err != nil {
		return p, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return p, err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(24 * time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return p, err
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return p, err
	}
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	client, err := atls.LoadIdentity(cert, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}))
	if err != nil {
		return p, err
	}
	cas, err := atls.LoadCAs(cert)
	if err != nil {
		return p, err
	}
	if p.server, err = atls.Server(atls.ServerConfig{Identity: id, ClientCAs: cas}); err != nil {
		return p, err
	}
	p.client, err = atls.Client(atls.ClientConfig{ServerKey: id.Key(), Identity: client})
	return p, err
}

// Handshakes makes connections over loopback TCP for d, workers at once, each
// closed as soon as both ends have it, and returns how many it made per second.
// An error of any is an error.
func Handshakes(ctx context.Context, server, client credentials.TransportCredentials, workers int, d time.Duration) (perSecond float64, err error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			raw, err := l.Accept()
			if err != nil {
				return // closed below
			}
			serving.Go(func() {
				conn, _, err := server.ServerHandshake(raw)
				if err != nil {
					return // the client has an error, too
				}
				_, _ = conn.Write([]byte{1}) // this end has it
				_ = conn.Close()
			})
		}
	})
	defer serving.Wait()
	defer l.Close()

	var (
		made   atomic.Int64
		failed = make(chan error, workers)
		begun  = time.Now()
		all    sync.WaitGroup
	)
	for range workers {
		all.Go(func() {
			for time.Since(begun) < d && ctx.Err() == nil {
				if err := handshake(ctx, client, l.Addr().String()); err != nil {
					failed <- err
					return
				}
				made.Add(1)
			}
		})
	}
	all.Wait()
	took := time.Since(begun)
	select {
	case err := <-failed:
		return 0, fmt.Errorf("handshakes: %w", err)
	default:
	}
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	return float64(made.Load()) / took.Seconds(), nil
}

func handshake(ctx context.Context, client credentials.TransportCredentials, address string) error {
	raw, err := net.Dial("tcp", address)
	if err != nil {
		return err
	}
	defer raw.Close()
	conn, _, err := client.ClientHandshake(ctx, "agent", raw)
	if err != nil {
		return err
	}
	if n, err := conn.Read(make([]byte, 1)); n != 1 {
		return errors.Join(errors.New("the server did not finish"), err)
	}
	return nil
}
