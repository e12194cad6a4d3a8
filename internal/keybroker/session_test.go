package keybroker

import (
	"fmt"
	"testing"
	"time"

	"github.com/ultravioletrs/cocos/attest"
)

// Sessions are bounded, each ticket opens one, and room comes back when they end.
func TestSessionsAreBounded(t *testing.T) {
	var s sessions
	now := time.Now()
	enter := func(ticket string, now time.Time) entered {
		return s.enter(ticket, &session{token: "of " + ticket, ends: now.Add(sessionTime)}, now)
	}
	for i := range maxSessions {
		if got := enter(fmt.Sprint(i), now); got != enteredNow {
			t.Fatalf("session %d: %v", i, got)
		}
	}
	if got := enter("0", now); got != enteredBefore {
		t.Errorf("a ticket twice: %v", got)
	}
	if got := enter("more", now); got != enteredFull {
		t.Errorf("one too many: %v", got)
	}
	if s.find("0", "", now) == nil || s.find("", "of 0", now) == nil || s.find("more", "", now) != nil || s.find("0", "of more", now) != nil {
		t.Error("they are not found as they were entered")
	}
	later := now.Add(sessionTime)
	if s.find("0", "", later) != nil || s.find("", "of 0", later) != nil {
		t.Error("one that is over is found")
	}
	if got := enter("more", later); got != enteredNow {
		t.Errorf("after they ended: %v", got)
	}
	if len(s.tickets) != 1 || len(s.tokens) != 1 {
		t.Errorf("%d tickets and %d tokens are kept", len(s.tickets), len(s.tokens))
	}
}

// A ticket is good in its process and its time, for its TEE, and unchanged.
func TestTickets(t *testing.T) {
	mine, now := newTickets(), time.Now()
	for _, tee := range attest.Types() {
		ticket, nonce := mine.issue(tee, now)
		if got, _, ok := mine.read(ticket, now); !ok || got != tee || mine.nonceOf(ticket) != nonce {
			t.Errorf("%s: %q, %t", tee, got, ok)
		}
		if _, _, ok := mine.read(ticket, now.Add(challengeTime)); ok {
			t.Errorf("%s: good when it is over", tee)
		}
		if _, _, ok := newTickets().read(ticket, now); ok {
			t.Errorf("%s: good in another process", tee)
		}
		for i := range ticket {
			bent := []byte(ticket)
			bent[i] = 'A' + (bent[i]-'A'+1)%26
			if _, _, ok := mine.read(string(bent), now); ok && string(bent) != ticket {
				t.Errorf("%s: good with another character %d", tee, i)
			}
		}
		if other, another := mine.issue(tee, now); other == ticket || another == nonce {
			t.Errorf("%s: the same twice", tee)
		}
	}
	for _, none := range []string{"", "A", "%%"} {
		if _, _, ok := mine.read(none, now); ok {
			t.Errorf("%q is good", none)
		}
	}
}
