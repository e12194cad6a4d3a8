package keybroker

import (
	"fmt"
	"net/http"

	"github.com/go-json-experiment/json"
)

// What stands after errorPrefix in the type of a refusal. The protocol fixes the
// statuses and leaves these to each broker.
const (
	typeRequest  = "InvalidRequest"
	typeVersion  = "ProtocolVersion"
	typeCookie   = "MissingCookie"
	typeExpired  = "SessionExpired" // one may begin anew
	typeEvidence = "AttestationError"
	typeDenied   = "PolicyDeny"
	typeMissing  = "ResourceNotFound"
	typeBusy     = "Busy"
	typeInternal = "InternalError"
)

// refusal is an answer in the protocol's form of errors.
type refusal struct {
	status int
	kind   string
	detail string // for the client
	more   string // for the owner, beside it
}

func refuse(status int, kind, format string, args ...any) *refusal {
	return &refusal{status: status, kind: kind, detail: fmt.Sprintf(format, args...)}
}

// and adds what only the owner learns.
func (r *refusal) and(err error) *refusal {
	r.more = err.Error()
	return r
}

func (s *Server) refuse(w http.ResponseWriter, c *call, r *refusal) {
	c.Reason, c.Detail = r.kind, r.detail
	if r.more != "" {
		c.Detail += ": " + r.more
	}
	_ = s.record(c, EventRefused) // it stays refused
	if r.status == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", "10")
	}
	s.answer(w, r.status, errorInformation{errorPrefix + r.kind, r.detail})
}

// answer writes a message. A client that is gone has nothing of it.
func (s *Server) answer(w http.ResponseWriter, status int, message any) {
	b, err := json.Marshal(message)
	if err != nil {
		status, b = http.StatusInternalServerError, nil
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(b)
}
