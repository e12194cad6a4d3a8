package wasm

import (
	"fmt"
	"os"

	"github.com/tetratelabs/wazero/experimental"
	"golang.org/x/sys/unix"
)

// allocator makes linear memory outside the engine's heap: address space for
// the most that it may become, of which it takes what the module has asked for,
// so that growing neither copies nor moves anything.
//
// A module that asks for more than the limit is killed there and then, as the
// kernel kills an algorithm that takes more than its control group has: the
// signal, which no module can send, is what tells the agent why.
type allocator struct{ limit uint64 } // bytes; 0: none

func (a *allocator) Allocate(_, most uint64) experimental.LinearMemory {
	m := &memory{limit: a.limit}
	size := max(int(most), unix.Getpagesize())
	var err error
	if m.reserved, err = unix.Mmap(-1, 0, size, unix.PROT_NONE, unix.MAP_ANON|unix.MAP_PRIVATE|unix.MAP_NORESERVE); err != nil {
		m.refuse(most, err)
	}
	return m
}

type memory struct {
	reserved []byte
	limit    uint64
}

// Reallocate makes the first size bytes usable. A memory never shrinks.
func (m *memory) Reallocate(size uint64) []byte {
	if m.limit > 0 && size > m.limit {
		m.refuse(size, nil)
	}
	if size == 0 {
		return m.reserved[:0:0]
	}
	if err := unix.Mprotect(m.reserved[:size], unix.PROT_READ|unix.PROT_WRITE); err != nil {
		m.refuse(size, err)
	}
	return m.reserved[:size:size]
}

// Free is left to the end of the process.
func (m *memory) Free() {}

// refuse does not return.
func (m *memory) refuse(size uint64, err error) {
	allowed := "this machine has no more"
	if m.limit > 0 {
		allowed = fmt.Sprintf("/algorithm/limits/memory_bytes allows %d", m.limit)
	}
	if err != nil {
		allowed += fmt.Sprintf(", beside what the engine takes: %v", err)
	}
	fmt.Fprintf(os.Stderr, "%s: the module needs %d bytes of memory; %s\n", Name, size, allowed)
	_ = unix.Kill(os.Getpid(), unix.SIGKILL)
	select {}
}
