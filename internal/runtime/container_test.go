package runtime

import (
	"archive/tar"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ultravioletrs/cocos/internal/oci"
	images "github.com/ultravioletrs/cocos/internal/oci/build"
	"github.com/ultravioletrs/cocos/manifest"
)

// anImage has the probe as its entrypoint, and its own user, variables and folder.
func anImage(t *testing.T) images.Image {
	t.Helper()
	b, err := os.ReadFile(probe)
	if err != nil {
		t.Fatal(err)
	}
	private := images.File("srv/private", 0o600, []byte("of its user"))
	private.Uid = 1000
	return images.Image{
		Config: oci.Config{Entrypoint: []string{"probe"}, Cmd: []string{"args", "from", "the image"}, Env: []string{"PATH=/opt/bin", "LANG=de", "COLOUR=blue"}, WorkingDir: "/srv", User: "app"},
		Layers: []images.Layer{{Entries: []images.Entry{
			images.File("opt/bin/probe", 0o755, b), images.File("etc/passwd", 0o644, []byte("app:x:1000:2000::/:\n")), private,
			images.File("work/own", 0o644, []byte("the image's own")), images.File("tmp/hidden", 0o644, nil),
		}}, {Entries: []images.Entry{images.File("opt/setuid", 0o4755, b)}, Compression: "gzip"}},
	}
}

// jobOf is a job of an image, with one dataset.
func jobOf(t *testing.T, img images.Image, args ...string) Job {
	t.Helper()
	entries, err := images.OCI(img)
	if err != nil {
		t.Fatal(err)
	}
	b, err := images.Tar(entries)
	if err != nil {
		t.Fatal(err)
	}
	job := newJob(t, args...)
	if err := os.WriteFile(job.Program, b, 0o600); err != nil {
		t.Fatal(err)
	}
	d, err := oci.Describe(t.Context(), job.Program, "")
	if err != nil {
		t.Fatal(err)
	}
	job.Type, job.Image = manifest.Container, d.Pin
	return job
}

