package shim

import (
	"fmt"
	"slices"

	"github.com/ultravioletrs/cocos/internal/vm"
)

// transitions holds every way from one state to the next.
var transitions = map[vm.State][]vm.State{
	"":          {vm.Starting},
	vm.Starting: {vm.Booting, vm.Stopping, vm.Exited},
	vm.Booting:  {vm.Running, vm.Stopping, vm.Exited},
	vm.Running:  {vm.Stopping, vm.Exited},
	vm.Stopping: {vm.Exited},
	vm.Exited:   nil,
}

// kinds names the event that tells of a state. That an agent runs is its own
// event.
var kinds = map[vm.State]string{
	vm.Starting: vm.EventStarting,
	vm.Booting:  vm.EventBooting,
	vm.Stopping: vm.EventStopping,
	vm.Exited:   vm.EventExited,
}

// setState takes a transition and tells of it. Whoever has seen the event finds
// the new state, and nobody finds it before the event is kept.
func (s *shim) setState(to vm.State, message string, attributes map[string]string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	from := s.state
	if !slices.Contains(transitions[from], to) {
		return fmt.Errorf("the VM can't go from %q to %q", from, to)
	}
	if kind := kinds[to]; kind != "" {
		s.emit(kind, message, attributes)
	}
	s.state = to
	close(s.changed)
	s.changed = make(chan struct{})
	return nil
}

// current returns the state and a channel that closes when it changes.
func (s *shim) current() (vm.State, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state, s.changed
}
