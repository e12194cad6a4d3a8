package qcow2

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// monitor is a QEMU without a machine: only its block layer is used.
type monitor struct {
	t    *testing.T
	conn *os.File
	in   *json.Decoder
	ios  int // commands given to io
}

type message struct {
	Return json.RawMessage
	Error  *struct{ Desc string }
	Event  string
	Data   struct{ Error string }
}

func startQEMU(t *testing.T) *monitor {
	t.Helper()
	bin := os.Getenv("MANAGER_QEMU_BIN_PATH")
	if bin == "" {
		bin = "qemu-system-x86_64"
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	ours, theirs := os.NewFile(uintptr(pair[0]), "ours"), os.NewFile(uintptr(pair[1]), "theirs")
	defer theirs.Close()
	// The test's own context ends before the cleanup that tells QEMU to quit.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 5*time.Minute)
	cmd := exec.CommandContext(ctx, bin, "-machine", "none", "-nodefaults", "-no-user-config", "-display", "none", "-S",
		"-chardev", "socket,id=qmp,fd=3", "-mon", "chardev=qmp,mode=control")
	cmd.ExtraFiles = []*os.File{theirs}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatalf("no QEMU (%v): run make test, which fetches it, or set MANAGER_QEMU_BIN_PATH", err)
	}
	m := &monitor{t: t, conn: ours, in: json.NewDecoder(ours)}
	t.Cleanup(func() {
		defer cancel()
		if err := json.NewEncoder(ours).Encode(map[string]any{"execute": "quit"}); err != nil {
			t.Error(err)
		}
		_, _ = io.Copy(io.Discard, ours)
		ours.Close()
		if err := cmd.Wait(); err != nil {
			t.Errorf("QEMU ended with %v", err)
		}
		// qemu-io writes to standard output, in one piece when QEMU ends.
		for _, bad := range []string{"fail", "error", "rror:"} {
			if strings.Contains(out.String(), bad) {
				t.Error(&out)
			}
		}
		if n := strings.Count(out.String(), " ops;"); n != m.ios {
			t.Errorf("%d of %d reads and writes were done: %s", n, m.ios, &out)
		}
	})
	m.next() // the greeting
	m.do("qmp_capabilities", nil, nil)
	return m
}

func (m *monitor) next() (msg message) {
	m.t.Helper()
	if err := m.in.Decode(&msg); err != nil {
		m.t.Fatalf("QEMU's monitor: %v", err)
	}
	return msg
}

func (m *monitor) do(command string, args, into any) {
	m.t.Helper()
	request := map[string]any{"execute": command}
	if args != nil {
		request["arguments"] = args
	}
	if err := json.NewEncoder(m.conn).Encode(request); err != nil {
		m.t.Fatal(err)
	}
	for {
		msg := m.next()
		switch {
		case msg.Error != nil:
			m.t.Fatalf("%s: %s", command, msg.Error.Desc)
		case msg.Event != "":
			continue
		case into != nil:
			if err := json.Unmarshal(msg.Return, into); err != nil {
				m.t.Fatal(err)
			}
		}
		return
	}
}

// open lets QEMU open a qcow2 file as VMs do, and checks each access against
// the file's own tables.
func (m *monitor) open(node, name string) {
	m.t.Helper()
	m.do("blockdev-add", map[string]any{
		"driver": "qcow2", "node-name": node, "overlap-check": "all",
		"file": map[string]any{"driver": "file", "filename": name},
	}, nil)
}

// io runs one command of qemu-io. What it found out is judged at the end.
func (m *monitor) io(node, format string, args ...any) {
	m.t.Helper()
	m.do("human-monitor-command", map[string]any{"command-line": fmt.Sprintf("qemu-io %s %q", node, fmt.Sprintf(format, args...))}, nil)
	m.ios++
}

type described struct {
	Node  string `json:"node-name"`
	Depth int    `json:"backing_file_depth"`
	Image struct {
		Format      string
		VirtualSize int64  `json:"virtual-size"`
		Backing     string `json:"backing-filename"`
		BackingFmt  string `json:"backing-filename-format"`
	}
}

func (m *monitor) describe(node string) described {
	m.t.Helper()
	var all []described
	m.do("query-named-block-nodes", nil, &all)
	for _, d := range all {
		if d.Node == node {
			return d
		}
	}
	m.t.Fatalf("no node %s among %+v", node, all)
	return described{}
}

