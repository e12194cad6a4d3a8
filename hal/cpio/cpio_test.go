package cpio

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os/exec"
	"strings"
	"testing"
)

var sample = []Entry{
	{Name: "lib", Mode: fs.ModeDir | 0o755},
	{Name: "init", Mode: 0o755, Data: []byte("hello")},
	{Name: "dev", Mode: fs.ModeDir | 0o755},
	{Name: "dev/console", Mode: fs.ModeDevice | fs.ModeCharDevice | 0o600, Major: 5, Minor: 1},
	{Name: "lib/link", Mode: fs.ModeSymlink | 0o777, Data: []byte("../init")},
	{Name: "tmp", Mode: fs.ModeDir | fs.ModeSticky | 0o777},
}

func write(t *testing.T, entries []Entry) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := Write(&b, entries); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// The expected fields are read back here by hand, as the kernel's own parser
// does: fixed-width hexadecimal columns.
func TestWriteFields(t *testing.T) {
	b := write(t, sample)
	if len(b)%512 != 0 {
		t.Errorf("length %d is no multiple of 512", len(b))
	}
	want := []struct{ name, mode, ino, nlink, size, dev, data string }{
		{"dev", "000041ed", "00000001", "00000002", "00000000", "0000000000000000", ""},
		{"dev/console", "00002180", "00000002", "00000001", "00000000", "0000000500000001", ""},
		{"init", "000081ed", "00000003", "00000001", "00000005", "0000000000000000", "hello"},
		{"lib", "000041ed", "00000004", "00000002", "00000000", "0000000000000000", ""},
		{"lib/link", "0000a1ff", "00000005", "00000001", "00000007", "0000000000000000", "../init"},
		{"tmp", "000043ff", "00000006", "00000002", "00000000", "0000000000000000", ""},
		{"TRAILER!!!", "00000000", "00000000", "00000001", "00000000", "0000000000000000", ""},
	}
	at := 0
	for _, w := range want {
		h := string(b[at : at+110])
		if h[:6] != "070701" || h[6:14] != w.ino || h[14:22] != w.mode || h[22:38] != strings.Repeat("0", 16) ||
			h[38:46] != w.nlink || h[46:54] != "00000000" || h[54:62] != w.size || h[78:94] != w.dev || h[102:110] != "00000000" {
			t.Errorf("%s: header %s", w.name, h)
		}
		name := b[at+110 : at+110+len(w.name)+1]
		if string(name) != w.name+"\x00" {
			t.Fatalf("name %q, want %q", name, w.name)
		}
		at = (at + 110 + len(w.name) + 1 + 3) / 4 * 4
		if got := string(b[at : at+len(w.data)]); got != w.data {
			t.Errorf("%s: data %q, want %q", w.name, got, w.data)
		}
		at = (at + len(w.data) + 3) / 4 * 4
	}
	if rest := bytes.Trim(b[at:], "\x00"); len(rest) > 0 {
		t.Errorf("behind the trailer: %q", rest)
	}
}

func TestWriteIgnoresOrder(t *testing.T) {
	reversed := make([]Entry, 0, len(sample))
	for i := range sample {
		reversed = append(reversed, sample[len(sample)-1-i])
	}
	if !bytes.Equal(write(t, sample), write(t, reversed)) {
		t.Error("the order of the entries shows in the bytes")
	}
}

// TestCpioReadsIt lets the system's own reader judge, where there is one.
func TestCpioReadsIt(t *testing.T) {
	cpio, err := exec.LookPath("cpio")
	if err != nil {
		t.Log("no cpio on this machine; TestWriteFields reads the archive by itself")
		return
	}
	cmd := exec.Command(cpio, "-it", "--quiet")
	cmd.Stdin = bytes.NewReader(write(t, sample))
	out, err := cmd.CombinedOutput()
	if err != nil || string(out) != "dev\ndev/console\ninit\nlib\nlib/link\ntmp\n" {
		t.Errorf("cpio -it: %v\n%s", err, out)
	}
}

func TestWriteRefuses(t *testing.T) {
	file := func(name string) Entry { return Entry{Name: name, Mode: 0o644} }
	for name, tc := range map[string]struct {
		entries []Entry
		want    string
	}{
		"empty name":       {[]Entry{file("")}, "clean relative path"},
		"dot":              {[]Entry{file(".")}, "clean relative path"},
		"absolute":         {[]Entry{file("/init")}, "clean relative path"},
		"parent":           {[]Entry{file("../init")}, "clean relative path"},
		"unclean":          {[]Entry{file("a//b")}, "clean relative path"},
		"NUL":              {[]Entry{file("a\x00b")}, "NUL"},
		"trailer":          {[]Entry{file("TRAILER!!!")}, "end of an archive"},
		"twice":            {[]Entry{file("a"), file("a")}, "twice"},
		"no folder":        {[]Entry{file("a/b")}, "folder is not in the archive"},
		"file as folder":   {[]Entry{file("a"), file("a/b")}, "folder is not in the archive"},
		"socket":           {[]Entry{{Name: "s", Mode: fs.ModeSocket}}, "not supported"},
		"block device":     {[]Entry{{Name: "b", Mode: fs.ModeDevice}}, "not supported"},
		"folder with data": {[]Entry{{Name: "d", Mode: fs.ModeDir | 0o755, Data: []byte("x")}}, "only files and links"},
	} {
		t.Run(name, func(t *testing.T) {
			err := Write(io.Discard, tc.entries)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want an error with %q", err, tc.want)
			}
		})
	}
}

type full struct{}

func (full) Write([]byte) (int, error) { return 0, errors.New("disk full") }

func TestWriteReportsTheWriter(t *testing.T) {
	if err := Write(full{}, sample); err == nil || !strings.Contains(err.Error(), "disk full") {
		t.Errorf("got %v, want the writer's error", err)
	}
}
