package store

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// channel carries "PROCESS TOPIC TOPIC ...".
const channel = "cocos_signals"

// maxPayload is what PostgreSQL takes at once, in bytes: less than 8000.
const maxPayload = 7900

// notify is part of the transaction: the server tells it with the commit, and each
// process must read all of it; so many topics are one notification.
func (s *postgresSession) notify(topics []string) error {
	if len(topics) == 0 {
		return nil
	}
	_, err := s.exec("SELECT pg_notify($1, payload) FROM unnest($2::text[]) payload", []any{channel, payloads(s.process, topics)})
	return err
}

// payloads packs topics, which have no spaces.
func payloads(process string, topics []string) (all []string) {
	text := process
	for _, t := range topics {
		if len(text)+1+len(t) > maxPayload && text != process {
			all, text = append(all, text), process
		}
		text += " " + t
	}
	return append(all, text)
}

// listen makes a connection of its own that hears the others' signals.
func (s *postgresDB) listen(ctx context.Context) (*pgx.Conn, error) {
	c, err := pgx.ConnectConfig(ctx, s.pool.Config().ConnConfig)
	if err != nil {
		return nil, err
	}
	if err = settle(ctx, c); err == nil {
		_, err = c.Exec(ctx, "LISTEN "+channel)
	}
	if err != nil {
		c.Close(ctx)
		return nil, fmt.Errorf("listening: %w", err)
	}
	return c, nil
}

// follow hears until ctx ends. After a time of deafness everybody is woken.
func (s *postgresDB) follow(ctx context.Context, c *pgx.Conn) {
	defer close(s.stopped)
	for {
		err := s.hear(ctx, c)
		c.Close(context.Background())
		if ctx.Err() != nil {
			return
		}
		s.log.Warn("lost the connection that hears of changes by other processes", "error", err)
		for wait := 100 * time.Millisecond; ; wait = min(2*wait, 5*time.Second) {
			if c, err = s.listen(ctx); err == nil {
				break
			}
			select {
			case <-time.After(wait):
			case <-ctx.Done():
				return
			}
		}
		s.log.Info("hearing of changes by other processes again")
		s.hub.wakeAll()
	}
}

// quiet is how long nothing is heard before the connection is tried.
const quiet = 15 * time.Second

func (s *postgresDB) hear(ctx context.Context, c *pgx.Conn) error {
	for {
		wait, cancel := context.WithTimeout(ctx, quiet)
		n, err := c.WaitForNotification(wait)
		cancel()
		switch {
		case err == nil:
			if process, topics, _ := strings.Cut(n.Payload, " "); process != s.process {
				s.hub.wake(strings.Fields(topics))
			}
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, context.DeadlineExceeded):
			ping, cancel := context.WithTimeout(ctx, quiet)
			err := c.Ping(ping)
			cancel()
			if err != nil {
				return err
			}
		default:
			return err
		}
	}
}
