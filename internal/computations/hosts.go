package computations

import (
	"context"
	"errors"
	"regexp"
	"slices"
	"time"
)

const (
	minEnrolTTL = time.Minute
	maxEnrolTTL = 7 * 24 * time.Hour
	hostRuns    = 50
)

// hostName is fit for a certificate, a file and a shell.
var hostName = regexp.MustCompile(`^[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?$`)

// Hosts lists the machines whose Managers have enrolled.
func (s *Service) Hosts(ctx context.Context, who Identity) ([]Host, error) {
	return view(ctx, s, func(r Reader) ([]Host, error) {
		if _, err := s.onService(r, who, HostList); err != nil {
			return nil, err
		}
		return r.Hosts()
	})
}

// Host is one of them, with its newest runs: of these an operator sees what
// concerns the host, and nothing of what a workspace does.
func (s *Service) Host(ctx context.Context, who Identity, id ID) (Host, []Run, error) {
	var runs []Run
	h, err := view(ctx, s, func(r Reader) (Host, error) {
		if _, err := s.onService(r, who, HostShow); err != nil {
			return Host{}, err
		}
		h, err := host(r, id)
		if err != nil {
			return Host{}, err
		}
		all, err := r.Runs(RunFilter{Host: id}, Page{Limit: hostRuns})
		runs = nil
		for _, run := range all {
			runs = append(runs, Run{
				ID: run.ID, State: run.State, Host: run.Host, Simulated: run.Simulated, StopAsked: run.StopAsked,
				TTL: run.TTL, Created: run.Created, Started: run.Started, Ended: run.Ended,
			})
		}
		return h, err
	})
	if err != nil {
		return Host{}, nil, err
	}
	return h, runs, nil
}

func host(r Reader, id ID) (Host, error) {
	h, err := r.Host(id)
	if errors.Is(err, ErrNoRow) {
		return Host{}, &Error{Kind: NotFound, Message: "there is no such host"}
	}
	return h, err
}

// CreateEnrolToken makes what lets one host in, once; its secret is shown once.
func (s *Service) CreateEnrolToken(ctx context.Context, who Identity, name string, ttl time.Duration) (EnrolToken, string, error) {
	var secret string
	made, err := update(ctx, s, func(w Writer) (EnrolToken, error) {
		x, err := s.inPerson(w, who, HostEnrol)
		if err != nil {
			return EnrolToken{}, err
		}
		var f faults
		if !hostName.MatchString(name) {
			f.add(invalid("name", "is %q; expected 1 to 63 small letters, digits, '.' and '-'", plain(name, 64)))
		}
		if ttl < minEnrolTTL || ttl > maxEnrolTTL {
			f.add(invalid("ttl", "is %v; expected a minute to %d days", ttl, int(maxEnrolTTL.Hours()/24)))
		}
		if err := f.err(); err != nil {
			return EnrolToken{}, err
		}
		t := EnrolToken{ID: NewID(), Name: name, By: x.user.ID, Created: s.now(), Expires: s.now().Add(ttl)}
		secret, t.Hash = newSecret(enrolPrefix)
		if err := w.PutEnrolToken(t); err != nil {
			return EnrolToken{}, err
		}
		t.Hash = [32]byte{}
		return t, s.did(w, &x, HostEnrol, t.ID, "name", name, "expires", t.Expires.Format(time.RFC3339))
	})
	if err != nil {
		return EnrolToken{}, "", err
	}
	return made, secret, nil
}

// EnrolTokens lists them, used and expired ones too, without what could be used.
func (s *Service) EnrolTokens(ctx context.Context, who Identity) ([]EnrolToken, error) {
	return view(ctx, s, func(r Reader) ([]EnrolToken, error) {
		if _, err := s.onService(r, who, HostEnrol); err != nil {
			return nil, err
		}
		all, err := r.EnrolTokens()
		for i := range all {
			all[i].Hash = [32]byte{}
		}
		return all, err
	})
}

// WithdrawEnrolToken lets no host in any more by a token that none has used.
func (s *Service) WithdrawEnrolToken(ctx context.Context, who Identity, id ID) error {
	return s.change(ctx, func(w Writer) error {
		x, err := s.onService(w, who, HostWithdraw)
		if err != nil {
			return err
		}
		all, err := w.EnrolTokens()
		if err != nil {
			return err
		}
		i := slices.IndexFunc(all, func(t EnrolToken) bool { return t.ID == id })
		if i < 0 {
			return &Error{Kind: NotFound, Message: "there is no such enrolment token"}
		}
		t := all[i]
		switch {
		case t.Host != "":
			return &Error{Kind: Conflict, Message: "a host has used this token", Hint: "revoke the host if it should not be here"}
		case !s.now().Before(t.Expires):
			return &Error{Kind: Conflict, Message: "this token is good no more already"}
		}
		t.Expires = s.now()
		if err := w.PutEnrolToken(t); err != nil {
			return err
		}
		return s.did(w, &x, HostWithdraw, t.ID, "name", t.Name)
	})
}

// changeHost is what an operator does to a host.
func (s *Service) changeHost(ctx context.Context, who Identity, id ID, a Action, change func(*Host) (state string)) error {
	return s.change(ctx, func(w Writer) error {
		x, err := s.onService(w, who, a)
		if err != nil {
			return err
		}
		h, err := host(w, id)
		if err != nil {
			return err
		}
		if !h.Revoked.IsZero() {
			return &Error{Kind: Conflict, Message: "the host is revoked", Hint: "enrol it again with a new token"}
		}
		state := change(&h)
		if err := w.PutHost(h); err != nil {
			return err
		}
		w.Signal(HostTopic(id))
		w.Signal(TopicQueue)
		return s.did(w, &x, a, id, "host", h.Name, "state", state)
	})
}

func onOff(on bool) string {
	if on {
		return "on"
	}
	return "off"
}

// CordonHost keeps new runs from a host, or lets them come again.
func (s *Service) CordonHost(ctx context.Context, who Identity, id ID, on bool) error {
	return s.changeHost(ctx, who, id, HostCordon, func(h *Host) string { h.Cordoned = on; return onOff(on) })
}

// DrainHost keeps new runs from a host until those there have ended; it stops none.
func (s *Service) DrainHost(ctx context.Context, who Identity, id ID, on bool) error {
	return s.changeHost(ctx, who, id, HostDrain, func(h *Host) string { h.Draining = on; return onOff(on) })
}

// RevokeHost ends what a host's certificate is good for, for ever.
func (s *Service) RevokeHost(ctx context.Context, who Identity, id ID) error {
	return s.changeHost(ctx, who, id, HostRevoke, func(h *Host) string { h.Revoked = s.now(); return "revoked" })
}
