package atls

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
)

// ErrRefused says that the peer did not accept this side's evidence.
var ErrRefused = errors.New("the peer refuses this side's evidence")

// ErrLater says that the peer can't give evidence at the moment.
var ErrLater = errors.New("try again later")

// exchange gives and takes evidence on an established TLS connection, and notes
// what came of it. The client speaks first, the server proves first: at no time
// do both write, so that any net.Conn will do, and who is asked for evidence by
// a server knows by then what it is.
func (t *transport) exchange(ctx context.Context, conn io.ReadWriter, info *Info) error {
	own := hello{role: t.role}
	_, _ = rand.Read(own.nonce[:]) // never fails
	if t.prover != nil {
		own.flags |= flagGives
	}
	if t.appraisal != nil {
		own.flags |= flagDemands
		if t.appraisal.AcceptCached {
			own.flags |= flagCached
		}
	}
	theirs, err := greet(conn, own)
	if err != nil {
		return err
	}
	if err := agree(own, theirs); err != nil {
		return err
	}
	for _, attester := range []role{server, client} {
		switch {
		case attester == own.role && t.prover != nil:
			err = t.give(ctx, conn, theirs, info)
		case attester != own.role && t.appraisal != nil:
			err = t.take(ctx, conn, own, theirs, info)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// greet exchanges hellos. A server answers one that it does not understand, too,
// so that a client of another version can say so.
func greet(conn io.ReadWriter, own hello) (theirs hello, err error) {
	if own.role == client {
		if err := writeMessage(conn, kindHello, own.bytes()); err != nil {
			return hello{}, err
		}
	}
	_, b, err := readMessage(conn, kindHello)
	if err != nil {
		return hello{}, err
	}
	if own.role == server {
		if err := writeMessage(conn, kindHello, own.bytes()); err != nil {
			return hello{}, err
		}
	}
	return parseHello(b)
}

// agree wants each side to give what the other demands, and nothing else.
func agree(own, theirs hello) error {
	switch {
	case own.role == theirs.role:
		return fmt.Errorf("the peer says that it is a %s, as is this side", theirs.role)
	case own.has(flagDemands) && !theirs.has(flagGives):
		return errors.New("the peer gives no evidence, and this side demands it")
	case !own.has(flagDemands) && theirs.has(flagGives):
		return errors.New("the peer gives evidence, and this side does not appraise it")
	case own.has(flagGives) && !theirs.has(flagDemands):
		return errors.New("the peer does not appraise evidence, and this side serves nobody without")
	case !own.has(flagGives) && theirs.has(flagDemands):
		return errors.New("the peer demands evidence, and this side has none")
	}
	return nil
}

// give proves this side.
func (t *transport) give(ctx context.Context, conn io.ReadWriter, theirs hello, info *Info) error {
	if t.role == server {
		tell(conn, Waiting)
	}
	e, err := t.prover.prove(ctx, leafOf(t.role, info.Exporter, t.spki, theirs.nonce), theirs.has(flagCached))
	if err != nil {
		word := failed
		if errors.Is(err, errBusy) {
			word = busy
		}
		// Whether it is heard or not, the connection ends here.
		_ = writeMessage(conn, kindVerdict, []byte{byte(word)})
		return err
	}
	if t.role == server {
		tell(conn, Appraising) // before a word of it: who does not read it stalls
	}
	if err := writeMessage(conn, kindEvidence, e.bytes()); err != nil {
		return err
	}
	_, b, err := readMessage(conn, kindVerdict)
	if err != nil {
		return err
	}
	switch v, err := parseVerdict(b); {
	case err != nil:
		return err
	case v == refused:
		return ErrRefused
	case v != accepted:
		return fmt.Errorf("the peer answers evidence with verdict %d", v)
	}
	info.note(t.role, e.instance, e.cached)
	return nil
}

// take has the peer prove itself, and tells it no more than the verdict.
func (t *transport) take(ctx context.Context, conn io.ReadWriter, own, theirs hello, info *Info) error {
	k, b, err := readMessage(conn, kindEvidence, kindVerdict)
	if err != nil {
		return err
	}
	if k == kindVerdict {
		switch v, err := parseVerdict(b); {
		case err != nil:
			return err
		case v == busy:
			return fmt.Errorf("the peer has too many connections that wait for evidence; %w", ErrLater)
		case v == failed:
			return fmt.Errorf("the peer's TEE gave no evidence; %w", ErrLater)
		default:
			return fmt.Errorf("the peer sends verdict %d in place of evidence", v)
		}
	}
	e, err := parseEvidence(b)
	var a Attestation
	if err == nil {
		a, err = t.appraisal.judge(ctx, t.shared, e, leafOf(theirs.role, info.Exporter, info.PeerSPKI, own.nonce))
	}
	if err != nil {
		_ = writeMessage(conn, kindVerdict, []byte{byte(refused)})
		return err
	}
	if err := writeMessage(conn, kindVerdict, []byte{byte(accepted)}); err != nil {
		return err
	}
	info.Attestation = &a
	info.note(theirs.role, a.Instance, a.Cached)
	return nil
}

// note keeps what both ends know of evidence that was accepted.
func (i *Info) note(attester role, instance []byte, cached bool) {
	if attester == server || len(i.Instance) == 0 {
		i.Instance = instance
	}
	i.Cached = i.Cached || cached
}
