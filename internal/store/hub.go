package store

import "sync"

// hub wakes this process's listeners.
type hub struct {
	mu        sync.Mutex
	listeners map[string]map[chan struct{}]bool
}

func newHub() *hub { return &hub{listeners: map[string]map[chan struct{}]bool{}} }

func (h *hub) listen(topic string) (<-chan struct{}, func()) {
	// One waiting signal is as good as many: the listener looks again.
	c := make(chan struct{}, 1)
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.listeners[topic] == nil {
		h.listeners[topic] = map[chan struct{}]bool{}
	}
	h.listeners[topic][c] = true
	return c, func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		delete(h.listeners[topic], c)
		if len(h.listeners[topic]) == 0 {
			delete(h.listeners, topic)
		}
	}
}

func (h *hub) wake(topics []string) {
	if len(topics) == 0 {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, t := range topics {
		for c := range h.listeners[t] {
			poke(c)
		}
	}
}

// wakeAll is for when signals may have been lost.
func (h *hub) wakeAll() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, cs := range h.listeners {
		for c := range cs {
			poke(c)
		}
	}
}

func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
