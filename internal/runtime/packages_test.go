package runtime

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ultravioletrs/cocos/hal/progress"
	"github.com/ultravioletrs/cocos/manifest"
	"github.com/ultravioletrs/cocos/test/parts"
)

// pythonRoot is the guest image's Python disk, unpacked once; it goes with probe.
var pythonRoot = sync.OnceValues(func() (string, error) {
	dir := filepath.Join(filepath.Dir(probe), "python")
	var said bytes.Buffer
	err := parts.UnpackPython(context.Background(), filepath.Join("..", ".."), dir, progress.New(&said, false, time.Now))
	return dir, err
})

// extension is a compiled module of Python's own under another name: to pip it is
// a stranger's.
const extension = "usr/lib/python3.13/lib-dynload/_queue.cpython-313-x86_64-linux-gnu.so"

// platform is the tag of what the disk runs.
const platform = "cp313-cp313-manylinux_2_17_x86_64"

func pure(name, version string, requires ...string) parts.Wheel {
	return parts.Wheel{Name: name, Version: version, Tag: "py3-none-any", Requires: requires,
		Files: map[string][]byte{name + "/__init__.py": fmt.Appendf(nil, "version = %q\n", version)}}
}

func compiled(t *testing.T, tag string) parts.Wheel {
	t.Helper()
	root, err := pythonRoot()
	if err != nil {
		t.Fatal(err)
	}
	library, err := os.ReadFile(filepath.Join(root, extension))
	if err != nil {
		t.Fatal(err)
	}
	return parts.Wheel{Name: "swift", Version: "2.0", Tag: tag, Files: map[string][]byte{
		"swift/__init__.py":                 []byte("from swift._queue import SimpleQueue\n"),
		"swift/" + filepath.Base(extension): library,
	}}
}

// packagesJob is a job of a script with these requirements and wheels.
func packagesJob(t *testing.T, script, requirements string, wheels ...parts.Wheel) (*Runner, Job) {
	t.Helper()
	root, err := pythonRoot()
	if err != nil {
		t.Fatal(err)
	}
	job := newJob(t)
	job.Type, job.Python = manifest.Python, manifest.Packages{Requirements: "requirements.txt", Wheels: "wheels"}
	dir := filepath.Join(job.Dir, "files", "wheels")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, w := range wheels {
		if err := w.Write(dir); err != nil {
			t.Fatal(err)
		}
	}
	for name, text := range map[string]string{job.Program: script, filepath.Join(job.Dir, "files", "requirements.txt"): requirements} {
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return &Runner{Root: root}, job
}

const usesAll = `
import importlib.util, os, sys
import base, swift, joblib, numpy
q = swift.SimpleQueue()
q.put(41)
print(base.version, q.get() + 1, joblib.version)
for m in base, swift._queue, joblib:
    print(m.__file__.startswith("/tmp/packages/lib/python3.13/site-packages/"))
print(numpy.__file__.startswith("/usr/lib/python3/dist-packages/"), importlib.util.find_spec("pip"))
print(os.environ["COCOS_FILES"], sorted(os.listdir(os.environ["COCOS_FILES"])), os.environ["MODE"])
`

// TestPackages: pure and compiled, required by another, in place of the disk's, and
// the disk's own.
func TestPackages(t *testing.T) {
	base := pure("base", "1.5", "swift>=2", "numpy>=2")
	r, job := packagesJob(t, usesAll, "--index-url https://192.0.2.1/simple\nbase>=1,<2\njoblib==99.0\n",
		base, compiled(t, platform), pure("joblib", "99.0"), pure("other", "1.0"), pure("base", "2.5"))
	// What the manifest sets is the script's alone.
	job.Env = map[string]string{"MODE": "x", "PIP_NO_DEPS": "1", "PIP_CONFIG_FILE": "/work/files/none", "PYTHONHOME": ""}
	got := mustRun(t, r, job)
	want := "1.5 42 99.0\nTrue\nTrue\nTrue\nTrue None\n/work/files ['requirements.txt', 'wheels'] x\n"
	if !got.Succeeded() || got.PackagesFailed || got.out != want {
		t.Errorf("%+v; it printed\n%s\nand pip\n%s", got.Outcome, got.out, got.err)
	}
	if !strings.Contains(got.err, "Successfully installed base-1.5 joblib-99.0 swift-2.0") {
		t.Errorf("pip said\n%s", got.err)
	}
}

// TestPackagesWithHashes: with a hash in them requirements are what the file says to
// the byte, or nothing.
func TestPackagesWithHashes(t *testing.T) {
	w := pure("base", "1.5")
	dir := t.TempDir()
	if err := w.Write(dir); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(dir, w.FileName()))
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(b)
	r, job := packagesJob(t, "import base\n", fmt.Sprintf("base==1.5 --hash=sha256:%x\n", sum), w)
	if got := mustRun(t, r, job); !got.Succeeded() {
		t.Errorf("%+v\n%s", got.Outcome, got.err)
	}
	sum[0] ^= 1
	r, job = packagesJob(t, "print('ran')\n", fmt.Sprintf("base==1.5 --hash=sha256:%x\n", sum), w)
	if got := mustRun(t, r, job); !got.PackagesFailed || got.ExitCode == 0 || got.out != "" || !strings.Contains(got.err, "DO NOT MATCH THE HASHES") {
		t.Errorf("%+v\n%s%s", got.Outcome, got.out, got.err)
	}
}

