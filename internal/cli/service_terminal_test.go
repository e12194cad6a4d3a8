package cli

import (
	"bytes"
	"context"
	"errors"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// What is typed as a password is read, and never seen; the terminal shows what is
// typed again afterwards, also when the reading was interrupted.
func TestPasswordIsNotShown(t *testing.T) {
	echoes := func(fd int) bool {
		s, err := unix.IoctlGetTermios(fd, unix.TCGETS)
		if err != nil {
			t.Fatal(err)
		}
		return s.Lflag&unix.ECHO != 0
	}
	silent := func(fd int) {
		for range 500 {
			if !echoes(fd) {
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
		t.Fatal("the terminal still shows what is typed")
	}
	t.Run("typed", func(t *testing.T) {
		screen, tty := openTerminal(t)
		defer tty.Close()
		var (
			seen    bytes.Buffer
			reading sync.WaitGroup
			got     string
			err     error
		)
		reading.Go(func() { got, err = hiddenLine(t.Context(), tty) })
		silent(int(tty.Fd()))
		if _, err := screen.WriteString("open sesame\n"); err != nil {
			t.Fatal(err)
		}
		reading.Wait()
		if err != nil || got != "open sesame" {
			t.Errorf("read %q, %v", got, err)
		}
		if !echoes(int(tty.Fd())) {
			t.Error("the terminal stays silent")
		}
		tty.WriteString("end") //nolint:errcheck // a pseudo-terminal
		for !strings.HasSuffix(seen.String(), "end") {
			b := make([]byte, 64)
			n, err := screen.Read(b)
			if err != nil {
				t.Fatal(err)
			}
			seen.Write(b[:n])
		}
		if strings.Contains(seen.String(), "sesame") {
			t.Errorf("the terminal showed %q", seen.String())
		}
	})
	t.Run("interrupted", func(t *testing.T) {
		screen, tty := openTerminal(t)
		defer tty.Close()
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() {
			_, err := hiddenLine(ctx, tty)
			done <- err
		}()
		silent(int(tty.Fd()))
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
		if !echoes(int(tty.Fd())) {
			t.Error("the terminal stays silent")
		}
		screen.WriteString("\n") //nolint:errcheck // ends the reader
	})
	t.Run("no terminal", func(t *testing.T) {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		defer w.Close()
		if _, err := hiddenLine(t.Context(), r); err == nil {
			t.Error("a pipe was taken for a terminal")
		}
	})
}

// A person is asked for what no flag says, and the password twice where it is new.
func TestPrompts(t *testing.T) {
	for name, tt := range map[string]struct {
		typed     string
		passwords []string
		want      [2]string
		fails     string
	}{
		"both":             {"ada@example.org\n", []string{"secret"}, [2]string{"ada@example.org", "secret"}, ""},
		"of other systems": {"ada@example.org\r\n", []string{"secret"}, [2]string{"ada@example.org", "secret"}, ""},
		"nothing":          {"", nil, [2]string{}, "EOF"},
		"far too much":     {strings.Repeat("a", 2000) + "\n", nil, [2]string{}, "more than 1024 characters"},
	} {
		t.Run(name, func(t *testing.T) {
			a, stderr := prompted(tt.typed, tt.passwords)
			email, password, err := a.credentials(t.Context(), &loginFlags{})
			if tt.fails != "" {
				if err == nil || !strings.Contains(err.Error(), tt.fails) {
					t.Errorf("got %v, want %q", err, tt.fails)
				}
				return
			}
			if err != nil || email != tt.want[0] || password != tt.want[1] {
				t.Errorf("got %q, %q, %v", email, password, err)
			}
			if got := stderr.String(); got != "Email address: Password: \n" {
				t.Errorf("asked %q", got)
			}
		})
	}
	for name, tt := range map[string]struct {
		passwords []string
		fails     string
	}{
		"the same twice": {[]string{"secret", "secret"}, ""},
		"two":            {[]string{"secret", "secrets"}, "the two passwords differ"},
	} {
		t.Run(name, func(t *testing.T) {
			a, _ := prompted("", tt.passwords)
			got, err := a.newPassword(t.Context(), "")
			if tt.fails != "" {
				if err == nil || err.Error() != tt.fails {
					t.Errorf("got %v", err)
				}
			} else if err != nil || got != tt.passwords[0] {
				t.Errorf("got %q, %v", got, err)
			}
		})
	}
}

// Destructive commands ask; anything but yes is no.
func TestAgree(t *testing.T) {
	for typed, agrees := range map[string]bool{"y\n": true, "YES\n": true, " yes \n": true, "\n": false, "n\n": false, "yess\n": false, "": false} {
		a, stderr := prompted(typed, nil)
		if err := a.agree(t.Context(), "Revoke %s?", "the \x1b[2Jkey"); (err == nil) != agrees {
			t.Errorf("%q: %v", typed, err)
		}
		if got := stderr.String(); got != `Revoke the \u001b[2Jkey? [y/N] ` {
			t.Errorf("asked %q", got)
		}
	}
	a, stderr := prompted("", nil)
	a.env.Interactive = nil
	if err := a.agree(t.Context(), "Revoke?"); err != nil || stderr.Len() > 0 {
		t.Errorf("nobody is there: %v, %q", err, stderr)
	}
}

// prompted is an app with a person who types this.
func prompted(typed string, passwords []string) (*app, *bytes.Buffer) {
	var stderr bytes.Buffer
	a := &app{env: Env{
		Stdin: strings.NewReader(typed), Interactive: func() bool { return true }, Getenv: func(string) string { return "" },
		ReadPassword: func(context.Context) (string, error) {
			if len(passwords) == 0 {
				return "", errors.New("nobody types")
			}
			next := passwords[0]
			passwords = passwords[1:]
			return next, nil
		},
	}}
	a.out = &output{stderr: &stderr, columns: func() int { return 0 }, now: time.Now}
	return a, &stderr
}
