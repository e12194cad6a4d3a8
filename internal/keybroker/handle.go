package keybroker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/ultravioletrs/cocos/atls"
	"github.com/ultravioletrs/cocos/attest"
	"github.com/ultravioletrs/cocos/keys"
)

// read takes a message of at most limit bytes.
func read(w http.ResponseWriter, r *http.Request, limit int64, to any) *refusal {
	b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, limit))
	var long *http.MaxBytesError
	switch {
	case errors.As(err, &long):
		return refuse(http.StatusRequestEntityTooLarge, typeRequest, "the message has more than %d bytes", limit)
	case err != nil:
		return refuse(http.StatusBadRequest, typeRequest, "the message did not come whole")
	}
	if err := decode(b, to); err != nil {
		return refuse(http.StatusBadRequest, typeRequest, "the message is not JSON of the protocol's form, version %s", Version).and(err)
	}
	return nil
}

// auth gives out a challenge, and keeps nothing of it.
func (s *Server) auth(w http.ResponseWriter, r *http.Request, c *call) *refusal {
	var m request
	if no := read(w, r, maxAuth, &m); no != nil {
		return no
	}
	tee, known := teeOf(m.TEE)
	switch {
	case m.Version != Version:
		return refuse(http.StatusUnauthorized, typeVersion, "the client speaks version %.20q of the protocol; this broker speaks %s", m.Version, Version)
	case !known:
		return refuse(http.StatusUnauthorized, typeRequest, "tee is %.20q; this broker knows snp, tdx, sgx and, for simulations, sample", m.TEE)
	}
	ticket, nonce := s.tickets.issue(tee, s.cfg.Now())
	s.setCookie(w, ticket)
	s.answer(w, http.StatusOK, challenge{Nonce: nonce, ExtraParams: jsontext.Value(`""`)})
	return nil
}

func (s *Server) setCookie(w http.ResponseWriter, ticket string) {
	http.SetCookie(w, &http.Cookie{
		Name: sessionCookie, Value: ticket, Path: "/", Secure: true, HttpOnly: true, SameSite: http.SameSiteStrictMode,
		MaxAge: int((challengeTime + sessionTime).Seconds()),
	})
}

// ticketOf is the session's cookie, of which there is one.
func ticketOf(r *http.Request) string {
	if all := r.CookiesNamed(sessionCookie); len(all) == 1 {
		return all[0].Value
	}
	return ""
}

// attest takes evidence and opens a session.
func (s *Server) attest(w http.ResponseWriter, r *http.Request, c *call) *refusal {
	ticket := ticketOf(r)
	tee, _, ok := s.tickets.read(ticket, s.cfg.Now())
	switch {
	case ticket == "":
		return refuse(http.StatusUnauthorized, typeCookie, "the cookie %s is missing: ask for a challenge first", sessionCookie)
	case !ok:
		return refuse(http.StatusUnauthorized, typeExpired, "the challenge is over, or of another broker: ask for a new one")
	case s.sessions.used(ticket):
		return refuse(http.StatusUnauthorized, typeEvidence, "the challenge was answered already: ask for a new one")
	}
	var m attestation
	if no := read(w, r, maxAttest, &m); no != nil {
		return no
	}
	// Only now: a challenge is free, and whoever sends slowly takes nobody's place.
	if s.attests.Add(1) > maxAttests {
		s.attests.Add(-1)
		return refuse(http.StatusServiceUnavailable, typeBusy, "%d attestations are under way; try again", maxAttests)
	}
	defer s.attests.Add(-1)
	v, no := s.judge(r.Context(), c, tee, s.tickets.nonceOf(ticket), &m)
	if no != nil {
		return no
	}
	now := s.cfg.Now()
	v.ends = now.Add(sessionTime)
	var err error
	if v.token, err = s.token(v, m.RuntimeData, now); err != nil {
		return refuse(http.StatusInternalServerError, typeInternal, "the broker can't make a token").and(err)
	}
	switch s.sessions.enter(ticket, v, now) {
	case enteredBefore:
		return refuse(http.StatusUnauthorized, typeEvidence, "the challenge was answered already: ask for a new one")
	case enteredFull:
		return refuse(http.StatusServiceUnavailable, typeBusy, "there are %d sessions; try again", maxSessions)
	}
	if no := s.record(c, EventAccepted); no != nil {
		return no
	}
	s.setCookie(w, ticket)
	s.answer(w, http.StatusOK, tokenMessage{v.token})
	return nil
}

