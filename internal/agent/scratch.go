package agent

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/ultravioletrs/cocos/internal/archive"
	"github.com/ultravioletrs/cocos/internal/erofs"
	"github.com/ultravioletrs/cocos/internal/scratch"
	"github.com/ultravioletrs/cocos/manifest"
)

// Scratch is a disk for inputs that memory has no room for, whose host can neither
// read nor change them (package scratch).
type Scratch interface {
	// Room is the disk's size in bytes.
	Room() int64
	// Create makes a region of so many bytes; ENOSPC: there is no room.
	Create(bytes int64) (Region, error)
}

// Region is a part of a Scratch, as scratch.Region: written once, sealed, read.
type Region interface {
	io.Writer
	Seal() error
	Open() (*os.File, error)
	Mount(dir string) error
	Bind(file, at string) error
	Changed() (bool, error)
	Release() error
}

// errChanged says that the disk gave back other bytes than were written to it.
var errChanged = errors.New("the scratch disk, which is the host's, gave back other bytes than were written to it")

// onScratch tells whether an input goes to the scratch disk where there is one:
// datasets, what lies beside a program, and the archive of a container.
func onScratch(m *manifest.Manifest, ref inputRef) bool {
	return ref.kind != algorithmInput || m.Algorithm.Type == manifest.Container
}

// onDisk tells it of this agent's inputs.
func (a *Agent) onDisk(in *input) bool {
	return a.cfg.Scratch != nil && onScratch(&a.cfg.Manifest.Manifest, in.ref)
}

const (
	imageFile = "input" // the one file of an image that holds a file or an archive
	// maxNames bounds the names of a folder's entries and the paths of its folders,
	// which are in memory while its image is written, in bytes.
	maxNames   = 16 << 20
	copyBuffer = 256 << 10
)

// scratchSink is a region of the scratch disk: an image with one file, which becomes
// the input, or from which a second image is made that has the folder.
type scratchSink struct {
	*erofs.Writer // of region

	disk              Scratch
	region            Region // nil once it is in its place
	keep              func(Region)
	target, image     string
	size, unpackedMax int64
	imageSize         int64
	check             func(file string) error
}

// newScratchSink needs the agent's mutex.
func (a *Agent) newScratchSink(in *input) (sink, error) {
	a.attempts++
	s := &scratchSink{
		disk: a.cfg.Scratch, keep: a.keep, target: a.target(in),
		// Of its own for each attempt: what could not be unmounted is in nobody's way.
		image: filepath.Join(a.dirs.images(), fmt.Sprintf("%s.%d", in.fileName(), a.attempts)),
		size:  in.size, unpackedMax: in.unpackedMax, check: a.check(in),
	}
	var plan erofs.Plan
	if err := plan.File(imageFile, 0o444, in.size); err != nil {
		return nil, err
	}
	var err error
	s.region, s.Writer, err = s.begin(&plan)
	if err != nil {
		return nil, err
	}
	s.imageSize, err = plan.Size()
	return s, err
}

// begin makes a region for an image and writes what comes before the content.
func (s *scratchSink) begin(plan *erofs.Plan) (Region, *erofs.Writer, error) {
	size, err := plan.Size()
	if err != nil {
		return nil, nil, err
	}
	r, err := s.disk.Create(size)
	if err != nil {
		return nil, nil, err
	}
	w, err := plan.Write(r)
	if err != nil {
		return nil, nil, errors.Join(err, r.Release())
	}
	return r, w, nil
}

func (s *scratchSink) place() error {
	if err := s.Close(); err != nil {
		return err
	}
	if err := s.region.Seal(); err != nil {
		return err
	}
	err := s.show()
	if err == nil {
		return nil
	}
	// What the disk changed is not the fault of what was uploaded.
	if changed, _ := s.region.Changed(); changed {
		return errChanged
	}
	return err
}

func (s *scratchSink) show() error {
	if s.unpackedMax > 0 {
		return s.unpack()
	}
	if err := os.Mkdir(s.image, 0o700); err != nil {
		return err
	}
	if err := s.region.Mount(s.image); err != nil {
		return err
	}
	file := filepath.Join(s.image, imageFile)
	if err := s.check(file); err != nil {
		return err
	}
	if err := os.WriteFile(s.target, nil, 0o444); err != nil {
		return err
	}
	if err := s.region.Bind(file, s.target); err != nil {
		return errors.Join(err, os.Remove(s.target))
	}
	s.keep(s.region)
	s.region = nil
	return nil
}

// unpack makes a second image of the archive that the region has. The archive is
// gone through twice, and its content read once.
func (s *scratchSink) unpack() (err error) {
	f, err := s.region.Open()
	if err != nil {
		return err
	}
	defer f.Close()
	content := (s.size + erofs.BlockSize - 1) / erofs.BlockSize * erofs.BlockSize
	archived := io.NewSectionReader(f, s.imageSize-content, s.size)
	plan, err := planFolder(archived, s.unpackedMax)
	if err != nil {
		return err
	}
	folder, w, err := s.begin(plan)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, folder.Release(), ignoreMissing(os.Remove(s.target)))
		}
	}()
	if _, err := archived.Seek(0, io.SeekStart); err != nil {
		return err
	}
	buf := make([]byte, copyBuffer)
	err = archive.Walk(archived, unpackLimits(s.unpackedMax), func(e archive.Entry, content io.Reader) error {
		if e.Folder {
			return nil
		}
		_, err := io.CopyBuffer(w, content, buf)
		return err
	})
	if err == nil {
		err = w.Close()
	}
	if err == nil {
		err = folder.Seal()
	}
	if err == nil {
		err = makeFolder(s.target, 0o755)
	}
	if err == nil {
		err = folder.Mount(s.target)
	}
	if err != nil {
		return err
	}
	s.keep(folder)
	return nil
}

// planFolder plans the image of what is in an archive.
func planFolder(archived io.Reader, unpackedMax int64) (*erofs.Plan, error) {
	plan, names := new(erofs.Plan), 0
	err := archive.Walk(archived, unpackLimits(unpackedMax), func(e archive.Entry, _ io.Reader) error {
		names += len(filepath.Base(e.Name))
		if e.Folder {
			names += len(e.Name)
		}
		if names > maxNames {
			return fmt.Errorf("the names of its files and folders have more than %d bytes", maxNames)
		}
		if e.Folder {
			return plan.Folder(e.Name)
		}
		return plan.File(e.Name, e.Mode, e.Size)
	})
	if err == nil {
		_, err = plan.Size() // finds a file and a folder of one name
	}
	return plan, unpackError(err)
}

func (s *scratchSink) release() error {
	if s.region == nil {
		return nil
	}
	err := errors.Join(s.region.Release(), ignoreMissing(os.Remove(s.image)))
	s.region = nil
	return err
}

// keep remembers a region that is in its place.
func (a *Agent) keep(r Region) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.regions = append(a.regions, r)
}

// checkRegions returns errChanged if an input that the algorithm read from the
// scratch disk was not what had been written there.
func (a *Agent) checkRegions() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, r := range a.regions {
		if changed, err := r.Changed(); err != nil {
			return fmt.Errorf("asking whether the scratch disk was changed: %w", err)
		} else if changed {
			return errChanged
		}
	}
	return nil
}

// releaseRegions takes the inputs of the scratch disk out of their places, when no
// algorithm runs any more.
func (a *Agent) releaseRegions() {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, r := range a.regions {
		if err := r.Release(); err != nil {
			a.cfg.Log.Error("letting go of a part of the scratch disk", "error", err.Error())
		}
	}
	a.regions = nil
}

var _ Region = (*scratch.Region)(nil)