func TestWhatAContainerSeesAtLength(t *testing.T) {
	env := `"COCOS_DATASETS=/work/datasets" "COCOS_FILES=/work/files" "COCOS_RESULTS=/work/results" "COLOUR=blue" "HOME=/tmp" "LANG=de" "PATH=/opt/bin" "TMPDIR=/tmp"`
	tests := []struct {
		name   string
		args   []string
		change func(*images.Image)
		env    map[string]string
		exit   int
		stdout string // exact
		stderr string // a part
	}{
		{name: "entrypoint and command", stdout: `["probe" "args" "from" "the image"]` + "\n"},
		{name: "entrypoint and arguments", args: []string{"args", "mine"}, stdout: `["probe" "args" "mine"]` + "\n"},
		{name: "a command alone", change: func(i *images.Image) { i.Config.Entrypoint, i.Config.Cmd = nil, []string{"/opt/bin/probe", "args"} },
			stdout: `["/opt/bin/probe" "args"]` + "\n"},
		{name: "arguments without an entrypoint", args: []string{"probe", "args", "x"}, change: func(i *images.Image) { i.Config.Entrypoint = nil },
			stdout: `["probe" "args" "x"]` + "\n"},
		{name: "a relative entrypoint", args: []string{"args"}, change: func(i *images.Image) { i.Config.Entrypoint = []string{"../opt/bin/probe"} },
			stdout: `["../opt/bin/probe" "args"]` + "\n"},
		{name: "an entrypoint through a link", args: []string{"args"}, change: func(i *images.Image) {
			i.Config.Entrypoint = []string{"/run"}
			i.Layers[0].Entries = append(i.Layers[0].Entries, images.Link("run", "/opt/bin/probe"))
		}, stdout: `["/run" "args"]` + "\n"},
		{name: "variables", args: []string{"env"}, stdout: "[" + env + "]\n"},
		{name: "the manifest's variables", args: []string{"env"}, env: map[string]string{"COLOUR": "red", "HOME": "/x"},
			stdout: "[" + strings.NewReplacer("blue", "red", "HOME=/tmp", "HOME=/x").Replace(env) + "]\n"},
		{name: "no variables", args: []string{"env"}, change: func(i *images.Image) { i.Config.Env, i.Config.Entrypoint = nil, []string{"/opt/bin/probe"} },
			stdout: `["COCOS_DATASETS=/work/datasets" "COCOS_FILES=/work/files" "COCOS_RESULTS=/work/results" "HOME=/tmp" "LANG=C.UTF-8" "PATH=` + containerPath + `" "TMPDIR=/tmp"]` + "\n"},
		{name: "working folder", args: []string{"cwd"}, stdout: "/srv\n"},
		{name: "no working folder", args: []string{"cwd"}, change: func(i *images.Image) { i.Config.WorkingDir = "" }, stdout: "/\n"},
		{name: "a working folder that is missing", args: []string{"cwd"}, change: func(i *images.Image) { i.Config.WorkingDir = "/new/one" }, stdout: "/new/one\n"},
		{name: "a working folder among its data", args: []string{"cwd"}, change: func(i *images.Image) { i.Config.WorkingDir = "/work/results" }, stdout: "/work/results\n"},
		{name: "a user by name", args: []string{"ids"}, stdout: "1000 1000 2000 2000 " + groupCount() + "\n"},
		{name: "a user by number", args: []string{"ids"}, change: func(i *images.Image) { i.Config.User = "7:8" }, stdout: "7 7 8 8 " + groupCount() + "\n"},
		{name: "root", args: []string{"ids"}, change: func(i *images.Image) { i.Config.User = "" }, stdout: "0 0 0 0 " + groupCount() + "\n"},
		{name: "root of another group", args: []string{"ids"}, change: func(i *images.Image) { i.Config.User = "0:9" }, stdout: "0 0 9 9 " + groupCount() + "\n"},
		{name: "a user of root's group", args: []string{"ids"}, change: func(i *images.Image) { i.Config.User = "9" }, stdout: "9 9 0 0 " + groupCount() + "\n"},
		{name: "its user's files", args: []string{"read", "private"}, stdout: "of its user"},
		{name: "its files beside its data", args: []string{"list", "/work"}, stdout: "datasets\nfiles\nown\nresults\n"},
		{name: "its root", args: []string{"list", "/"}, stdout: "dev\netc\nopt\nproc\nsrv\ntmp\nwork\n"},
		{name: "what it has in /tmp is covered", args: []string{"list", "/tmp"}},
		{name: "its devices", args: []string{"list", "/dev"}, stdout: "fd\nfull\nnull\nrandom\nshm\nstderr\nstdin\nstdout\nurandom\nzero\n"},
		{name: "dataset", args: []string{"read", "/work/datasets/one.csv"}, stdout: "a,b\n1,2\n"},
		{name: "scratch", args: []string{"write", "/tmp/x", "100000"}},
		{name: "shared memory", args: []string{"write", "/dev/shm/x", "100000"}},
		{name: "own processes only", args: []string{"processes"}, stdout: "1\n"},
		{name: "mount points that the image bends", args: []string{"read", "/work/datasets/one.csv"}, change: func(i *images.Image) {
			i.Layers = append(i.Layers, images.Layer{Entries: []images.Entry{
				images.File(".wh.work", 0o644, nil), images.Link("work", "/proc/self"), images.File(".wh.tmp", 0o644, nil), images.Link("tmp", "/etc"),
				images.File("dev", 0o644, nil), images.Link("proc", "../../../..")}})
		}, stdout: "a,b\n1,2\n"},

		{name: "writing to its root", args: []string{"write", "/srv/x", "1"}, exit: 1, stderr: "read-only"},
		{name: "changing its program", args: []string{"write", "/opt/bin/probe", "1"}, exit: 1, stderr: "read-only"},
		{name: "writing to datasets", args: []string{"write", "/work/datasets/x", "1"}, exit: 1, stderr: "read-only"},
		{name: "writing beside its data", args: []string{"write", "/work/x", "1"}, exit: 1, stderr: "read-only"},
		{name: "making devices", args: []string{"write", "/dev/x", "1"}, exit: 1, stderr: "read-only"},
		{name: "vsock", args: []string{"socket", strconv.Itoa(unix.AF_VSOCK)}, exit: 1, stderr: "address family not supported"},
		{name: "network beyond", args: []string{"dial", "10.0.2.2:80"}, exit: 1, stderr: "unreachable"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			img := anImage(t)
			if tt.change != nil {
				tt.change(&img)
			}
			job := jobOf(t, img, tt.args...)
			job.Env = tt.env
			got := mustRun(t, new(Runner), job)
			if got.ExitCode != tt.exit || got.out != tt.stdout || !strings.Contains(got.err, tt.stderr) || tt.stderr == "" && got.err != "" {
				t.Errorf("ended with %d and said %q and %q; want %d, %q, %q", got.ExitCode, got.out, got.err, tt.exit, tt.stdout, tt.stderr)
			}
			if _, err := os.Lstat(filepath.Join(job.Dir, imageDir)); err == nil {
				t.Error("the unpacked image is still there")
			}
		})
	}
}