// judge accepts evidence for a session, or says why not.
func (s *Server) judge(ctx context.Context, c *call, tee attest.Type, nonce string, m *attestation) (*session, *refusal) {
	bad := func(format string, args ...any) (*session, *refusal) {
		return nil, refuse(http.StatusBadRequest, typeRequest, format, args...)
	}
	var data runtimeData
	if err := decode(m.RuntimeData, &data); err != nil {
		return bad("runtime-data are not nonce and tee-pubkey alone")
	}
	e := &m.TEEEvidence
	switch {
	case len(m.InitData) > 0 && m.InitData.Kind() != 'n':
		return bad("init-data are given: this broker knows none, for the manifest says what a VM is for")
	case e.Additional != "" && e.Additional != "{}":
		return bad("additional_evidence is given: this broker knows none")
	case e.Primary.Format != evidenceFormat:
		return bad("primary_evidence has the format %.40q; this broker takes %q", e.Primary.Format, evidenceFormat)
	case data.Nonce != nonce:
		return nil, refuse(http.StatusUnauthorized, typeEvidence, "the nonce is not that of this session's challenge")
	}
	key, err := parseKey(data.TEEPubkey)
	if err != nil {
		return bad("tee-pubkey %s", printable(err.Error()))
	}
	sum, err := digest(m.RuntimeData)
	if err != nil {
		return bad("runtime-data can't be brought into canonical form")
	}
	c.Manifest, c.TEE, c.Simulated = e.Primary.Manifest.String(), tee, tee == attest.Sim
	a := s.approved[e.Primary.Manifest]
	if a == nil {
		return nil, refuse(http.StatusForbidden, typeDenied, "the manifest %s is none that the owner approved for this broker", e.Primary.Manifest)
	}
	c.Computation = a.manifest.ID
	ctx, cancel := context.WithTimeoutCause(ctx, appraisalTime, fmt.Errorf("it took more than %v", appraisalTime))
	defer cancel()
	done, err := s.turn(ctx)
	if err != nil {
		return nil, refuse(http.StatusServiceUnavailable, typeBusy, "others are being appraised; try again")
	}
	defer done()
	v, err := s.appraise(ctx, a, tee, e.Primary.BrokerEvidence, sum)
	if err != nil {
		return nil, s.notAccepted(err)
	}
	c.of(v)
	return &session{instance: v, manifest: a.manifest.Digest, key: key}, nil
}

// appraise judges evidence by the owner's policy, for one manifest.
func (s *Server) appraise(ctx context.Context, a *approval, tee attest.Type, e atls.BrokerEvidence, data [64]byte) (v Instance, err error) {
	judge := atls.Appraisal{
		Verifier: s.cfg.Verifier, Launch: attest.LaunchDigestsOf(a.manifest.Raw),
		CheckInstance: func(spki []byte, at atls.Attestation) error {
			k, err := keys.ParsePublic(spki)
			switch {
			case err != nil:
				return fmt.Errorf("the VM's instance key: %w", err)
			case at.Evidence.Type != attest.Type(a.manifest.TEE):
				// Whatever the policy takes: the TEE is the one that was approved.
				return &otherTEE{string(a.manifest.TEE), at.Evidence.Type}
			case at.Evidence.Type != tee:
				return &otherTEE{string(tee), at.Evidence.Type}
			}
			v = Instance{a.manifest.Digest, a.manifest.ID, k, at.Evidence.Type, s.cfg.Now().UTC().Truncate(time.Second)}
			if err := s.cfg.Admit(v); err != nil {
				return &notAdmitted{v, err}
			}
			return nil
		},
	}
	_, err = judge.JudgeBroker(ctx, e, s.cfg.URL, data)
	return v, err
}

// otherTEE refuses good evidence of another TEE than was asked for.
type otherTEE struct {
	want string
	got  attest.Type
}

