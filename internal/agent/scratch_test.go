package agent_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/erofs/go-erofs"
	"google.golang.org/grpc/codes"

	"github.com/ultravioletrs/cocos/internal/agent"
	"github.com/ultravioletrs/cocos/internal/rpcerr"
	"github.com/ultravioletrs/cocos/internal/runtime"
	"github.com/ultravioletrs/cocos/internal/scratch"
	"github.com/ultravioletrs/cocos/manifest"
)

// scratchDir is a scratch disk whose regions are files; what is mounted is copied.
type scratchDir struct {
	dir  string
	room int64
	// unreadable: no sealed region can be read.
	unreadable bool
	broken     atomic.Bool // no write is taken
	changed    atomic.Bool

	mu   sync.Mutex
	used int64
	held int // regions that were not released
}

func (d *scratchDir) Room() int64 { return d.room }

func (d *scratchDir) Create(bytes int64) (agent.Region, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.used += scratch.Need(bytes); d.used > d.room {
		return nil, syscall.ENOSPC
	}
	f, err := os.CreateTemp(d.dir, "region")
	if err != nil {
		return nil, err
	}
	d.held++
	return &scratchFile{disk: d, File: f, size: bytes}, nil
}

type scratchFile struct {
	disk *scratchDir
	*os.File

	size  int64
	shown []string
}

func (r *scratchFile) Write(b []byte) (int, error) {
	if r.disk.broken.Load() {
		return 0, &fs.PathError{Op: "write", Path: r.Name(), Err: syscall.EIO}
	}
	return r.File.Write(b)
}

func (r *scratchFile) Seal() error {
	if info, err := r.Stat(); err != nil || info.Size() != r.size {
		return errors.New("the region is not complete")
	}
	return nil
}

func (r *scratchFile) Open() (*os.File, error) {
	if r.disk.unreadable {
		return os.OpenFile(r.Name(), os.O_WRONLY, 0) // each read of which is an error
	}
	return os.Open(r.Name())
}

func (r *scratchFile) Mount(dir string) error {
	image, err := erofs.Open(r.File)
	if err != nil {
		return err
	}
	r.shown = append(r.shown, dir)
	return fs.WalkDir(image, ".", func(name string, e fs.DirEntry, err error) error {
		to := filepath.Join(dir, name)
		if err != nil || name == "." {
			return err
		}
		if e.IsDir() {
			return os.Mkdir(to, 0o755)
		}
		b, err := fs.ReadFile(image, name)
		if err != nil {
			return err
		}
		return os.WriteFile(to, b, 0o444)
	})
}

func (r *scratchFile) Bind(file, at string) error {
	b, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	if err := os.Chmod(at, 0o644); err != nil {
		return err
	}
	return os.WriteFile(at, b, 0o444)
}

func (r *scratchFile) Changed() (bool, error) { return r.disk.changed.Load(), nil }