// Each is right in all but one thing; the script is not started.
func TestPackagesThatAreNotInstalled(t *testing.T) {
	for name, tt := range map[string]struct {
		requirements string
		wheels       []parts.Wheel
		change       func(t *testing.T, job *Job)
		says         string
	}{
		"not among the wheels":   {"base\nabsent\n", nil, nil, "No matching distribution found for absent"},
		"another version":        {"base>=2\n", nil, nil, "No matching distribution found for base>=2"},
		"a requirement's":        {"base\nmore\n", []parts.Wheel{pure("more", "1.0", "absent")}, nil, "No matching distribution found for absent"},
		"a conflict":             {"base\nmore\n", []parts.Wheel{pure("more", "1.0", "base<1")}, nil, "conflicting dependencies"},
		"another platform":       {"base\nswift\n", []parts.Wheel{compiled(t, "cp313-cp313-manylinux_2_17_aarch64")}, nil, "No matching distribution found for swift"},
		"another Python":         {"base\nswift\n", []parts.Wheel{compiled(t, "cp312-cp312-manylinux_2_17_x86_64")}, nil, "No matching distribution found for swift"},
		"a newer C library":      {"base\nswift\n", []parts.Wheel{compiled(t, "cp313-cp313-manylinux_2_99_x86_64")}, nil, "No matching distribution found for swift"},
		"from an address":        {"base\nmore @ http://192.0.2.1/more-1.0-py3-none-any.whl\n", nil, nil, "192.0.2.1"},
		"from a version control": {"base\ngit+https://192.0.2.1/more.git\n", nil, nil, "git"},
		"from another index":     {"--extra-index-url http://192.0.2.1/\nbase\nabsent\n", nil, nil, "No matching distribution found for absent"},
		"no requirements at all": {"base ===== 1\n", nil, nil, "Invalid requirement"},
		"a source archive": {"base\nmore\n", nil, func(t *testing.T, job *Job) {
			if err := os.WriteFile(filepath.Join(job.Dir, "files", "wheels", "more-1.0.tar.gz"), []byte("x"), 0o644); err != nil {
				t.Fatal(err)
			}
		}, "No matching distribution found for more"},
		"a broken wheel": {"base\n", nil, func(t *testing.T, job *Job) {
			if err := os.Truncate(filepath.Join(job.Dir, "files", "wheels", pure("base", "1.5").FileName()), 100); err != nil {
				t.Fatal(err)
			}
		}, "is invalid"},
		"no such file":   {"base\n", nil, func(_ *testing.T, job *Job) { job.Python.Requirements = "other.txt" }, "other.txt"},
		"no such folder": {"base\n", nil, func(_ *testing.T, job *Job) { job.Python.Wheels = "other" }, "No matching distribution found for base"},
	} {
		t.Run(name, func(t *testing.T) {
			r, job := packagesJob(t, "print('ran')\n", tt.requirements, append(tt.wheels, pure("base", "1.5"))...)
			if tt.change != nil {
				tt.change(t, &job)
			}
			got := mustRun(t, r, job)
			if got.Succeeded() || !got.PackagesFailed || got.LimitExceeded != "" || got.out != "" || !strings.Contains(got.err, tt.says) {
				t.Errorf("%+v; want %q\nout: %s\nerr: %s", got.Outcome, tt.says, got.out, got.err)
			}
		})
	}
}

// TestPackagesAreBounded: they take the algorithm's own room.
func TestPackagesAreBounded(t *testing.T) {
	large := pure("large", "1.0")
	large.Files["large/data.bin"] = make([]byte, 8<<20)
	r, job := packagesJob(t, "print('ran')\n", "large\n", large)
	r.ScratchBytes = 4 << 20
	got := mustRun(t, r, job)
	if got.Succeeded() || got.LimitExceeded != LimitScratch || got.out != "" {
		t.Errorf("%+v\n%s%s", got.Outcome, got.out, got.err)
	}
	// What the script does with its own is its own.
	r, job = packagesJob(t, "import base, sys\nsys.exit(3)\n", "base\n", pure("base", "1.5"))
	if got := mustRun(t, r, job); got.ExitCode != 3 || got.PackagesFailed {
		t.Errorf("%+v\n%s", got.Outcome, got.err)
	}
}

// Each job is right in all but one thing, and not run.
func TestPackagesThatAreRefused(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(t *testing.T, r *Runner, job *Job)
		says   string
	}{
		"of a binary":     {func(t *testing.T, _ *Runner, job *Job) { job.Type, job.Program = manifest.Binary, copyFile(t, probe) }, `"binary", not "python"`},
		"without wheels":  {func(_ *testing.T, _ *Runner, job *Job) { job.Python.Wheels = "" }, "both"},
		"no requirements": {func(_ *testing.T, _ *Runner, job *Job) { job.Python.Requirements = "" }, "both"},
		"no pip": {func(t *testing.T, r *Runner, _ *Job) {
			r.Root = t.TempDir()
			if err := os.MkdirAll(filepath.Join(r.Root, "usr/bin"), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(r.Root, pythonPath), nil, 0o755); err != nil {
				t.Fatal(err)
			}
		}, "has no pip"},
	} {
		t.Run(name, func(t *testing.T) {
			r, job := packagesJob(t, "", "base\n", pure("base", "1.5"))
			tt.change(t, r, &job)
			if o, err := r.Run(t.Context(), job); err == nil || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("%+v, %v; want %q", o, err, tt.says)
			}
		})
	}
}
