package store

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// channel carries "PROCESS TOPIC".
const channel = "cocos_signals"

// notify is part of the transaction: the server tells it with the commit.
func (s *postgresSession) notify(topics []string) error {
	if len(topics) == 0 {
		return nil
	}
	_, err := s.exec("SELECT pg_notify($1, $2 || ' ' || topic) FROM unnest($3::text[]) topic", []any{channel, s.process, topics})
	return err
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
			process, topic, _ := strings.Cut(n.Payload, " ")
			if process != s.process {
				s.hub.wake([]string{topic})
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