func (r *scratchFile) Release() error {
	for _, dir := range r.shown {
		entries, err := os.ReadDir(dir)
		if err != nil {
			return err
		}
		for _, e := range entries {
			if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	r.disk.mu.Lock()
	defer r.disk.mu.Unlock()
	r.disk.held--
	r.disk.used -= scratch.Need(r.size)
	return errors.Join(r.Close(), os.Remove(r.Name()))
}

// onScratch gives a manifest a disk of the least size, and an agent that disk.
func onScratch(t *testing.T, m *manifest.Manifest) (*scratchDir, option) {
	m.ScratchBytes = m.ScratchNeed()
	d := &scratchDir{dir: t.TempDir(), room: m.ScratchBytes}
	return d, func(c *agent.Config) { c.Scratch = d }
}

func TestInputsOnScratch(t *testing.T) {
	m := basic(t)
	disk, option := onScratch(t, &m)
	var found map[string]string
	e := start(t, m, option, withRunner(func(ctx context.Context, job runtime.Job) (runtime.Outcome, error) {
		found = map[string]string{}
		err := filepath.WalkDir(filepath.Join(job.Dir, "datasets"), func(name string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			b, err := os.ReadFile(name)
			rel, _ := filepath.Rel(job.Dir, name)
			found[rel] = string(b)
			return err
		})
		return runtime.Outcome{}, err
	}))
	c := e.as(everybody().data, manifest.DatasetProvider)
	wrong := bytes.Clone(fileData)
	wrong[len(wrong)-1]++
	_, err := e.upload(c, dataRef("file.bin"), wrong, 0)
	refused(t, err, codes.InvalidArgument, rpcerr.DigestMismatch)
	if disk.held != 0 {
		t.Errorf("after a refused upload %d regions are held", disk.held)
	}
	e.uploadAll()
	e.wait(agent.ResultReady)
	want := map[string]string{
		"datasets/file.bin": string(fileData), "datasets/folder/sub/x.csv": "1,2\n", "datasets/folder/y.csv": "3,4\n",
	}
	if len(found) != len(want) {
		t.Errorf("the algorithm found %d files", len(found))
	}
	for name, content := range want {
		if found[name] != content {
			t.Errorf("%s has %.20q", name, found[name])
		}
	}
	if disk.held != 0 {
		t.Errorf("after the run %d regions are held", disk.held)
	}
}

// What a changed disk made of a run is never a result, whatever the algorithm says.
func TestChangedScratch(t *testing.T) {
	m := basic(t)
	disk, option := onScratch(t, &m)
	e := start(t, m, option, withRunner(func(ctx context.Context, job runtime.Job) (runtime.Outcome, error) {
		disk.changed.Store(true)
		return succeed(ctx, job)
	}))
	e.uploadAll()
	e.wait(agent.Failed)
	events := e.journal.EventsAfter(0)
	if got := events[len(events)-1].Attributes["reason"]; got != string(agent.StorageChanged) {
		t.Errorf("the run failed for the reason %q", got)
	}
	_, b, err := e.takeResult(e.as(everybody().consumer, manifest.Consumer), 0)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(b, []byte("storage-changed")) || bytes.Contains(b, []byte("secret model")) {
		t.Errorf("the archive says %q", b)
	}
	if disk.held != 0 {
		t.Errorf("%d regions are held", disk.held)
	}
}

// An archive that can't be read back is not its provider's fault.
func TestChangedArchive(t *testing.T) {
	m := basic(t)
	disk, option := onScratch(t, &m)
	e := start(t, m, option)
	disk.unreadable = true
	disk.changed.Store(true)
	_, err := e.upload(e.as(everybody().data2, manifest.DatasetProvider), dataRef("folder"), folderData(t), 0)
	refused(t, err, codes.DataLoss, rpcerr.StorageChanged)
	if left := e.left(); disk.held != 0 || len(left) != 0 {
		t.Errorf("left are %d regions and %q", disk.held, left)
	}
}

// A disk that takes no more, as when the host's own is full, may take it later.
func TestScratchFails(t *testing.T) {
	m := basic(t)
	disk, option := onScratch(t, &m)
	e := start(t, m, option)
	c := e.as(everybody().data, manifest.DatasetProvider)
	disk.broken.Store(true)
	_, err := e.upload(c, dataRef("file.bin"), fileData, 0)
	refused(t, err, codes.Internal, rpcerr.StorageFailed)
	if left := e.left(); disk.held != 0 || len(left) != 0 {
		t.Errorf("left are %d regions and %q", disk.held, left)
	}
	disk.broken.Store(false)
	if st, err := e.upload(c, dataRef("file.bin"), fileData, 0); err != nil || !st.GetComplete() {
		t.Errorf("the second time: %v, %v", st, err)
	}
}

func TestScratchIsFull(t *testing.T) {
	m := basic(t)
	disk, option := onScratch(t, &m)
	e := start(t, m, option)
	disk.room = 1
	_, err := e.upload(e.as(everybody().data, manifest.DatasetProvider), dataRef("file.bin"), fileData, 0)
	refused(t, err, codes.ResourceExhausted, rpcerr.StorageFull)
	if d, _ := rpcerr.DetailOf(err); !strings.Contains(d.Hint, "scratch_bytes") {
		t.Errorf("the hint is %q", d.Hint)
	}
}

func TestRoomOnScratch(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(m *manifest.Manifest)
		room   func(m *manifest.Manifest) int64
		want   string
	}{
		"fits":      {func(*manifest.Manifest) {}, func(m *manifest.Manifest) int64 { return m.ScratchBytes }, ""},
		"too small": {func(*manifest.Manifest) {}, func(m *manifest.Manifest) int64 { return 1 << 20 }, "raise /scratch_bytes"},
		"program in memory": {
			func(m *manifest.Manifest) { m.Algorithm.Size = 1 << 50 },
			func(m *manifest.Manifest) int64 { return 1 << 50 }, "give the VM more memory",
		},
	} {
		m := basic(t)
		m.ScratchBytes = 1 << 30
		tt.change(&m)
		if m.ScratchBytes < m.ScratchNeed() {
			m.ScratchBytes = m.ScratchNeed()
		}
		err := agent.CheckRoom(&m, 1<<30, &scratchDir{room: tt.room(&m)})
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v; want %q", name, err, tt.want)
		}
	}
}

// archived is an archive of entries with these names, in this order; folders end
// in a slash.
func archived(t *testing.T, names ...string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, name := range names {
		h := &tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644, ModTime: time.Unix(0, 0), Format: tar.FormatPAX}
		if strings.HasSuffix(name, "/") {
			h.Typeflag, h.Mode = tar.TypeDir, 0o755
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// A file and a folder of one name are the archive's fault, wherever it is unpacked.
func TestFileAndFolderOfOneName(t *testing.T) {
	data := archived(t, "a", "a-b", "a/")
	m := basic(t)
	m.Datasets[1].SHA256, m.Datasets[1].Size = manifest.Sum(data), int64(len(data))
	_, scratched := onScratch(t, &m)
	inMemory := m
	inMemory.ScratchBytes = 0
	for _, e := range []*env{start(t, m, scratched), start(t, inMemory)} {
		_, err := e.upload(e.as(everybody().data2, manifest.DatasetProvider), dataRef("folder"), data, 0)
		refused(t, err, codes.InvalidArgument, rpcerr.ArchiveRefused)
	}
}

// Names are in memory while an image is written, and so are paths of folders.
func TestNamesOfAFolderAreBounded(t *testing.T) {
	var deep, wide []string
	path := strings.Repeat(strings.Repeat("x", 200)+"/", 16)
	for i := range 16 {
		deep = append(deep, path[:201*(i+1)])
	}
	for i := range 5200 {
		deep = append(deep, fmt.Sprintf("%s%04d/", path, i))
	}
	for i := range 80_000 {
		wide = append(wide, fmt.Sprintf("%s%05d", strings.Repeat("x", 210), i))
	}
	for name, names := range map[string][]string{"deep": deep, "wide": wide} {
		if err := agent.PlanFolder(bytes.NewReader(archived(t, names[:len(names)/2]...)), 0); err != nil {
			t.Errorf("%s, half of them: %v", name, err)
		}
		if err := agent.PlanFolder(bytes.NewReader(archived(t, names...)), 0); err == nil || !strings.Contains(err.Error(), "names of its files and folders") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
