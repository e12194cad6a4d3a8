package fleet_test

import (
	"crypto/ecdsa"
	"crypto/tls"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	managerv1 "github.com/ultravioletrs/cocos/api/manager/v1"
	"github.com/ultravioletrs/cocos/internal/computations"
	"github.com/ultravioletrs/cocos/internal/computations/authority"
	"github.com/ultravioletrs/cocos/internal/vm"
	"github.com/ultravioletrs/cocos/manifest"
)

// TestTokensAreGoodOnce, while they last, for a request that proves its key.
func TestTokensAreGoodOnce(t *testing.T) {
	each(t, func(w *world) {
		p := w.process()
		api := managerv1.NewEnrolServiceClient(w.dial(p))
		_, der := newRequest(t)
		good := w.token("rack-1", time.Hour)
		short := w.token("rack-2", time.Minute)
		ask := func(token string, der []byte, h *managerv1.Hello) error {
			_, err := api.Enrol(w.ctx, &managerv1.EnrolRequest{Token: token, CertificateRequest: der, Hello: h})
			return err
		}
		refused := func(name string, err error, code codes.Code, says string) {
			t.Helper()
			if status.Code(err) != code || !strings.Contains(err.Error(), says) {
				t.Errorf("%s: %v; want %v with %q", name, err, code, says)
			}
			w.view(func(r computations.Reader) error {
				hosts, err := r.Hosts()
				if len(hosts) > 0 {
					t.Errorf("%s: %v joined", name, hosts)
				}
				return err
			})
		}
		refused("no token", ask("", der, hello()), codes.PermissionDenied, "not one of this service")
		refused("a wrong one", ask(good+"x", der, hello()), codes.PermissionDenied, "not one of this service")
		refused("a long one", ask(strings.Repeat("x", 1000), der, hello()), codes.PermissionDenied, "not one of this service")
		refused("no request", ask(good, nil, hello()), codes.InvalidArgument, "certificate_request: has 0 bytes")
		refused("another's request", ask(good, append(slices.Clone(der[:len(der)-1]), der[len(der)-1]^1), hello()), codes.InvalidArgument, "not signed by its own key")
		refused("another version", ask(good, der, &managerv1.Hello{ProtocolVersion: 9}), codes.FailedPrecondition, "version 9")
		w.clock.pass(2 * time.Minute)
		refused("an old one", ask(short, der, hello()), codes.PermissionDenied, "expired at")

		if err := ask(good, der, hello()); err != nil {
			t.Fatal(err)
		}
		if err := ask(good, der, hello()); status.Code(err) != codes.PermissionDenied || !strings.Contains(err.Error(), "was used already") {
			t.Errorf("a second time: %v", err)
		}
		w.view(func(r computations.Reader) error {
			hosts, err := r.Hosts()
			if err != nil {
				return err
			}
			if len(hosts) != 1 || hosts[0].Name != "rack-1" || hosts[0].Connected || len(hosts[0].Serial) != 32 || hosts[0].CertificateExpires.Sub(w.clock.now()) < 29*24*time.Hour {
				t.Errorf("%+v", hosts)
			}
			audit, err := r.Audit(computations.AuditFilter{Action: "host.enrolled"})
			if len(audit) != 1 || audit[0].Object != hosts[0].ID || audit[0].Detail["host"] != "rack-1" {
				t.Errorf("%+v", audit)
			}
			return err
		})
	})
}

// TestTwoHostsOneToken: of two at the same time one gets in.
func TestTwoHostsOneToken(t *testing.T) {
	each(t, func(w *world) {
		p := w.process()
		token := w.token("rack-1", time.Hour)
		errs := make(chan error, 4)
		for range cap(errs) {
			api := managerv1.NewEnrolServiceClient(w.dial(p))
			_, der := newRequest(t)
			go func() {
				_, err := api.Enrol(w.ctx, &managerv1.EnrolRequest{Token: token, CertificateRequest: der, Hello: hello()})
				errs <- err
			}()
		}
		in := 0
		for range cap(errs) {
			if err := <-errs; err == nil {
				in++
			} else if status.Code(err) != codes.PermissionDenied {
				t.Error(err)
			}
		}
		if in != 1 {
			t.Errorf("%d got in", in)
		}
	})
}

