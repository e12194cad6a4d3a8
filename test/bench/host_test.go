package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/ultravioletrs/cocos/test/computations/server"
)

func TestParentOf(t *testing.T) {
	if got, err := parentOf(fmt.Sprint(os.Getpid())); err != nil || got != os.Getppid() {
		t.Errorf("%d, %v; want %d", got, err, os.Getppid())
	}
	if _, err := parentOf("0"); err == nil {
		t.Error("there is a process 0")
	}
}

// The clock of a process goes while it works, and only then; of one that is not
// there is none.
func TestCPUTime(t *testing.T) {
	before, err := cpuTime(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(time.Minute); ; {
		now, err := cpuTime(os.Getpid())
		if err != nil {
			t.Fatal(err)
		}
		if now > before {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("a minute's work has taken no time")
		}
	}
	if _, err := cpuTime(1 << 22); err == nil || !strings.Contains(err.Error(), "4194304") {
		t.Errorf("got %v", err)
	}
}

func TestStopwatch(t *testing.T) {
	w := newStopwatch(3)
	for i, kind := range []string{"other", eventKind, eventKind, "other"} {
		w.watch(server.Entry{Kind: kind})
		select {
		case <-w.done:
			t.Fatalf("done after %d entries", i+1)
		default:
		}
	}
	w.watch(server.Entry{Kind: eventKind})
	<-w.done
	if w.count() != 3 || !(w.rate() > 0) {
		t.Errorf("%d events, %v per second", w.count(), w.rate())
	}
}

func TestGate(t *testing.T) {
	l := testLab(t)
	g, err := l.newGate()
	if err != nil {
		t.Fatal(err)
	}
	defer g.close()
	through := make(chan error, 2)
	for range 2 {
		go func() {
			c, err := net.Dial("unix", l.path("gate"))
			if err == nil {
				defer c.Close()
				_, err = c.Read(make([]byte, 1))
			}
			through <- err
		}()
	}
	if err := g.open(t.Context(), 2); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := <-through; err == nil || err.Error() != "EOF" {
			t.Errorf("got %v", err)
		}
	}
	late, err := (&lab{dir: t.TempDir()}).newGate()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := late.open(ctx, 1); err == nil || !strings.Contains(err.Error(), "0 of 1 guests") {
		t.Errorf("got %v", err)
	}
}

// The stand-in for QEMU answers as a monitor does.
func TestBareBoot(t *testing.T) {
	l := testLab(t)
	program := l.path("fakeqemu")
	if err := buildProgram(t.Context(), program, "./fakeqemu"); err != nil {
		t.Fatal(err)
	}
	if took, err := bareBoot(t.Context(), l, program); err != nil || took <= 0 {
		t.Errorf("%v, %v", took, err)
	}
	if _, err := bareBoot(t.Context(), l, "/nowhere/qemu"); err == nil {
		t.Error("a program that is not there has answered")
	}
}
