package tsm

import (
	"errors"
	"fmt"
	"io"
	"os"
)

// files are the kernel's own: each write is one call and means something.
type files interface {
	Exists(name string) bool
	Mkdir(name string) error
	Remove(name string) error
	// Read returns the file's content of at most max bytes.
	Read(name string, max int) ([]byte, error)
	// Write writes b to a file that exists, at once.
	Write(name string, b []byte) error
}

type kernel struct{}

func (kernel) Exists(name string) bool {
	_, err := os.Stat(name)
	return err == nil
}

func (kernel) Mkdir(name string) error { return os.Mkdir(name, 0o700) }

func (kernel) Remove(name string) error { return os.Remove(name) }

func (kernel) Read(name string, max int) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, int64(max)+1))
	if err != nil {
		return nil, err
	}
	if len(b) > max {
		return nil, fmt.Errorf("%s has more than %d bytes", name, max)
	}
	return b, nil
}

// Write closes the file before it returns: only then does the kernel take it.
func (kernel) Write(name string, b []byte) error {
	f, err := os.OpenFile(name, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	return errors.Join(err, f.Close())
}