// TestWhoMayConnect: each is right in all but one thing.
func TestWhoMayConnect(t *testing.T) {
	each(t, func(w *world) {
		p := w.process()
		good := w.join(p, "rack-1")
		gone := w.join(p, "rack-2")
		gone.connect(p).cut()
		w.changeHost(gone.id, func(h *computations.Host) { h.Revoked = w.clock.now() })
		// Signed here, and no host's row has it.
		key, der := newRequest(t)
		signed, err := w.authority.SignHost(string(good.id), der)
		if err != nil {
			t.Fatal(err)
		}
		unknown := *good
		unknown.cert = pair(t, signed.PEM, key)
		other, err := authority.Open(authority.Config{Dir: t.TempDir()})
		if err != nil {
			t.Fatal(err)
		}
		elsewhere := *good
		if signed, err = other.SignHost(string(good.id), der); err != nil {
			t.Fatal(err)
		}
		elsewhere.cert = pair(t, signed.PEM, key)
		nobody := *good
		nobody.cert = tls.Certificate{}
		oldVersion := *good
		oldVersion.hello = hello(func(h *managerv1.Hello) { h.ProtocolVersion = 9 })
		for name, c := range map[string]struct {
			host *host
			code codes.Code
			says string
		}{
			"no certificate":         {&nobody, codes.Unauthenticated, "cocos-manager enroll"},
			"revoked":                {gone, codes.PermissionDenied, "this host, rack-2, was revoked on "},
			"a serial without a row": {&unknown, codes.PermissionDenied, "not known here"},
			"another authority's":    {&elsewhere, codes.Unavailable, ""}, // its handshake fails
			"another version":        {&oldVersion, codes.FailedPrecondition, "version 9"},
		} {
			_, err := c.host.tryConnect(p)
			if status.Code(err) != c.code || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%s: %v; want %v with %q", name, err, c.code, c.says)
			}
			_, der := newRequest(t)
			if name == "another version" {
				continue
			}
			_, err = managerv1.NewEnrolServiceClient(w.dial(p, c.host.cert)).Renew(w.ctx, &managerv1.RenewRequest{CertificateRequest: der})
			if status.Code(err) != c.code {
				t.Errorf("%s, renewing: %v; want %v", name, err, c.code)
			}
		}
		if got := w.getHost(good.id); got.Connected {
			t.Errorf("%+v", got)
		}
		good.connect(p)
	})
}

// TestRenewal: the old certificate is good until the new one was seen.
func TestRenewal(t *testing.T) {
	each(t, func(w *world) {
		p := w.process()
		h := w.join(p, "rack-1")
		ask := func(h *host) (*managerv1.RenewResponse, *ecdsa.PrivateKey, error) {
			key, der := newRequest(t)
			got, err := managerv1.NewEnrolServiceClient(w.dial(p, h.cert)).Renew(w.ctx, &managerv1.RenewRequest{CertificateRequest: der})
			return got, key, err
		}
		renew := func(h *host) *host {
			t.Helper()
			got, key, err := ask(h)
			if err != nil {
				t.Fatal(err)
			}
			fresh := *h
			fresh.cert = pair(t, got.GetCertificate(), key)
			return &fresh
		}
		if _, _, err := ask(h); status.Code(err) != codes.FailedPrecondition {
			t.Errorf("a fresh certificate was renewed: %v", err)
		}
		w.clock.pass(authority.HostLife/2 + time.Hour)
		m := h.connect(p)
		run := w.newRun()
		m.live(run)
		m.hello = hello(func(x *managerv1.Hello) { x.Runs = []*managerv1.RunStatus{{RunId: string(run)}} })
		lost := renew(h) // the answer doesn't reach the host
		m.told(event(run, agent, 2, vm.EventState, "to", "Running"))
		m.cut()
		h.connect(p).cut()
		fresh := renew(h)
		if _, err := lost.tryConnect(p); status.Code(err) != codes.PermissionDenied {
			t.Errorf("one that was replaced before it was seen: %v", err)
		}
		h.connect(p).cut()
		fresh.hello = h.hello
		fresh.connect(p).cut()
		if _, err := h.tryConnect(p); status.Code(err) != codes.PermissionDenied {
			t.Errorf("the old one, after the new one was seen: %v", err)
		}
		if got := w.get(run); got.State != computations.RunRunning {
			t.Errorf("the run has suffered: %+v", got)
		}
		// A stream does not outlive the certificate that it began with.
		last := fresh.connect(p)
		w.clock.pass(31 * 24 * time.Hour)
		w.changeHost(h.id, func(*computations.Host) {})
		if err := last.ended(); status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "has expired") {
			t.Errorf("%v", err)
		}
	})
}

