package runtime

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// What Run and its child say to each other over a pair of unix sockets: setup
// as JSON; then, from the child, one byte with the descriptor of the results
// folder; then a report. The child's end of the pair is its lifeline, too: when
// the other end closes, it ends, and with it every process of the algorithm.

// readyByte comes with the results folder's descriptor.
const readyByte = 'R'

// report is the child's last word.
type report struct {
	// Error: the algorithm could not be started.
	Error string
	// Ended: it was started and ended as the other fields say.
	Ended bool
	// Installing: all this is of the installation of its packages, which failed.
	Installing bool
	ExitCode   int // -1 with a Signal
	Signal     string
	MaxRSS     int64 // bytes
	CPU        time.Duration
	// OutputFull, FilesFull: the file system of the results takes no more bytes,
	// or no more files; ScratchFull: that of /tmp and /dev/shm takes neither.
	OutputFull, FilesFull, ScratchFull bool
	// OutOfMemory: the engine ended a WebAssembly module that asked for more than
	// its limit, or the kernel did.
	OutOfMemory bool
	// Landlock is the version of its ABI that was in force; 0: none.
	Landlock int
}

// socketpair returns Run's end and the child's.
func socketpair() (*net.UnixConn, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("making a pair of sockets: %w", err)
	}
	theirs := os.NewFile(uintptr(fds[1]), "child")
	ours, err := connOf(os.NewFile(uintptr(fds[0]), "run"))
	if err != nil {
		theirs.Close()
		return nil, nil, err
	}
	return ours, theirs, nil
}

// connOf makes a connection of f and closes f.
func connOf(f *os.File) (*net.UnixConn, error) {
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		return nil, err
	}
	u, ok := c.(*net.UnixConn)
	if !ok {
		c.Close()
		return nil, errors.New("descriptor is not a unix socket")
	}
	return u, nil
}

// sendReady hands the results folder over.
func sendReady(conn *net.UnixConn, results *os.File) error {
	_, _, err := conn.WriteMsgUnix([]byte{readyByte}, unix.UnixRights(int(results.Fd())), nil)
	if err != nil {
		return fmt.Errorf("handing the results folder over: %w", err)
	}
	return nil
}

// receiveReady takes what sendReady sends. If the child says why it is not
// ready instead, or nothing, ready is false.
func receiveReady(conn *net.UnixConn) (results *os.File, said report, ready bool) {
	first, oob := make([]byte, 1), make([]byte, unix.CmsgSpace(4))
	n, oobn, _, _, err := conn.ReadMsgUnix(first, oob)
	if err != nil || n == 0 {
		return nil, report{}, false
	}
	if first[0] != readyByte {
		// The byte was the report's opening brace.
		d := json.NewDecoder(io.MultiReader(bytes.NewReader(first), conn))
		if err := d.Decode(&said); err != nil {
			said.Error = "its first process sent something unreadable"
		}
		return nil, said, false
	}
	messages, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil || len(messages) != 1 {
		return nil, report{Error: "its first process handed no results folder over"}, false
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		return nil, report{Error: "its first process handed no results folder over"}, false
	}
	unix.CloseOnExec(fds[0])
	return os.NewFile(uintptr(fds[0]), resultsDir), report{}, true
}