func (e *otherTEE) Error() string {
	return fmt.Sprintf("it is of the TEE %q; expected %q", e.got, e.want)
}

// notAdmitted is an instance whose evidence is good.
type notAdmitted struct {
	instance Instance
	err      error
}

func (e *notAdmitted) Error() string { return e.err.Error() }
func (e *notAdmitted) Unwrap() error { return e.err }

// notAccepted puts an appraisal's error into words: which claims failed is told, and
// not what was expected.
func (s *Server) notAccepted(err error) *refusal {
	var (
		policy *attest.Refusal
		tee    *otherTEE
		admit  *notAdmitted
		judged *atls.EvidenceError
	)
	switch {
	case errors.As(err, &admit) && !errors.Is(err, ErrSecondInstance):
		return refuse(http.StatusServiceUnavailable, typeInternal, "the broker can't remember this VM").and(err)
	case errors.As(err, &admit):
		return refuse(http.StatusUnauthorized, typeEvidence,
			"this is a second VM of the same manifest, with the instance key %s: the owner has to consent (cocos-cli broker consent)", admit.instance.Key.Fingerprint()).and(err)
	case errors.As(err, &tee):
		return refuse(http.StatusUnauthorized, typeEvidence, "the evidence is of another TEE than was asked for").and(err)
	case errors.As(err, &policy):
		var names []string
		for _, f := range policy.Result.Failed() {
			names = append(names, f.Name)
		}
		return refuse(http.StatusUnauthorized, typeEvidence, "the owner's policy does not accept the evidence (%s); the broker's own record says what it expects", strings.Join(names, ", ")).and(err)
	case errors.As(err, &judged):
		return refuse(http.StatusUnauthorized, typeEvidence, "the evidence can't be appraised here; the broker's own record says why").and(err)
	}
	return refuse(http.StatusBadRequest, typeRequest, "the evidence is not of the form %s", evidenceFormat).and(err)
}

// resource releases one.
func (s *Server) resource(w http.ResponseWriter, r *http.Request, c *call, name string) *refusal {
	c.Resource = printable(name)
	token, bearer := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	ticket := ticketOf(r)
	if !bearer && ticket == "" {
		return refuse(http.StatusUnauthorized, typeCookie, "neither the cookie %s nor a token is given: attest first", sessionCookie)
	}
	v := s.sessions.find(ticket, token, s.cfg.Now())
	if v == nil {
		return refuse(http.StatusUnauthorized, typeExpired, "the session is over, or was never attested: begin anew")
	}
	c.of(v.instance)
	resource := s.cfg.Resources[name]
	switch {
	case resource == nil:
		return refuse(http.StatusNotFound, typeMissing, "there is no resource %.200q", name)
	case !slices.Contains(s.approved[v.manifest].resources, name):
		return refuse(http.StatusForbidden, typeDenied, "the resource %q is not for the manifest %s", name, v.manifest)
	}
	sealed, err := seal(v.key, resource)
	if err != nil {
		return refuse(http.StatusInternalServerError, typeInternal, "the broker can't encrypt the resource").and(err)
	}
	if no := s.record(c, EventReleased); no != nil {
		return no
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(sealed)
	return nil
}

// token is the protocol's attestation result: good at this broker alone, for as
// long as the session.
func (s *Server) token(v *session, data jsontext.Value, now time.Time) (string, error) {
	var d runtimeData
	if err := decode(data, &d); err != nil {
		return "", err
	}
	return jwt.Signed(s.signer).Claims(jwt.Claims{
		Issuer: s.cfg.URL, IssuedAt: jwt.NewNumericDate(now), Expiry: jwt.NewNumericDate(v.ends),
	}).Claims(map[string]any{
		"jwk": s.tokenKey, "tee-pubkey": rawJSON(d.TEEPubkey),
		"cocos": map[string]any{
			"manifest_digest": v.manifest.String(), "instance": v.instance.Key.Fingerprint(),
			"tee": v.instance.TEE, "simulated": v.instance.TEE == attest.Sim,
		},
	}).Serialize()
}

// rawJSON goes into a token as it is.
type rawJSON []byte

// MarshalJSON implements json.Marshaler.
func (r rawJSON) MarshalJSON() ([]byte, error) { return r, nil }
