package agent_test

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ultravioletrs/cocos/atls"
	"github.com/ultravioletrs/cocos/attest"
	"github.com/ultravioletrs/cocos/attest/appraisal"
	"github.com/ultravioletrs/cocos/attest/sim"
	"github.com/ultravioletrs/cocos/internal/agent"
	"github.com/ultravioletrs/cocos/internal/keybroker"
	"github.com/ultravioletrs/cocos/keys"
	"github.com/ultravioletrs/cocos/manifest"
)

const brokerKey = "default/key/file"

// broker is that of the dataset's provider.
type broker struct {
	web    *httptest.Server
	policy attest.Policy

	mu      sync.Mutex
	known   keys.Public
	records []keybroker.Record
}

func (b *broker) admit(v keybroker.Instance) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.known.IsZero() && !b.known.Equal(v.Key) {
		return keybroker.ErrSecondInstance
	}
	b.known = v.Key
	return nil
}

func (b *broker) record(r keybroker.Record) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.records = append(b.records, r)
	return nil
}

// released counts what was.
func (b *broker) released() (n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, r := range b.records {
		if r.Event == keybroker.EventReleased {
			n++
		}
	}
	return n
}

// brokered is the computation with a broker for file.bin, which is started once its
// manifest is known.
func brokered(t *testing.T, a *sim.Authority, edit func(*manifest.Manifest)) (b *broker, m manifest.Manifest, open func(id string)) {
	t.Helper()
	_, root := a.Root()
	b = &broker{policy: attest.Policy{Version: attest.PolicyVersion, Simulated: &attest.SimPolicy{
		Accept: attest.SimConsent, Roots: []attest.Hex{root[:]}, Measurements: []attest.Hex{measured[:]},
	}}}
	b.web = httptest.NewUnstartedServer(nil)
	m = attested(t)
	m.Datasets[0].Source = manifest.Source{Encryption: manifest.Age, Broker: "https://" + b.web.Listener.Addr().String(), Resource: brokerKey}
	edit(&m)
	return b, m, func(id string) {
		f, err := manifest.Freeze(m)
		if err != nil {
			t.Fatal(err)
		}
		s, err := keybroker.NewServer(keybroker.ServerConfig{
			URL: m.Datasets[0].Source.Broker, Owner: everybody().data.Public(), Manifests: []manifest.Frozen{f},
			Verifier: appraisal.New(b.policy, appraisal.Options{}), Resources: map[string][]byte{brokerKey: []byte(id)},
			Admit: b.admit, Record: b.record,
		})
		if err != nil {
			t.Fatal(err)
		}
		b.web.Config.Handler = s
		b.web.StartTLS()
		t.Cleanup(b.web.Close)
	}
}

// fetched makes a source's file that of a keeper.
func fetched(t *testing.T, file []byte) func(*manifest.Manifest) {
	k := keeper(t, keeps(file))
	return func(m *manifest.Manifest) {
		m.Datasets[0].Source.URL, m.Datasets[0].Source.Authorities = k.URL, k.Authorities
	}
}

// seen makes the env's clients appraise the agent.
func (e *env) seen(a *sim.Authority, m manifest.Manifest) *env {
	e.t.Helper()
	f, err := manifest.Freeze(m)
	if err != nil {
		e.t.Fatal(err)
	}
	_, root := a.Root()
	p := attest.Policy{Version: attest.PolicyVersion, Simulated: &attest.SimPolicy{
		Accept: attest.SimConsent, Roots: []attest.Hex{root[:]}, Measurements: []attest.Hex{measured[:]},
	}}
	e.trust = &atls.Appraisal{Verifier: appraisal.New(p, appraisal.Options{}), Launch: attest.LaunchDigestsOf(f.Raw)}
	return e
}

func TestBrokerReleasesToTheAgent(t *testing.T) {
	id, file := sealed(t)
	for name, attestedTLS := range map[string]bool{"attested TLS": true, "plain TLS": false} {
		t.Run(name, func(t *testing.T) {
			a := host(t)
			b, m, open := brokered(t, a, func(m *manifest.Manifest) {
				fetched(t, file)(m)
				m.AttestedTLS = attestedTLS
			})
			open(id)
			e := start(t, m, inTEE(a))
			if attestedTLS {
				e.seen(a, m)
			}
			if st := e.until(complete); st.GetProblem() != "" || b.released() != 1 {
				t.Errorf("%v after %d releases", st, b.released())
			}
			e.hostReads(id, m.Datasets[0].Source.Broker, brokerKey)
		})
	}
}

