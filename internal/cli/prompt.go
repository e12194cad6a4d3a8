package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/term"

	"github.com/ultravioletrs/cocos/internal/bytesize"
)

const (
	// maxSecretFile bounds a file with a password or a token, in bytes.
	maxSecretFile = 4096
	// maxLine that a person types, in bytes.
	maxLine = 1024
)

// typed is a line of a person, read in its own goroutine, which ends with the line
// or with the process: a terminal's read can't be interrupted.
func typed(ctx context.Context, read func() (string, error)) (string, error) {
	type line struct {
		text string
		err  error
	}
	got := make(chan line, 1)
	go func() {
		text, err := read()
		got <- line{text, err}
	}()
	select {
	case l := <-got:
		return l.text, l.err
	case <-ctx.Done():
		return "", ctx.Err()
	}
}

// interactive tells whether a person can be asked.
func (a *app) interactive() bool { return a.env.Interactive != nil && a.env.Interactive() }

// ask asks a person for a line.
func (a *app) ask(ctx context.Context, question string) (string, error) {
	fmt.Fprint(a.out.stderr, question)
	return typed(ctx, func() (string, error) { return readLine(a.env.Stdin) })
}

// agree has a person at a terminal say yes; elsewhere nobody is asked.
func (a *app) agree(ctx context.Context, format string, args ...any) error {
	if !a.interactive() {
		return nil
	}
	answer, err := a.ask(ctx, clean(fmt.Sprintf(format, args...))+" [y/N] ")
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if s := strings.ToLower(strings.TrimSpace(answer)); s != "y" && s != "yes" {
		return errors.New("nothing was done")
	}
	return nil
}

// readLine reads no byte after the line's end, which may be another answer's.
func readLine(r io.Reader) (string, error) {
	var line []byte
	b := make([]byte, 1)
	for len(line) < maxLine {
		n, err := r.Read(b)
		if n == 1 && b[0] == '\n' {
			return strings.TrimSuffix(string(line), "\r"), nil
		}
		line = append(line, b[:n]...)
		if err != nil {
			return string(line), err
		}
	}
	return "", fmt.Errorf("the line has more than %d characters", maxLine)
}

// askPassword asks a person for a password, which the terminal doesn't show.
func (a *app) askPassword(ctx context.Context, question string) (string, error) {
	fmt.Fprint(a.out.stderr, question)
	password, err := a.env.ReadPassword(ctx)
	fmt.Fprintln(a.out.stderr) // the one that was typed isn't shown either
	if err != nil && ctx.Err() == nil {
		err = fmt.Errorf("reading the password: %w", err)
	}
	return password, err
}

// hiddenLine reads a line of a terminal that shows nothing of it, and leaves the
// terminal as it was, interrupted or not.
func hiddenLine(ctx context.Context, tty *os.File) (string, error) {
	fd := int(tty.Fd())
	before, err := term.GetState(fd)
	if err != nil {
		return "", err
	}
	line, err := typed(ctx, func() (string, error) {
		b, err := term.ReadPassword(fd)
		return string(b), err
	})
	if ctx.Err() != nil {
		err = errors.Join(ctx.Err(), term.Restore(fd, before))
	}
	return line, err
}

// secretFrom reads a password or a token from a file, or from standard input for
// "-": one line.
func (a *app) secretFrom(flag, name string) (string, error) {
	var (
		b   []byte
		err error
	)
	if name == "-" {
		b, err = io.ReadAll(io.LimitReader(a.env.Stdin, maxSecretFile+1))
		if err == nil && len(b) > maxSecretFile {
			err = fmt.Errorf("standard input has more than %s", bytesize.Round(maxSecretFile))
		}
	} else {
		b, err = readSmall(name, maxSecretFile)
	}
	if err != nil {
		return "", fmt.Errorf("%s: %w", flag, err)
	}
	s := strings.TrimSuffix(strings.TrimSuffix(string(b), "\n"), "\r")
	if s == "" || strings.ContainsAny(s, "\r\n") {
		return "", usagef("put it into the file alone, on one line", "%s: expected one line", flag)
	}
	return s, nil
}
