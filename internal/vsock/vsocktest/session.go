package vsocktest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/ultravioletrs/cocos/internal/vsock"
)

// A Session is the connection on which the host tells the guest what to do:
// one JSON object each way at a time.

// hello is what the guest begins with.
type hello struct {
	CID    uint32 // its own
	Kernel string
	Facts  []string // about its devices, for tests of a machine's shape
}

type command struct {
	Case   string // a case to run against the host
	Small  bool
	Base   uint64
	Action string // or "reboot", "poweroff"
}

type answer struct{ Error string }

// caseTimeout bounds one case, emulated twice over.
const caseTimeout = 5 * time.Minute

// Session is the host's end.
type Session struct {
	conn  net.Conn
	dec   *json.Decoder
	hello hello
}

// acceptSession waits for a guest that is up.
func acceptSession(l net.Listener, patience time.Duration) (*Session, error) {
	if err := l.(interface{ SetDeadline(time.Time) error }).SetDeadline(time.Now().Add(patience)); err != nil {
		return nil, err
	}
	c, err := l.Accept()
	if err != nil {
		return nil, fmt.Errorf("waiting for the guest to come up: %w", err)
	}
	s := &Session{conn: c, dec: json.NewDecoder(c)}
	if err := s.dec.Decode(&s.hello); err != nil {
		c.Close()
		return nil, fmt.Errorf("reading the guest's first words: %w", err)
	}
	return s, nil
}

func (s *Session) tell(cmd command) error {
	if err := json.NewEncoder(s.conn).Encode(cmd); err != nil {
		return fmt.Errorf("telling the guest: %w", err)
	}
	var a answer
	if err := s.dec.Decode(&a); err != nil {
		return fmt.Errorf("the guest's answer: %w", err)
	}
	if a.Error != "" {
		return errors.New(a.Error)
	}
	return nil
}

// Guest is the guest's part: it serves, opens the Session and does as it is
// told until it is told to reboot or power off, which it returns.
func Guest(ctx context.Context, facts []string, kernel string, cid uint32) (action string, err error) {
	l, err := vsock.ListenGuest(ServerPort)
	if err != nil {
		return "", err
	}
	defer l.Close()
	go NewServer().Serve(l)
	c, err := vsock.DialHost(ctx, SessionPort)
	if err != nil {
		return "", err
	}
	defer c.Close()
	enc, dec := json.NewEncoder(c), json.NewDecoder(c)
	if err := enc.Encode(hello{CID: cid, Kernel: kernel, Facts: facts}); err != nil {
		return "", err
	}
	for {
		var cmd command
		if err := dec.Decode(&cmd); err != nil {
			return "", fmt.Errorf("reading a command: %w", err)
		}
		if cmd.Action != "" {
			return cmd.Action, enc.Encode(answer{})
		}
		a := answer{}
		if err := runNamed(ctx, cmd); err != nil {
			a.Error = err.Error()
		}
		if err := enc.Encode(a); err != nil {
			return "", fmt.Errorf("answering: %w", err)
		}
	}
}

func runNamed(ctx context.Context, cmd command) error {
	size := Full
	if cmd.Small {
		size = Small
	}
	for _, c := range Cases {
		if c.Name == cmd.Case {
			ctx, cancel := context.WithTimeout(ctx, caseTimeout)
			defer cancel()
			return c.Run(ctx, vsock.DialHost, size, cmd.Base)
		}
	}
	return fmt.Errorf("there is no case %q", cmd.Case)
}