// TestImpatientHost: one that connects, or renews its certificate, again and again is
// refused before the database is asked.
func TestImpatientHost(t *testing.T) {
	each(t, func(w *world) {
		p := w.process()
		h := w.join(p, "rack-1")
		w.clock.pass(authority.HostLife/2 + time.Hour)
		conn := w.dial(p, h.cert)
		refused := func(most int, do func() error) (n int) {
			for range most {
				if status.Code(do()) == codes.ResourceExhausted {
					n++
				}
			}
			return n
		}
		if n := refused(10, func() error {
			_, der := newRequest(t)
			_, err := managerv1.NewEnrolServiceClient(conn).Renew(w.ctx, &managerv1.RenewRequest{CertificateRequest: der})
			return err
		}); n != 5 {
			t.Errorf("of 10 renewals %d were refused", n)
		}
		if n := refused(100, func() error {
			stream, err := managerv1.NewComputationsServiceClient(conn).Connect(w.ctx)
			if err != nil {
				return err
			}
			_ = stream.CloseSend()
			_, err = stream.Recv()
			return err
		}); n < 20 {
			t.Errorf("of 100 connections %d were refused", n)
		}
		w.join(p, "rack-2").connect(p) // others are not
	})
}

// TestRevokedHostIsCutOff at once, and what it had ends; nobody else is asked, for
// it may have been started.
func TestRevokedHostIsCutOff(t *testing.T) {
	each(t, func(w *world) {
		p := w.process()
		bad := w.join(p, "bad").connect(p)
		running, offered := w.newRun(), w.newRun()
		bad.live(running)
		bad.request(offered)
		good := w.join(p, "good").connect(p)
		w.changeHost(bad.id, func(h *computations.Host) { h.Revoked = w.clock.now() })
		if err := bad.ended(); status.Code(err) != codes.PermissionDenied || !strings.Contains(err.Error(), "was revoked on") {
			t.Errorf("%v", err)
		}
		for _, run := range []computations.ID{running, offered} {
			if got := w.become(run, computations.RunFailed); got.Reason != "its host, bad, was revoked" || got.Ended.IsZero() {
				t.Errorf("%+v", got)
			}
		}
		if _, err := bad.tryConnect(p); status.Code(err) != codes.PermissionDenied {
			t.Errorf("%v", err)
		}
		if n := good.count(asks(offered)) + good.count(asks(running)); n > 0 {
			t.Error("they went elsewhere")
		}
	})
}

