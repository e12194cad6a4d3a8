package build

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"slices"
	"strings"

	"github.com/ultravioletrs/cocos/hal"
	"github.com/ultravioletrs/cocos/hal/cpio"
)

// mountPoints are the empty folders of the initial RAM disk.
var mountPoints = []string{"dev", "etc", "proc", "run", "runtime", "sys", "tmp"}

// rootfs writes the initial RAM disk: the agent as /init, the modules with
// their list, mount points, and the two devices that exist before devtmpfs.
func rootfs(init []byte, modules []module) ([]byte, error) {
	entries := []cpio.Entry{
		{Name: "init", Mode: 0o755, Data: init},
		{Name: "dev/console", Mode: fs.ModeDevice | fs.ModeCharDevice | 0o600, Major: 5, Minor: 1},
		{Name: "dev/null", Mode: fs.ModeDevice | fs.ModeCharDevice | 0o666, Major: 1, Minor: 3},
	}
	dirs := map[string]bool{}
	for _, d := range mountPoints {
		dirs[d] = true
	}
	var list strings.Builder
	for _, m := range modules {
		fmt.Fprintln(&list, m.path)
		entries = append(entries, cpio.Entry{Name: m.path[1:], Mode: 0o644, Data: m.data})
	}
	entries = append(entries, cpio.Entry{Name: hal.ModulesList[1:], Mode: 0o644, Data: []byte(list.String())})
	for _, e := range entries {
		for d := path.Dir(e.Name); d != "."; d = path.Dir(d) {
			dirs[d] = true
		}
	}
	for d := range dirs {
		mode := fs.ModeDir | 0o755
		if d == "tmp" {
			mode = fs.ModeDir | fs.ModeSticky | 0o777
		}
		entries = append(entries, cpio.Entry{Name: d, Mode: mode})
	}
	var out bytes.Buffer
	// The zero header has no name and no time.
	z, err := gzip.NewWriterLevel(&out, gzip.DefaultCompression)
	if err != nil {
		return nil, err
	}
	if err := cpio.Write(z, entries); err != nil {
		return nil, err
	}
	if err := z.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// goSettings are the settings that say where modules and caches are. They are
// the user's; everything else that could change the binary is fixed.
var goSettings = []string{"GOPROXY", "GOSUMDB", "GOPRIVATE", "GONOPROXY", "GONOSUMDB", "GOINSECURE", "GOMODCACHE", "GOCACHE", "GOPATH"}

// buildInit compiles the static program that becomes /init with the toolchain
// that go.mod names, so that every machine makes the same bytes.
func buildInit(ctx context.Context, source, pkg, out string) error {
	env, err := goEnv(ctx, source)
	if err != nil {
		return err
	}
	// gRPC's tracing pages would make /init a fifth larger, and every boot slower.
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false",
		"-tags=grpcnotrace", "-ldflags=-s -w -buildid=", "-o", out, pkg)
	cmd.Dir, cmd.Env = source, env
	if text, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("compiling %s for the guest: %w\n%s", pkg, err, bytes.TrimSpace(text))
	}
	return nil
}

func goEnv(ctx context.Context, source string) ([]string, error) {
	var mod struct{ Toolchain, Go string }
	if err := goJSON(ctx, source, &mod, "mod", "edit", "-json"); err != nil {
		return nil, err
	}
	toolchain := mod.Toolchain
	if toolchain == "" {
		toolchain = "go" + mod.Go
	}
	settings := map[string]string{}
	if err := goJSON(ctx, source, &settings, append([]string{"env", "-json"}, goSettings...)...); err != nil {
		return nil, err
	}
	env := slices.DeleteFunc(os.Environ(), func(v string) bool {
		return strings.HasPrefix(v, "GO") || strings.HasPrefix(v, "CGO_")
	})
	for _, k := range goSettings {
		env = append(env, k+"="+settings[k])
	}
	return append(env, "GOENV=off", "GOTOOLCHAIN="+toolchain, "GOWORK=off", "GOFLAGS=-mod=readonly",
		"CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64", "GOAMD64=v1", "GO111MODULE=on", "GOFIPS140=off"), nil
}

func goJSON(ctx context.Context, dir string, into any, args ...string) error {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = dir
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("running go %s: %w: %s", strings.Join(args, " "), err, bytes.TrimSpace(stderr.Bytes()))
	}
	if err := json.Unmarshal(out, into); err != nil {
		return fmt.Errorf("reading the answer of go %s: %w", strings.Join(args, " "), err)
	}
	return nil
}
