// Command archive builds the image of container-stats, and writes it as an OCI image
// layout in a tar archive. It needs Go and nothing else, and the same source gives
// the same bytes.
package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/ultravioletrs/cocos/internal/oci"
	"github.com/ultravioletrs/cocos/internal/oci/build"
)

const source = "examples/container-stats"

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage, in the source tree: go run ./examples/container-stats/archive FILE")
		os.Exit(2)
	}
	if err := run(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "archive:", err)
		os.Exit(1)
	}
}

func run(out string) error {
	dir, err := os.MkdirTemp("", "container-stats-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	program := filepath.Join(dir, "stats")
	cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", program, "./"+source)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64")
	cmd.Stderr = os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("building the program: %w", err)
	}
	b, err := os.ReadFile(program)
	if err != nil {
		return err
	}
	plausible, err := os.ReadFile(filepath.Join(source, "plausible.csv"))
	if err != nil {
		return err
	}
	// The same as the Dockerfile beside the source.
	entries, err := build.OCI(build.Image{
		Names:  []string{"container-stats:1"},
		Config: oci.Config{Entrypoint: []string{"/app/stats"}, Cmd: []string{"-min-rows=20"}, WorkingDir: "/app", User: "1000:1000"},
		Layers: []build.Layer{{Compression: "gzip", Entries: []build.Entry{
			build.Folder("app"), build.File("app/stats", 0o755, b), build.File("app/plausible.csv", 0o644, plausible),
		}}},
	})
	if err != nil {
		return err
	}
	archive, err := build.Tar(entries)
	if err != nil {
		return err
	}
	return os.WriteFile(out, archive, 0o644)
}