// QEMU reads back what was written, byte for byte.
func TestQEMUReadsImages(t *testing.T) {
	content := disk{size: 600*mib + 512, at: []int64{0, 3*clusterSize - 50, 70 * mib, 512 * mib, 600 * mib}}
	dir := t.TempDir()
	m := startQEMU(t)
	m.open("d", file(t, content.image(t)))
	if d := m.describe("d"); d.Image.Format != "qcow2" || d.Image.VirtualSize != content.size || d.Depth != 0 {
		t.Errorf("QEMU says %+v", d)
	}
	raw, err := os.Create(filepath.Join(dir, "raw"))
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	if err := raw.Truncate(content.size); err != nil {
		t.Fatal(err)
	}
	m.do("blockdev-add", map[string]any{"driver": "raw", "node-name": "copy", "file": map[string]any{
		"driver": "file", "filename": raw.Name(), "discard": "unmap"}, "discard": "unmap", "detect-zeroes": "unmap"}, nil)
	if err := json.NewEncoder(m.conn).Encode(map[string]any{"execute": "blockdev-backup", "arguments": map[string]any{
		"job-id": "j", "device": "d", "target": "copy", "sync": "full"}}); err != nil {
		t.Fatal(err)
	}
	for done := false; !done; {
		msg := m.next()
		if msg.Error != nil || msg.Data.Error != "" {
			t.Fatalf("copying: %+v", msg)
		}
		done = msg.Event == "BLOCK_JOB_COMPLETED"
	}
	got, want := make([]byte, mib), make([]byte, mib)
	for at := int64(0); at < content.size; at += mib {
		n := min(mib, content.size-at)
		for r, b := range map[io.ReaderAt][]byte{raw: got, &content: want} {
			if _, err := r.ReadAt(b[:n], at); err != nil && !errors.Is(err, io.EOF) {
				t.Fatal(err)
			}
		}
		if !bytes.Equal(got[:n], want[:n]) {
			t.Fatalf("QEMU reads other bytes than were written in the MiB at %d", at)
		}
	}
}

// Two guests write to overlays on one image at once: each sees its own writes
// only, and the image stays as it was.
func TestQEMUOverlays(t *testing.T) {
	for _, format := range []string{FormatQcow2, FormatRaw} {
		t.Run(format, func(t *testing.T) {
			content := bytes.Repeat([]byte{0x11}, 3*mib)
			if format == FormatQcow2 {
				var b bytes.Buffer
				if err := Write(&b, bytes.NewReader(content), 3*mib); err != nil {
					t.Fatal(err)
				}
				content = b.Bytes()
			}
			dir := t.TempDir()
			// Names that QEMU's options and protocols would stumble over.
			base := filepath.Join(dir, "a base:of, 100%.img")
			if err := os.WriteFile(base, content, 0o444); err != nil {
				t.Fatal(err)
			}
			m := startQEMU(t)
			for _, node := range []string{"one", "two"} {
				name := filepath.Join(dir, node)
				if err := CreateOverlay(name, base, format); err != nil {
					t.Fatal(err)
				}
				m.open(node, name)
				d := m.describe(node)
				if d.Image.VirtualSize != 3*mib || d.Image.Backing != base || d.Image.BackingFmt != format || d.Depth != 1 {
					t.Errorf("QEMU says %+v", d)
				}
			}
			m.io("one", "write -P 0x22 1M 128k")
			m.io("two", "write -P 0x33 1M 64k")
			m.io("one", "read -P 0x11 0 1M")
			m.io("one", "read -P 0x22 1M 128k")
			m.io("two", "read -P 0x33 1M 64k")
			m.io("two", "read -P 0x11 %d 64k", mib+64<<10)
			if now, err := os.ReadFile(base); err != nil || sha256.Sum256(now) != sha256.Sum256(content) {
				t.Errorf("the image below was changed (%v)", err)
			}
		})
	}
}

// An overlay of the largest disk has an L1 table of many clusters.
func TestQEMUOpensTheLargestOverlay(t *testing.T) {
	base := filepath.Join(t.TempDir(), "base")
	if err := os.WriteFile(base, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	const size = 8 << 40 // as large as common file systems let a sparse file be
	if err := os.Truncate(base, size); err != nil {
		t.Fatal(err)
	}
	over := filepath.Join(t.TempDir(), "over")
	if err := CreateOverlay(over, base, FormatRaw); err != nil {
		t.Fatal(err)
	}
	m := startQEMU(t)
	m.open("big", over)
	m.io("big", "write -P 0x44 %d 64k", size-64<<10)
	m.io("big", "read -P 0x44 %d 64k", size-64<<10)
}
