package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

// maxEntry bounds a line, in bytes. A longer one is no name, number or address,
// and most often a file of another kind.
const maxEntry = 1024

// readList calls f with each entry of a file, as it is compared; the bytes are
// f's until it returns. Lines that are blank are passed over.
func readList(path string, exact bool, f func([]byte)) error {
	name := filepath.Base(path)
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	r := bufio.NewReaderSize(file, maxEntry+len("\r\n"))
	entries := 0
	for n := 1; ; n++ {
		line, err := r.ReadSlice('\n')
		full := errors.Is(err, bufio.ErrBufferFull)
		if err != nil && !errors.Is(err, io.EOF) && !full {
			return fmt.Errorf("%s, line %d: %w", name, n, err)
		}
		if full || len(bytes.TrimRight(line, "\r\n")) > maxEntry {
			return fmt.Errorf("%s, line %d is longer than %d bytes; give one entry a line", name, n, maxEntry)
		}
		if n == 1 {
			line = bytes.TrimPrefix(line, []byte("\ufeff")) // some editors' mark of UTF-8
		}
		entry, wrong := normalise(line, exact)
		if wrong != nil {
			return fmt.Errorf("%s, line %d %w", name, n, wrong)
		}
		if len(entry) > 0 {
			entries++
			f(entry)
		}
		if err != nil { // the end
			break
		}
	}
	if entries == 0 {
		return fmt.Errorf("%s has no entry; give one a line", name)
	}
	return nil
}

// normalise returns the form in which a line is compared: without blanks around
// it, with one space for the blanks between words, letters with accents as one
// character, small letters unless exact. What could look like another entry
// without being it is refused: bytes that are not UTF-8, and characters that don't
// print.
func normalise(line []byte, exact bool) ([]byte, error) {
	if !utf8.Valid(line) {
		return nil, errors.New("is not UTF-8; convert the list")
	}
	entry := norm.NFC.Bytes(bytes.Join(bytes.Fields(line), []byte(" ")))
	for _, c := range string(entry) {
		if c != ' ' && !unicode.IsGraphic(c) {
			return nil, fmt.Errorf("has a character that does not print (U+%04X); give plain text, one entry a line", c)
		}
	}
	if !exact {
		entry = norm.NFC.Bytes(bytes.ToLower(entry))
	}
	return entry, nil
}
