package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/ultravioletrs/cocos/internal/computations"
	"github.com/ultravioletrs/cocos/internal/computations/authority"
	"github.com/ultravioletrs/cocos/internal/store"
	"github.com/ultravioletrs/cocos/internal/telemetry"
)

// opened runs f with the service, beside one that may be running.
func opened(ctx context.Context, s settings, stderr io.Writer, f func(*parts) error) error {
	log, err := telemetry.NewLogger(stderr, s.logFormat, "warn")
	if err != nil {
		return err
	}
	p, err := open(ctx, s, log)
	if err != nil {
		return err
	}
	return errors.Join(f(p), p.store.Close())
}

// openBeside opens the database to read it, also while a service has it open.
func openBeside(ctx context.Context, s settings, log *slog.Logger) (*store.Store, error) {
	cfg := storeConfig(s, log)
	cfg.ReadOnly = true
	if s.database == "" {
		if err := ownDataDir(s.dataDir, os.Geteuid()); err != nil {
			return nil, err
		}
	}
	return store.Open(ctx, cfg)
}

// link prints a link with which an operator gets in.
func link(ctx context.Context, s settings, args []string, stdout, stderr io.Writer) error {
	return opened(ctx, s, stderr, func(p *parts) error {
		address, err := "", error(nil)
		if len(args) == 1 {
			address, err = p.service.OperatorLink(ctx, args[0])
		} else if address, err = p.service.Bootstrap(ctx); err == nil && address == "" {
			err = errors.New("the first administrator has signed in already; name the operator's address: cocos-computations link EMAIL")
		}
		if err != nil {
			return err
		}
		_, err = fmt.Fprintln(stdout, address)
		return err
	})
}

func printAuthority(_ context.Context, s settings, _ []string, stdout, stderr io.Writer) error {
	if _, err := os.Stat(filepath.Join(s.dataDir, authority.File)); err != nil {
		return fmt.Errorf("there is no authority yet: %w; start the service once, or set COMPUTATIONS_DATA_DIR", err)
	}
	a, err := authority.Open(authority.Config{Dir: s.dataDir})
	if err != nil {
		return err
	}
	fmt.Fprintln(stderr, a.Fingerprint())
	_, err = stdout.Write(a.PEM())
	return err
}

func verifyAudit(ctx context.Context, s settings, _ []string, stdout, stderr io.Writer) error {
	log, err := telemetry.NewLogger(stderr, s.logFormat, "warn")
	if err != nil {
		return err
	}
	db, err := openBeside(ctx, s, log)
	if err != nil {
		return err
	}
	service, err := computations.New(computations.Config{Store: db, Name: s.publicURL, Log: log})
	if err != nil {
		return errors.Join(err, db.Close())
	}
	n, head, err := service.VerifyAudit(ctx)
	if err = errors.Join(err, db.Close()); err != nil {
		return err
	}
	_, err = fmt.Fprintf(stdout, "%d entries, each with the hash of the one before\nhead %x\n", n, head)
	if err == nil {
		fmt.Fprintln(stderr, "Keep the head somewhere else: entries that are cut off at the end show against it alone.")
	}
	return err
}

func backup(ctx context.Context, s settings, args []string, stdout, stderr io.Writer) error {
	if s.database != "" {
		return errors.New("backup copies the embedded database, and COMPUTATIONS_DATABASE names a server; use pg_dump there")
	}
	log, err := telemetry.NewLogger(stderr, s.logFormat, "warn")
	if err != nil {
		return err
	}
	db, err := openBeside(ctx, s, log)
	if err != nil {
		return err
	}
	if err := errors.Join(db.Backup(ctx, args[0]), db.Close()); err != nil {
		return err
	}
	_, err = fmt.Fprintf(stdout, "copied to %s; %s beside it is not in the copy: keep it, too\n", args[0], filepath.Join(s.dataDir, authority.File))
	return err
}

func restore(ctx context.Context, s settings, args []string, stdout, _ io.Writer) error {
	if s.database != "" {
		return errors.New("restore fills the embedded database, and COMPUTATIONS_DATABASE names a server; use pg_restore there")
	}
	if err := makeDataDir(s.dataDir); err != nil {
		return err
	}
	to := filepath.Join(s.dataDir, databaseFile)
	if _, err := os.Lstat(to); !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s is there: nothing is overwritten; stop the service and move it away, with the files whose names begin alike", to)
	}
	if err := store.Restore(ctx, args[0], to); err != nil {
		return err
	}
	_, err := fmt.Fprintf(stdout, "restored to %s\n", to)
	return err
}
