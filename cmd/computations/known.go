package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"

	"github.com/ultravioletrs/cocos/internal/computations"
	"github.com/ultravioletrs/cocos/internal/computations/authority"
	"github.com/ultravioletrs/cocos/internal/store"
	"github.com/ultravioletrs/cocos/internal/telemetry"
)

// What a database remembers of the service whose it is.
const (
	knownAuthority = "known-authority"
	knownURL       = "known-url"
)

// errOtherAuthority is a data folder whose authority did not sign this database's hosts.
var errOtherAuthority = errors.New("another certificate authority than the one under which this database's hosts have joined")

// known compares the data folder with what the database remembers, and notes it the
// first time. A second process with an authority of its own would refuse the hosts
// that the first one let in.
func known(ctx context.Context, db *store.Store, s settings, fingerprint string, log *slog.Logger) error {
	var was, url string
	err := db.View(ctx, func(r computations.Reader) (err error) {
		if was, err = r.Setting(knownAuthority); err == nil {
			url, err = r.Setting(knownURL)
		}
		return err
	})
	if err != nil {
		return err
	}
	if was != "" && was != fingerprint {
		return fmt.Errorf("%s is %w: it has the fingerprint %s, and is to have %s. Copy the file from the service that made the database, or from its backup; if it is lost, `cocos-computations new-authority` puts this one in its place, and every host enrols again",
			filepath.Join(s.dataDir, authority.File), errOtherAuthority, fingerprint, was)
	}
	if url != "" && url != s.publicURL {
		log.Warn("the service was reached at another address before: links that it gave out lead there, and cocos-cli has to sign in anew", "before", url, "now", s.publicURL)
	}
	if was == fingerprint && url == s.publicURL {
		return nil
	}
	return db.Update(ctx, func(w computations.Writer) error {
		return errors.Join(w.PutSetting(knownAuthority, fingerprint), w.PutSetting(knownURL, s.publicURL))
	})
}

// newAuthority lets the data folder's authority take the place of the one before.
func newAuthority(ctx context.Context, s settings, _ []string, stdout, stderr io.Writer) error {
	log, err := telemetry.NewLogger(stderr, s.logFormat, "warn")
	if err != nil {
		return err
	}
	p, err := openFolder(ctx, s, log)
	if err != nil {
		return err
	}
	err = p.store.Update(ctx, func(w computations.Writer) error { return w.PutSetting(knownAuthority, p.authority.Fingerprint()) })
	if err = errors.Join(err, p.store.Close()); err != nil {
		return err
	}
	_, err = fmt.Fprintf(stdout, "the service's authority is %s now: every host must enrol again\n", p.authority.Fingerprint())
	return err
}
