package manager

import (
	"context"
	"testing"
	"time"
)

// TestLooksAreBounded: whoever asks while as many looks as may be are going on
// waits, and no longer than it wants to.
func TestLooksAreBounded(t *testing.T) {
	c := &control{looks: make(chan struct{}, 1)}
	c.looks <- struct{}{}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if out, spec := c.look(ctx, nil); out.GetRunId() != "" || spec != nil {
		t.Errorf("looked: %v, %v", out, spec)
	}
	if len(c.looks) != 1 {
		t.Error("somebody else's token was given back")
	}
}
