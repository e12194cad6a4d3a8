// Package collateral finds what vendors say of TEEs, for those who appraise
// evidence: in files as vendors' services and tools write them, in a cache
// directory, or at the vendors' own services.
//
// Invariants:
//   - What is found proves itself by its signature alone, which the appraisal
//     checks. TLS, file modes and the cache are no part of that: they keep
//     others from making a verifier refuse, nothing more.
//   - What a file is shows in its content, not in its name. A file that is
//     nothing known is an error that names it.
//   - Every answer and every file has a bound, every request a deadline.
//   - Vendors' rates are kept: an answer is kept in the cache for as long as it
//     is good, AMD's service gets one request per ten seconds, and one that asks
//     to be left alone is.
package collateral

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/ultravioletrs/cocos/attest"
)

// maxFile bounds one file, in bytes: Intel's list of a platform CA is the
// largest of its kind.
const maxFile = 8 << 20

// Files reads endorsements from files: certificates and revocation lists in PEM
// (several in one file) or DER, certificate tables of SEV-SNP, Intel's answers
// in JSON, and the collateral.json that DCAP tools keep. Two files with
// different statements of Intel's about the same thing are an error.
func Files(names ...string) (attest.Endorsements, error) {
	var all attest.Endorsements
	for _, name := range names {
		b, err := readFile(name)
		if err != nil {
			return attest.Endorsements{}, err
		}
		e, err := parse(b)
		if err != nil {
			return attest.Endorsements{}, fmt.Errorf("reading %s: %w", name, err)
		}
		if err := join(&all, e); err != nil {
			return attest.Endorsements{}, fmt.Errorf("reading %s: %w", name, err)
		}
	}
	return all, nil
}

func readFile(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", name, err)
	}
	if len(b) > maxFile {
		return nil, fmt.Errorf("reading %s: it has more than %d bytes, which is no collateral", name, maxFile)
	}
	return b, nil
}

// join adds more to all.
func join(all *attest.Endorsements, more attest.Endorsements) error {
	switch {
	case conflict(all.TCBInfo, more.TCBInfo):
		return errors.New("it has TCB info, and another file has a different one: give that of the evidence's platform and type alone")
	case conflict(all.QEIdentity, more.QEIdentity):
		return errors.New("it has a QE identity, and another file has a different one: give that of the evidence's type alone")
	}
	*all = all.With(more)
	return nil
}

func conflict(a, b []byte) bool { return len(a) > 0 && len(b) > 0 && string(a) != string(b) }

// Static is a source of what is at hand, for evidence of every type.
func Static(e attest.Endorsements) attest.EndorsementSource { return static{e} }

type static struct{ attest.Endorsements }

// Endorse implements attest.EndorsementSource.
func (s static) Endorse(context.Context, attest.Evidence) (attest.Endorsements, error) {
	return s.Endorsements, nil
}

// All asks several sources, those first that go before. What some lack is an
// error beside what others have.
func All(sources ...attest.EndorsementSource) attest.EndorsementSource { return several(sources) }

type several []attest.EndorsementSource

// Endorse implements attest.EndorsementSource.
func (s several) Endorse(ctx context.Context, e attest.Evidence) (attest.Endorsements, error) {
	var all attest.Endorsements
	var problems []error
	for _, source := range s {
		// Each sees what those before it had, so that it need not look for that.
		known := e
		known.Endorsements = all.With(e.Endorsements)
		found, err := source.Endorse(ctx, known)
		if err != nil {
			problems = append(problems, err)
		}
		all = all.With(found)
	}
	return all, errors.Join(problems...)
}