// Root in an image has no more than anybody, and no way to more.
func TestRootInAnImageAtLength(t *testing.T) {
	for name, tt := range map[string]struct {
		args   []string
		exit   int
		stdout string
		stderr string
	}{
		"capabilities": {args: []string{"status", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp"},
			stdout: "CapInh:\t0000000000000000\nCapPrm:\t0000000000000000\nCapEff:\t0000000000000000\nCapBnd:\t0000000000000000\nCapAmb:\t0000000000000000\nNoNewPrivs:\t1\nSeccomp:\t2\n"},
		"those of a program with its bit": {args: []string{"exec", "/opt/setuid", "status", "CapPrm", "CapEff"},
			stdout: "CapPrm:\t0000000000000000\nCapEff:\t0000000000000000\n"},
		"another user":          {args: []string{"setuid", "1"}, exit: 1, stderr: otherUserError()},
		"user namespaces":       {args: []string{"userns"}, exit: 1, stderr: "not permitted"},
		"forbidding them":       {args: []string{"write", "/proc/sys/user/max_user_namespaces", "1"}, exit: 1, stderr: "read-only"},
		"settings of a network": {args: []string{"write", "/proc/sys/net/ipv4/ip_forward", "1"}, exit: 1, stderr: "read-only"},
		"settings of IPC":       {args: []string{"write", "/proc/sys/kernel/shmmax", "1"}, exit: 1, stderr: "read-only"},
		"the first process":     {args: []string{"kill-first"}, exit: killFirstExit(), stderr: killFirstError()},
		"tracing it":            {args: []string{"trace-first"}, exit: 1, stderr: "not implemented"},
		"its root":              {args: []string{"write", "/x", "1"}, exit: 1, stderr: "read-only"},
		"files of a user":       {args: []string{"read", "/srv/private"}, stdout: "of its user"},
	} {
		t.Run(name, func(t *testing.T) {
			img := anImage(t)
			img.Config.User = "0"
			got := mustRun(t, new(Runner), jobOf(t, img, tt.args...))
			if got.ExitCode != tt.exit || got.out != tt.stdout || !strings.Contains(got.err, tt.stderr) || tt.stderr == "" && got.err != "" {
				t.Errorf("ended with %d and said %q and %q; want %d, %q, %q", got.ExitCode, got.out, got.err, tt.exit, tt.stdout, tt.stderr)
			}
		})
	}
}

// otherUserError: where only one user is mapped there is no other one.
func otherUserError() string {
	if os.Geteuid() == 0 {
		return "not permitted"
	}
	return "invalid argument"
}

func TestResultsOfAContainer(t *testing.T) {
	for _, user := range []string{"", "app"} {
		img := anImage(t)
		img.Config.User = user
		job := jobOf(t, img, "copy", "/work/datasets/one.csv", "/work/results/sub/model.bin")
		got := mustRun(t, new(Runner), job)
		b, err := os.ReadFile(filepath.Join(job.Dir, "results", "sub", "model.bin"))
		if !got.Succeeded() || err != nil || string(b) != "a,b\n1,2\n" {
			t.Errorf("as %q: ended with %d, %s; result %q, %v", user, got.ExitCode, got.err, b, err)
		}
		if info, err := os.Stat(job.Program); err != nil || info.Mode() != 0o600 {
			t.Errorf("the archive: %v, %v", info, err)
		}
	}
}

// The limits hold for a container as for others.
func TestLimitsOfAContainer(t *testing.T) {
	job := jobOf(t, anImage(t), "sleep")
	job.Limits.Seconds = 1
	if got := mustRun(t, new(Runner), job); got.LimitExceeded != LimitSeconds {
		t.Errorf("ended with %d %q", got.ExitCode, got.LimitExceeded)
	}
	job = jobOf(t, anImage(t), "allocate", strconv.Itoa(512<<20))
	job.Limits.MemoryBytes = 256 << 20
	if got := mustRun(t, new(Runner), job); got.Succeeded() {
		t.Errorf("allocated more than the limit: %s", got.out)
	}
}

// Each job is right in all but one thing.
func TestImagesThatCannotRunAtLength(t *testing.T) {
	script := func(body string) images.Entry { return images.File("opt/bin/script", 0o755, []byte(body)) }
	entrypoint := func(e ...string) func(*images.Image) { return func(i *images.Image) { i.Config.Entrypoint = e } }
	with := func(e images.Entry) func(*images.Image) {
		return func(i *images.Image) {
			i.Config.Entrypoint, i.Layers[0].Entries = []string{"/opt/bin/script"}, append(i.Layers[0].Entries, e)
		}
	}
	tests := map[string]struct {
		image func(*images.Image)
		job   func(*Job)
		want  string
	}{
		"another image":          {job: func(j *Job) { j.Image.Config[0] ^= 1 }, want: "pins"},
		"no digest":              {job: func(j *Job) { j.Image.Config = manifest.Digest{} }, want: "pins"},
		"another name":           {job: func(j *Job) { j.Image.Name = "x" }, want: `no image "x"`},
		"unpacked_max":           {job: func(j *Job) { j.Image.UnpackedMax-- }, want: "unpacked_max"},
		"no unpacked_max":        {job: func(j *Job) { j.Image.UnpackedMax = 0 }, want: "unpacked_max"},
		"no archive":             {job: func(j *Job) { os.WriteFile(j.Program, []byte("x"), 0o600) }, want: "image archive"},
		"not on its path":        {image: entrypoint("x"), want: `"x" that it starts is in none of the folders of its PATH "/opt/bin"`},
		"no such program":        {image: entrypoint("/bin/x"), want: `"/bin/x" that it starts is not in it`},
		"a folder":               {image: entrypoint("/opt"), want: "not a file"},
		"nothing to start":       {image: func(i *images.Image) { i.Config.Entrypoint, i.Config.Cmd = nil, nil }, job: func(j *Job) { j.Args = nil }, want: "neither an entrypoint"},
		"an empty name":          {image: entrypoint(""), want: "neither an entrypoint"},
		"not executable":         {image: with(images.File("opt/bin/script", 0o644, []byte("#!/opt/bin/probe"))), want: "not executable (mode 0644)"},
		"no interpreter":         {image: with(script("#!/bin/sh\n")), want: `needs "/bin/sh"`},
		"a relative interpreter": {image: with(script("#!sh\n")), want: "names no interpreter"},
		"for another machine":    {image: with(script(string(anELF(func(b []byte) { b[18] = 183 })))), want: "for another machine"},
		"no loader, by its path": {image: func(i *images.Image) { with(script(string(anELF(func([]byte) {}))))(i); entrypoint("script")(i) }, want: `needs "/lib/ld"`},
		"no loader":              {image: with(script(string(anELF(func([]byte) {})))), want: `needs "/lib/ld"`},
		"neither of the two":     {image: with(script(strings.Repeat("echo ", 40))), want: "not an ELF file"},
		"an unknown user":        {image: func(i *images.Image) { i.Config.User = "nobody" }, want: `"nobody" is not in its /etc/passwd`},
		"an unknown group":       {image: func(i *images.Image) { i.Config.User = "app:nobody" }, want: `"nobody" is not in its /etc/group`},
		"a file to work in":      {image: func(i *images.Image) { i.Config.WorkingDir = "/etc/passwd" }, want: "not a folder"},
		"a link out of it":       {image: func(i *images.Image) { with(images.Link("opt/bin/script", probe))(i) }, want: "is not in it"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			img := anImage(t)
			if tt.image != nil {
				tt.image(&img)
			}
			job := jobOf(t, img, "exit", "0")
			if tt.job != nil {
				tt.job(&job)
			}
			_, err := new(Runner).Run(t.Context(), job)
			if !errors.Is(err, ErrImage) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Run: %v; want %q in it", err, tt.want)
			}
			if _, err := os.Lstat(filepath.Join(job.Dir, imageDir)); err == nil {
				t.Error("the unpacked image is still there")
			}
		})
	}
}