func TestBrokerRefusesTheAgent(t *testing.T) {
	id, file := sealed(t)
	other, err := keys.Generate(keys.Ed25519)
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		bend  func(*broker)
		words string
	}{
		"policy that does not fit": {func(b *broker) { b.policy.Simulated.Measurements[0] = make(attest.Hex, 48) }, "sim.measurement"},
		"no simulation":            {func(b *broker) { b.policy = production() }, "does not accept the evidence"},
		"second instance":          {func(b *broker) { b.known = other.Public() }, "second VM of the same manifest"},
	} {
		t.Run(name, func(t *testing.T) {
			a := host(t)
			b, m, open := brokered(t, a, fetched(t, file))
			tt.bend(b)
			open(id)
			e := start(t, m, inTEE(a), func(c *agent.Config) { c.Sleep = noWait }).seen(a, m)
			st := e.until(stuck)
			if !strings.Contains(st.GetProblem(), "the broker refuses") || !strings.Contains(st.GetProblem(), tt.words) || st.GetComplete() || st.GetReceived() != 0 {
				t.Errorf("its provider is told %v", st)
			}
			if st := e.told(e.as(everybody().consumer, manifest.Consumer)); !strings.Contains(st.GetProblem(), "its provider is told why") || strings.Contains(st.GetProblem(), tt.words) {
				t.Errorf("others are told %v", st)
			}
			e.hostReads(tt.words, id)
			b.mu.Lock()
			if len(b.records) != 1 || b.records[0].Event != keybroker.EventRefused {
				t.Errorf("the broker recorded %+v", b.records)
			}
			b.mu.Unlock()
			// Told to, it asks again: the owner may have changed its mind.
			if _, err := e.provide(""); err != nil {
				t.Fatal(err)
			}
			e.until(stuck)
			b.mu.Lock()
			b.known = keys.Public{}
			b.mu.Unlock()
			if _, err := e.provide(""); err != nil {
				t.Fatal(err)
			}
			if name == "second instance" {
				e.until(complete)
				return
			}
			if e.until(stuck); b.released() != 0 {
				t.Errorf("%d releases", b.released())
			}
			// Its provider can hand over the key.
			if _, err := e.provide(id); err != nil {
				t.Fatal(err)
			}
			e.until(complete)
		})
	}
}

// A broker that is not there is asked again, and its resource's owner learns of it.
func TestBrokerIsAwaited(t *testing.T) {
	id, file := sealed(t)
	a := host(t)
	b, m, open := brokered(t, a, fetched(t, file))
	b.web.Listener.Close() // nobody listens
	address := b.web.Listener.Addr().String()
	tried, goOn := make(chan time.Duration), make(chan struct{})
	e := start(t, m, inTEE(a), func(c *agent.Config) {
		c.Sleep = func(ctx context.Context, d time.Duration) error {
			select {
			case tried <- d:
			case <-ctx.Done():
				return ctx.Err()
			}
			select {
			case <-goOn:
			case <-ctx.Done():
			}
			return ctx.Err()
		}
	}).seen(a, m)
	first := <-tried
	if st := e.told(e.as(everybody().data, manifest.DatasetProvider)); !st.GetPulling() || !strings.Contains(st.GetProblem(), "can't be reached") || !strings.Contains(st.GetProblem(), "trying again") {
		t.Errorf("while it waits its provider is told %v", st)
	}
	goOn <- struct{}{}
	second := <-tried
	if second != 2*first {
		t.Errorf("it waits %v, then %v", first, second)
	}
	l := httptest.NewUnstartedServer(nil)
	l.Listener.Close()
	l.Listener = listen(t, address)
	b.web = l
	open(id)
	goOn <- struct{}{}
	if st := e.until(complete); st.GetProblem() != "" {
		t.Errorf("in the end: %v", st)
	}
}

// The broker's certificate is judged by the source's authorities, and nothing is
// shown to one that they don't vouch for.
func TestBrokerOfAnotherAuthority(t *testing.T) {
	_, file := sealed(t)
	a := host(t)
	asked := httptest.NewTLSServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { t.Errorf("it was asked for %s", r.URL) }))
	t.Cleanup(asked.Close)
	_, m, _ := brokered(t, a, func(m *manifest.Manifest) {
		fetched(t, file)(m)
		ca, _, _ := newCA(t)
		m.Datasets[0].Source.Broker, m.Datasets[0].Source.Authorities = asked.URL, string(ca)
	})
	tried := make(chan struct{})
	e := start(t, m, inTEE(a), func(c *agent.Config) {
		c.Sleep = func(ctx context.Context, _ time.Duration) error {
			tried <- struct{}{}
			<-ctx.Done()
			return ctx.Err()
		}
	}).seen(a, m)
	<-tried
	if st := e.told(e.as(everybody().data, manifest.DatasetProvider)); !strings.Contains(st.GetProblem(), "certificate") {
		t.Errorf("its provider is told %v", st)
	}
}

// production is a policy for hardware.
func production() attest.Policy {
	return attest.Policy{Version: attest.PolicyVersion, SNP: &attest.SNPPolicy{
		Measurements: []attest.Hex{measured[:]}, Products: []string{"Milan"}, ChipIDs: []string{attest.AnyID},
		Signers: []string{"vcek"}, MinimumTCB: map[string]attest.SNPTCB{"Milan": {}}, Revocation: attest.CheckNot,
	}}
}

func listen(t *testing.T, address string) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	return l
}