// TestCordonAndDrain: no new runs, and those that are there go on to their end.
func TestCordonAndDrain(t *testing.T) {
	each(t, func(w *world) {
		p := w.process()
		m := w.join(p, "rack-1").connect(p)
		old := w.newRun()
		m.live(old)
		for name, c := range map[string]struct {
			set, unset func(*computations.Host)
			reason     string
		}{
			"cordon": {func(h *computations.Host) { h.Cordoned = true }, func(h *computations.Host) { h.Cordoned = false }, "the only host with sim is cordoned"},
			"drain":  {func(h *computations.Host) { h.Draining = true }, func(h *computations.Host) { h.Draining = false }, "the only host with sim is being drained"},
		} {
			w.changeHost(m.id, c.set)
			run := w.newRun()
			w.await("its reason", func(r computations.Reader) (bool, error) { got, err := r.Run(run); return got.Reason == c.reason, err })
			m.say(&managerv1.ConnectRequest{Message: &managerv1.ConnectRequest_HostStatus{HostStatus: &managerv1.HostStatus{Running: 1, Capacity: 4}}})
			m.told(event(old, agent, map[string]uint64{"cordon": 10, "drain": 11}[name], vm.EventInput))
			if got := w.getHost(m.id); got.Active != 1 || !got.Connected || !got.Cordoned && !got.Draining {
				t.Errorf("%s: %+v", name, got)
			}
			if n := m.count(asks(run)); n > 0 {
				t.Errorf("%s: a new run came", name)
			}
			w.changeHost(m.id, c.unset)
			m.live(run)
			m.told(event(run, managers, 2, vm.EventRemoved))
		}
		w.changeHost(m.id, func(h *computations.Host) { h.Draining = true })
		m.told(event(old, managers, 2, vm.EventRemoved))
		if got := w.getHost(m.id); got.Active != 0 || !got.Draining {
			t.Errorf("nothing should be left: %+v", got)
		}
	})
}

// TestHostReport is what the Manager says, bounded and made harmless.
func TestHostReport(t *testing.T) {
	each(t, func(w *world) {
		p := w.process()
		h := w.join(p, "rack-1")
		digest := strings.Repeat("Ab", 32)
		h.hello = hello(func(x *managerv1.Hello) {
			x.InstanceId, x.Version = "a\x1b[31mb\x00", strings.Repeat("v", 1000)
			x.Tees = []string{"sim", "none", "sim", "quantum", "tdx"}
			x.Images = []*managerv1.GuestImage{{Digest: digest, Measurements: map[string]string{"sim": "aa", "bad": "zz", "": "aa"}}, {Digest: "short"}}
			for range 100 {
				x.Findings = append(x.Findings, &managerv1.Finding{Name: "kvm", Verdict: "ok", Found: "it\nopens"})
			}
		})
		m := h.connect(p)
		m.say(&managerv1.ConnectRequest{Message: &managerv1.ConnectRequest_HostStatus{HostStatus: &managerv1.HostStatus{Running: 2, Capacity: 3, MemoryFreeBytes: 1 << 30, Load: 1.5}}})
		w.await("the status", func(r computations.Reader) (bool, error) {
			got, err := r.Host(h.id)
			return got.Report.Running == 2, err
		})
		got := w.getHost(h.id)
		r := got.Report
		if r.Instance != "ab" || len(r.Version) > 128 || !slices.Equal(r.TEEs, []manifest.TEE{manifest.TEESim, manifest.TEETDX}) || len(r.Findings) != 64 || r.Findings[0].Found != "it opens" ||
			len(r.Images) != 1 || r.Images[0].Digest != strings.ToLower(digest) || len(r.Images[0].Measurements) != 1 {
			t.Errorf("%+v", r)
		}
		if r.Capacity != 3 || r.CPUs != 8 || r.MemoryTotal != 1<<33 || r.MemoryFree != 1<<30 || r.Load != 1.5 {
			t.Errorf("%+v", r)
		}
		if !got.Connected || got.Address != "127.0.0.1" || w.clock.now().Sub(got.Contact) > patience {
			t.Errorf("%+v", got)
		}
		m.cut()
		w.await("the host to be away", func(r computations.Reader) (bool, error) { got, err := r.Host(h.id); return !got.Connected, err })
	})
}

