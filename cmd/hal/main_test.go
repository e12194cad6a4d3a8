package main

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"syscall"
	"testing"
)

func TestAdvise(t *testing.T) {
	if err := advise(nil); err != nil {
		t.Error(err)
	}
	for err, want := range map[error]bool{
		fmt.Errorf("fetching: %w", &fs.PathError{Op: "write", Path: "/x", Err: syscall.ENOSPC}): true,
		errors.New("mksquashfs: write: No space left on device"):                                true,
		errors.New("the mirror answered 404"):                                                   false,
	} {
		got := advise(err)
		if !errors.Is(got, err) || strings.Contains(got.Error(), "COCOS_CACHE") != want {
			t.Errorf("%v became %v", err, got)
		}
	}
}
