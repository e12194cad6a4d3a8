package tsm

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/ultravioletrs/cocos/attest"
)

// reportsDir is configfs-tsm's (the kernel's Documentation/ABI/testing/
// configfs-tsm): a folder that one makes there is a request, whose files the
// kernel fills.
const reportsDir = "/sys/kernel/config/tsm/report"

// attempts at a request before giving up.
const attempts = 5

// configfs asks for reports there, one after the other.
type configfs struct {
	files files
	mu    sync.Mutex
}

// errChanged: somebody else wrote to the same request, or the kernel was busy.
var errChanged = errors.New("the request was changed while it was answered")

// provider names the TEE.
func (c *configfs) provider() (name string, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	dir, err := c.open()
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, c.files.Remove(dir)) }()
	return word(c.files, path.Join(dir, "provider"))
}

func (c *configfs) open() (dir string, err error) {
	dir = path.Join(reportsDir, "cocos-"+rand.Text())
	if err := c.files.Mkdir(dir); err != nil {
		return "", fmt.Errorf("making a request for a report: %w", err)
	}
	return dir, nil
}

// ask returns a report that binds data.
func (c *configfs) ask(ctx context.Context, data attest.ReportData) (answer, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var err error
	for range attempts {
		if ctx.Err() != nil {
			return answer{}, context.Cause(ctx)
		}
		var a answer
		a, err = c.once(data)
		if err == nil {
			return a, nil
		}
		if !errors.Is(err, errChanged) {
			break
		}
	}
	return answer{}, fmt.Errorf("asking the kernel for a report: %w", err)
}

// once makes one request, of its own.
func (c *configfs) once(data attest.ReportData) (a answer, err error) {
	dir, err := c.open()
	if err != nil {
		return answer{}, err
	}
	defer func() { err = errors.Join(err, c.files.Remove(dir)) }()
	before, err := c.generation(dir)
	if err != nil {
		return answer{}, err
	}
	writes := uint64(0)
	// SEV-SNP alone has privilege levels (VMPL); the floor is the guest's own.
	floor, err := word(c.files, path.Join(dir, "privlevel_floor"))
	switch {
	case err == nil:
		if err := c.write(dir, "privlevel", []byte(floor)); err != nil {
			return answer{}, err
		}
		writes++
	case !errors.Is(err, fs.ErrNotExist):
		return answer{}, err
	}
	if err := c.write(dir, "inblob", data[:]); err != nil {
		return answer{}, err
	}
	writes++
	if a.report, err = c.read(dir, "outblob"); err != nil {
		return answer{}, err
	}
	if a.aux, err = c.read(dir, "auxblob"); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return answer{}, err
	}
	after, err := c.generation(dir)
	if err != nil {
		return answer{}, err
	}
	if after != before+writes {
		return answer{}, fmt.Errorf("%w: generation %d; expected %d", errChanged, after, before+writes)
	}
	return a, nil
}

// generation counts the writes to a request.
func (c *configfs) generation(dir string) (uint64, error) {
	s, err := word(c.files, path.Join(dir, "generation"))
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%s/generation has %q; expected a number", dir, s)
	}
	return n, nil
}

func (c *configfs) write(dir, name string, b []byte) error {
	return retriable(c.files.Write(path.Join(dir, name), b))
}

func (c *configfs) read(dir, name string) ([]byte, error) {
	b, err := c.files.Read(path.Join(dir, name), maxReport)
	return b, retriable(err)
}

// retriable marks the errors by which the kernel says that it is not its turn.
func retriable(err error) error {
	for _, again := range []error{unix.EBUSY, unix.EAGAIN, unix.EINTR} {
		if errors.Is(err, again) {
			return fmt.Errorf("%w: %w", errChanged, err)
		}
	}
	return err
}
