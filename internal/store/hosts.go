package store

import (
	"github.com/ultravioletrs/cocos/internal/computations"
)

type (
	host       = computations.Host
	enrolToken = computations.EnrolToken
)

var hosts = newTable("hosts", "id name serial previous_serial certificate_expires enrolled revoked cordoned draining report "+
	"contact connected process address", 1,
	", (SELECT count(*) FROM runs r WHERE r.host_id = t.id AND r.state IN ('offered', 'starting', 'running'))", "",
	func(h *host) []any {
		return []any{&h.ID, &h.Name, &h.Serial, &h.PreviousSerial, moment{&h.CertificateExpires}, moment{&h.Enrolled},
			moment{&h.Revoked}, &h.Cordoned, &h.Draining, doc{&h.Report}, moment{&h.Contact}, &h.Connected, &h.Process,
			&h.Address, &h.Active}
	})

func (x *tx) Host(h id) (host, error) { return hosts.one(x, "WHERE t.id = $1", h) }

func (x *tx) HostBySerial(serial string) (host, error) {
	if serial == "" {
		return host{}, computations.ErrNoRow
	}
	return hosts.one(x, "WHERE t.serial = $1 AND t.serial <> '' OR t.previous_serial = $1 AND t.previous_serial <> ''", serial)
}

// Hosts is in the order of their names.
func (x *tx) Hosts() ([]host, error) { return hosts.all(x, "ORDER BY t.name, t.id") }

func (x *tx) PutHost(h host) error { return hosts.put(x, h) }

var enrolTokens = newTable("enrol_tokens", "id name hash by_id created expires host_id", 1, "", "",
	func(e *enrolToken) []any {
		return []any{&e.ID, &e.Name, sum{sum: &e.Hash}, &e.By, moment{&e.Created}, moment{&e.Expires}, ref{&e.Host}}
	})

func (x *tx) EnrolToken(hash [32]byte) (enrolToken, error) {
	return enrolTokens.one(x, "WHERE t.hash = $1", hash)
}

func (x *tx) EnrolTokens() ([]enrolToken, error) { return enrolTokens.all(x, "ORDER BY t.id DESC") }

func (x *tx) PutEnrolToken(e enrolToken) error { return enrolTokens.put(x, e) }