// What can't be known before it starts is said all the same.
func TestContainerThatDoesNotStart(t *testing.T) {
	img := anImage(t)
	img.Config.WorkingDir = "/work/results/none"
	job := jobOf(t, img, "exit", "0")
	if _, err := new(Runner).Run(t.Context(), job); err == nil || !strings.Contains(err.Error(), "/work/results/none") {
		t.Errorf("Run: %v", err)
	}
}

func TestCancelWhileUnpacking(t *testing.T) {
	cause := errors.New("the run was stopped")
	ctx, cancel := context.WithCancelCause(t.Context())
	job := jobOf(t, anImage(t), "exit", "0")
	cancel(cause)
	r := new(Runner)
	s, err := r.setup(job)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.container(ctx, job, &s); !errors.Is(err, cause) || errors.Is(err, ErrImage) {
		t.Errorf("container: %v", err)
	}
}

// A device in an image is left out, and one in its place is not what it opens.
func TestDevicesOfAnImage(t *testing.T) {
	img := anImage(t)
	img.Layers[0].Entries = append(img.Layers[0].Entries, images.Entry{Header: tar.Header{Name: "srv/mem", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 1, Mode: 0o666}})
	got := mustRun(t, new(Runner), jobOf(t, img, "read", "/srv/mem"))
	if got.ExitCode != 1 || !strings.Contains(got.err, "no such file") {
		t.Errorf("ended with %d: %s", got.ExitCode, got.err)
	}
}
