package agent_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"

	"github.com/ultravioletrs/cocos/internal/agent"
	"github.com/ultravioletrs/cocos/internal/oci"
	"github.com/ultravioletrs/cocos/internal/oci/build"
	"github.com/ultravioletrs/cocos/internal/rpcerr"
	"github.com/ultravioletrs/cocos/internal/runtime"
	"github.com/ultravioletrs/cocos/manifest"
)

// containerOf is basic with an archive of these images as its algorithm.
func containerOf(t testing.TB, images ...build.Image) (m manifest.Manifest, archive []byte) {
	t.Helper()
	entries, err := build.Docker(images...)
	if err != nil {
		t.Fatal(err)
	}
	if archive, err = build.Tar(entries); err != nil {
		t.Fatal(err)
	}
	parts, err := images[0].Parts()
	if err != nil {
		t.Fatal(err)
	}
	m = basic(t)
	a := &m.Algorithm
	a.Type, a.SHA256, a.Size = manifest.Container, manifest.Sum(archive), int64(len(archive))
	a.Image = manifest.Image{Config: manifest.Sum(parts.Config), UnpackedMax: 1 << 20}
	return m, archive
}

func TestContainerIsRun(t *testing.T) {
	m, archive := containerOf(t, build.Image{Names: []string{"stats:1"}, Config: oci.Config{Cmd: []string{"/run"}}})
	got := make(chan runtime.Job, 1)
	e := start(t, m, withRunner(func(ctx context.Context, job runtime.Job) (runtime.Outcome, error) {
		got <- job
		return runtime.Outcome{}, fmt.Errorf("%w: %w", runtime.ErrImage, errors.New("its secret program is not in it"))
	}))
	p := everybody()
	if st, err := e.upload(e.as(p.algo, manifest.AlgorithmProvider), algoRef(), archive, 0); err != nil || !st.GetComplete() {
		t.Fatalf("%v, %v", st, err)
	}
	if _, err := e.upload(e.as(p.data, manifest.DatasetProvider), dataRef("file.bin"), fileData, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := e.upload(e.as(p.data2, manifest.DatasetProvider), dataRef("folder"), folderData(t), 0); err != nil {
		t.Fatal(err)
	}
	if job := <-got; job.Type != manifest.Container || job.Image != m.Algorithm.Image || filepath.Base(job.Program) != "program" {
		t.Errorf("job %+v", job)
	}
	// A bad image is the algorithm's doing; consumers alone read why.
	e.wait(agent.Failed)
	_, b, err := e.takeResult(e.as(p.consumer, manifest.Consumer), 0)
	if err != nil || !strings.Contains(string(b), "the image can't be run: its secret program is not in it") {
		t.Errorf("the result: %v", err)
	}
	nothingLeaks(t, e)
}

// Each manifest is right in all but one field.
func TestContainersThatAreRefused(t *testing.T) {
	img := build.Image{Names: []string{"stats:1"}, Config: oci.Config{Cmd: []string{"/run"}}}
	other := build.Image{Names: []string{"other:1"}, Config: oci.Config{Cmd: []string{"/other"}}}
	for name, tt := range map[string]struct {
		images []build.Image
		change func(m *manifest.Manifest, archive *[]byte)
		want   string
	}{
		"another config":   {[]build.Image{img}, func(m *manifest.Manifest, _ *[]byte) { m.Algorithm.Image.Config[0] ^= 1 }, "pins"},
		"another name":     {[]build.Image{img}, func(m *manifest.Manifest, _ *[]byte) { m.Algorithm.Image.Name = "stats:2" }, `no image "stats:2"`},
		"two and no name":  {[]build.Image{img, other}, func(*manifest.Manifest, *[]byte) {}, `"stats:1", "other:1"; name one`},
		"the other's name": {[]build.Image{img, other}, func(m *manifest.Manifest, _ *[]byte) { m.Algorithm.Image.Name = "other:1" }, "pins"},
		"no archive": {[]build.Image{img}, func(m *manifest.Manifest, archive *[]byte) {
			*archive = []byte("#!/usr/bin/env python3\n")
			m.Algorithm.SHA256, m.Algorithm.Size = manifest.Sum(*archive), int64(len(*archive))
		}, "no tar archive"},
	} {
		t.Run(name, func(t *testing.T) {
			m, archive := containerOf(t, tt.images...)
			tt.change(&m, &archive)
			e := start(t, m)
			c := e.as(everybody().algo, manifest.AlgorithmProvider)
			_, err := e.upload(c, algoRef(), archive, 0)
			refused(t, err, codes.InvalidArgument, rpcerr.ArchiveRefused)
			if !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%v; want %q in it", err, tt.want)
			}
			if left := e.left(); !slices.Equal(left, nil) || e.held(c, algoRef()) != 0 {
				t.Errorf("left behind: %q", left)
			}
		})
	}
	m, archive := containerOf(t, img, other)
	m.Algorithm.Image.Name = "stats:1"
	e := start(t, m)
	if _, err := e.upload(e.as(everybody().algo, manifest.AlgorithmProvider), algoRef(), archive, 0); err != nil {
		t.Errorf("with the name as it should be: %v", err)
	}
}
