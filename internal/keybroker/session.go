package keybroker

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/binary"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/ultravioletrs/cocos/attest"
	"github.com/ultravioletrs/cocos/manifest"
)

const (
	// challengeTime is how long a challenge may be answered: a TEE that is asked for
	// much takes some 15 s for a report.
	challengeTime = 2 * time.Minute
	// sessionTime is how long resources may be asked for after that.
	sessionTime = 5 * time.Minute
	// maxSessions of VMs whose evidence was accepted.
	maxSessions = 1024
)

// tickets are challenges of which nothing is kept: what a ticket says is
// authenticated by its last part, and its nonce follows from it.
type tickets struct {
	mac, nonce [32]byte // keys, of this process
}

func newTickets() *tickets {
	t := new(tickets)
	_, _ = rand.Read(t.mac[:]) // never fails
	_, _ = rand.Read(t.nonce[:])
	return t
}

const (
	ticketHead = 8 + 1 + 23 // expiry, TEE, random
	ticketSize = ticketHead + sha256.Size
)

// issue makes a ticket for a TEE.
func (t *tickets) issue(tee attest.Type, now time.Time) (ticket, nonce string) {
	var b [ticketSize]byte
	_, _ = rand.Read(b[:ticketHead])
	binary.BigEndian.PutUint64(b[:], uint64(now.Add(challengeTime).UnixMilli()))
	for i, known := range attest.Types() {
		if known == tee {
			b[8] = byte(i)
		}
	}
	copy(b[ticketHead:], keyed(t.mac, b[:ticketHead]))
	ticket = base64.RawURLEncoding.EncodeToString(b[:])
	return ticket, t.nonceOf(ticket)
}

func (t *tickets) nonceOf(ticket string) string {
	return base64.StdEncoding.EncodeToString(keyed(t.nonce, []byte(ticket)))
}

// read tells what a ticket is for; ok is false if it is none of this process, or
// over.
func (t *tickets) read(ticket string, now time.Time) (tee attest.Type, ends time.Time, ok bool) {
	b, err := base64.RawURLEncoding.Strict().DecodeString(ticket)
	if err != nil || len(b) != ticketSize || subtle.ConstantTimeCompare(b[ticketHead:], keyed(t.mac, b[:ticketHead])) != 1 {
		return "", time.Time{}, false
	}
	ends = time.UnixMilli(int64(binary.BigEndian.Uint64(b)))
	return attest.Types()[b[8]], ends, now.Before(ends)
}

func keyed(key [32]byte, b []byte) []byte {
	m := hmac.New(sha256.New, key[:])
	m.Write(b)
	return m.Sum(nil)
}

// session is a VM whose evidence was accepted.
type session struct {
	instance Instance
	manifest manifest.Digest
	key      jose.Recipient
	ends     time.Time
	token    string
}

// sessions are bounded, and each has its ticket once.
type sessions struct {
	mu      sync.Mutex
	tickets map[string]*session
	tokens  map[string]*session
}

// entered says what became of a session.
type entered int

const (
	enteredNow entered = iota
	enteredBefore
	enteredFull
)

// enter keeps a session until it ends, which is after its ticket does.
func (s *sessions) enter(ticket string, v *session, now time.Time) entered {
	s.mu.Lock()
	defer s.mu.Unlock()
	for k, old := range s.tickets {
		if !now.Before(old.ends) {
			delete(s.tickets, k)
			delete(s.tokens, old.token)
		}
	}
	switch {
	case s.tickets[ticket] != nil:
		return enteredBefore
	case len(s.tickets) >= maxSessions:
		return enteredFull
	case s.tickets == nil:
		s.tickets, s.tokens = map[string]*session{}, map[string]*session{}
	}
	s.tickets[ticket], s.tokens[v.token] = v, v
	return enteredNow
}

// used tells whether a ticket was answered already.
func (s *sessions) used(ticket string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.tickets[ticket] != nil
}

// find returns the session of a ticket, or of a token; nil if there is none that
// goes on.
func (s *sessions) find(ticket, token string, now time.Time) *session {
	s.mu.Lock()
	defer s.mu.Unlock()
	v := s.tickets[ticket]
	if token != "" {
		v = s.tokens[token]
	}
	if v == nil || !now.Before(v.ends) {
		return nil
	}
	return v
}
