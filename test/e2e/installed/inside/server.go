package inside

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"syscall"
	"time"

	"github.com/ultravioletrs/cocos/internal/vm"
	"github.com/ultravioletrs/cocos/test/computations/server"
)

const caFile = "/etc/cocos/ca.pem"

// serverProcess is a computations server that asks for one run.
type serverProcess struct {
	cmd    *exec.Cmd
	events string
	run    string // the run's id, once there is one
	ended  chan error
}

// startServer starts the sample server.
func (w *world) startServer(name string) error {
	if _, err := w.command("cocos-cli", "keys", "--force", "--out", "/root/owner"); err != nil {
		return err
	}
	s := &serverProcess{events: "/root/" + name + ".jsonl", ended: make(chan error, 1)}
	s.cmd = exec.Command(payload+"/computations", payload+"/computations", "/root/owner.pub.pem", "false")
	s.cmd.Env = append(os.Environ(), "CA_FILE="+caFile, "EVENTS_FILE="+s.events, "HOST=127.0.0.1")
	log, err := os.Create("/root/" + name + ".log")
	if err != nil {
		return err
	}
	defer log.Close()
	s.cmd.Stdout, s.cmd.Stderr = log, log
	if err := s.cmd.Start(); err != nil {
		return err
	}
	go func() { s.ended <- s.cmd.Wait() }()
	w.server = s
	return within("the server's certificate is there", func() (bool, error) {
		b, err := os.ReadFile(caFile)
		if errors.Is(err, os.ErrNotExist) {
			return false, nil
		}
		return bytes.Contains(b, []byte("END CERTIFICATE")), err
	})
}

// entries is what Managers have told the server.
func (s *serverProcess) entries() ([]server.Entry, error) {
	b, err := os.ReadFile(s.events)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var all []server.Entry
	for line := range bytes.Lines(b) {
		if !bytes.HasSuffix(line, []byte("\n")) {
			break // being written
		}
		var e server.Entry
		if err := json.Unmarshal(line, &e); err != nil {
			return nil, fmt.Errorf("%s: %w", s.events, err)
		}
		all = append(all, e)
	}
	return all, nil
}

// wait waits for events of the run, and refuses its loss.
func (s *serverProcess) wait(kinds ...string) error {
	for _, kind := range kinds {
		err := within("event "+kind, func() (bool, error) {
			all, err := s.entries()
			if err != nil {
				return false, err
			}
			for _, e := range all {
				switch {
				case e.Type == "run_reply" && len(e.Faults) > 0:
					return false, fmt.Errorf("the run was refused: %+v", e.Faults)
				case (e.Kind == vm.EventLost || e.Kind == vm.EventExited) && !slices.Contains(kinds, e.Kind):
					return false, fmt.Errorf("%s came: %s %v", e.Kind, e.Message, e.Attributes)
				case e.Kind == kind:
					s.run = e.RunID
					return true, nil
				}
			}
			return false, nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// connections counts how often a Manager has connected.
func (s *serverProcess) connections() (int, error) {
	all, err := s.entries()
	n := 0
	for _, e := range all {
		if e.Type == "connected" {
			n++
		}
	}
	return n, err
}

// attribute of the run's first event of that kind.
func (s *serverProcess) attribute(kind, name string) (string, error) {
	all, err := s.entries()
	if err != nil {
		return "", err
	}
	for _, e := range all {
		if e.Kind == kind {
			return e.Attributes[name], nil
		}
	}
	return "", fmt.Errorf("there is no event %s", kind)
}

// end asks the server to stop its run and itself.
func (s *serverProcess) end() error {
	if err := s.cmd.Process.Signal(syscall.SIGINT); err != nil {
		return err
	}
	select {
	case err := <-s.ended:
		return err
	case <-time.After(limit):
		return fmt.Errorf("the server has not ended within %v", limit)
	}
}