// TestLostRuns: a run that its host accepted and no longer holds has failed; one
// that it is asked for is asked for again.
func TestLostRuns(t *testing.T) {
	each(t, func(w *world) {
		p := w.process()
		m := w.join(p, "rack-1").connect(p)
		kept, lost, offered := w.newRun(), w.newRun(), w.newRun()
		m.live(kept)
		m.live(lost)
		m.request(offered)
		m.cut()
		m.hello = hello(func(x *managerv1.Hello) {
			x.Runs = []*managerv1.RunStatus{{RunId: string(kept)}, {RunId: "01936f7a-0000-7000-8000-00000000dead"}}
		})
		again := m.connect(p)
		if got := w.get(lost); got.State != computations.RunFailed || got.Reason != "its host, rack-1, no longer holds it" {
			t.Errorf("%+v", got)
		}
		if got := w.get(kept); got.State != computations.RunRunning {
			t.Errorf("%+v", got)
		}
		again.request(offered)
		again.accept(offered)
		w.become(offered, computations.RunStarting)
	})
}

// TestStrangeHost: what a host says of runs that it was not given is kept nowhere.
func TestStrangeHost(t *testing.T) {
	each(t, func(w *world) {
		p := w.process()
		good := w.join(p, "good").connect(p)
		run := w.newRun()
		good.live(run)
		before, entries := w.get(run), len(w.entries(run))
		w.changeHost(good.id, func(h *computations.Host) { h.Cordoned = true })
		queued := w.run(w.computation(manifest.TEETDX))
		bad := w.join(p, "bad")
		bad.hello = hello(func(x *managerv1.Hello) {
			x.Runs = []*managerv1.RunStatus{{RunId: string(run), State: "running"}, {RunId: string(queued)}}
		})
		m := bad.connect(p)
		for _, id := range []computations.ID{run, queued, "01936f7a-0000-7000-8000-00000000dead"} {
			m.accept(id)
			m.refuse(id, "INVALID", "")
			m.told(event(id, agent, 7, vm.EventState, "to", "Failed"))
			m.told(event(id, managers, 7, vm.EventRemoved))
			m.say(&managerv1.ConnectRequest{Message: &managerv1.ConnectRequest_StopReply{StopReply: &managerv1.StopReply{RunId: string(id), Refusal: refusalOf("NOT_FOUND", "")}}})
		}
		m.told(event(run, managers, 8, vm.EventRemoved))
		if after := w.get(run); after.State != before.State || after.Host != before.Host || after.AgentState != before.AgentState || len(after.Refused) > 0 {
			t.Errorf("%+v", after)
		}
		if n := len(w.entries(run)); n != entries {
			t.Errorf("%d entries, and then %d", entries, n)
		}
		if got := w.get(queued); got.State != computations.RunQueued || len(got.Refused) > 0 || len(w.entries(queued)) > 0 {
			t.Errorf("%+v", got)
		}
	})
}

// TestNonsense ends the stream that it comes on.
func TestNonsense(t *testing.T) {
	each(t, func(w *world) {
		p := w.process()
		h := w.join(p, "rack-1")
		run := computations.NewID()
		for name, m := range map[string]*managerv1.ConnectRequest{
			"nothing":         {},
			"a second hello":  {Message: &managerv1.ConnectRequest_Hello{Hello: hello()}},
			"no run":          {Message: &managerv1.ConnectRequest_Event{Event: event("x", agent, 1, "a")}},
			"a run's old way": {Message: &managerv1.ConnectRequest_Event{Event: event(computations.ID(strings.ToUpper(string(run))), agent, 1, "a")}},
			"no source":       {Message: &managerv1.ConnectRequest_Event{Event: event(run, 0, 1, "a")}},
			"another source":  {Message: &managerv1.ConnectRequest_Event{Event: event(run, 9, 1, "a")}},
			"a reply of none": {Message: &managerv1.ConnectRequest_RunReply{RunReply: &managerv1.RunReply{RunId: strings.Repeat("x", 1<<20)}}},
			"an end of none":  {Message: &managerv1.ConnectRequest_StopReply{StopReply: &managerv1.StopReply{RunId: "y"}}},
			"sequence 0":      {Message: &managerv1.ConnectRequest_Event{Event: event(run, agent, 0, "a")}},
		} {
			c := h.connect(p)
			c.say(m)
			if err := c.ended(); status.Code(err) != codes.InvalidArgument {
				t.Errorf("%s: %v", name, err)
			}
		}
		h.connect(p)
	})
}
