package device

import (
	"sync"
	"time"
)

// deadline is a net.Conn's deadline, guarded by the lock of cond.
type deadline struct {
	passed bool
	timer  *time.Timer
	turn   int // tells a late timer that it is no longer the one
}

// set replaces the deadline and wakes those who wait, so that they look again.
func (dl *deadline) set(t time.Time, cond *sync.Cond) {
	dl.stop()
	dl.passed = false
	if !t.IsZero() {
		if wait := time.Until(t); wait <= 0 {
			dl.passed = true
		} else {
			turn := dl.turn
			dl.timer = time.AfterFunc(wait, func() {
				cond.L.Lock()
				defer cond.L.Unlock()
				if dl.turn == turn {
					dl.passed = true
					cond.Broadcast()
				}
			})
		}
	}
	cond.Broadcast()
}

// stop ends the timer; the deadline's state stays.
func (dl *deadline) stop() {
	dl.turn++
	if dl.timer != nil {
		dl.timer.Stop()
		dl.timer = nil
	}
}
