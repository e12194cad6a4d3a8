package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	computationsv1 "github.com/ultravioletrs/cocos/api/computations/v1"
	"github.com/ultravioletrs/cocos/internal/bytesize"
	"github.com/ultravioletrs/cocos/manifest"
)

func (a *app) assetsAddCmd() *cobra.Command {
	var (
		q               computationsv1.CreateAssetRequest
		workspace, salt string
		beside          fileFlags
		from            sourceFlags
	)
	cmd := &cobra.Command{
		Use:   "add PATH --kind KIND",
		Short: "Describe a file or folder of yours; it stays with you",
		Long: `Describe an algorithm or a dataset of yours. Digest and size are computed here, as
cocos-cli checksum does, and these are sent, with name and description. The file
never is.

A dataset may be a folder, which will be uploaded as its archive. The type of an
algorithm is found from its file, or said with --type. A container is an archive that
docker save, podman save or skopeo copy writes; what its image is is looked up here.

Beside an algorithm there may be files and folders: --file. For a script in Python,
--requirements and --wheels name the requirements.txt and the folder of wheels from
which its packages are installed, and are such files themselves. Each is called as its
PATH ends, or as NAME says.

With --source the agent itself fetches a dataset, and nothing is uploaded: from
https://…, s3://BUCKET/KEY at --endpoint, or oci://HOST/REPOSITORY@sha256:…. PATH is
the dataset as it is before --encryption. What the flags say stands in the manifest,
which every party reads: no password, no key and no signed link belongs there. What is
secret goes to the VM alone, from your key broker (--broker) or by your own hand.

With --commit the service, and whoever sees the manifest, gets a commitment in place of
the digest, as cocos-cli checksum --commit makes it; the salt in FILE stays here. The
files beside an algorithm then have commitments, too, each with its salt in PATH.salt.`,
		Example: `  cocos-cli assets add lin_reg.py --kind algorithm
  cocos-cli assets add train.py --kind algorithm --requirements requirements.txt --wheels wheels/
  cocos-cli assets add photos/ --kind dataset --description "Harbour at dawn"
  cocos-cli assets add scans.tar --kind dataset --source s3://hospital/scans.age \
    --endpoint https://s3.hospital.example --encryption age`,
		Args: exactly("PATH"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if q.Kind != kindAlgorithm && q.Kind != kindDataset {
				if q.Kind == "" {
					return usagef("say --kind algorithm or --kind dataset", "--kind is missing")
				}
				return usagef("use algorithm or dataset", "--kind %q is not known", q.Kind)
			}
			in, err := openInput(args[0])
			if err != nil {
				return fmt.Errorf("computing the checksum: %w", err)
			}
			if err := from.describe(&q); err != nil {
				return err
			}
			if err := a.describe(cmd, &in, &q); err != nil {
				return err
			}
			paths, err := a.describeFiles(cmd, &beside, &q)
			if err != nil {
				return err
			}
			content := manifest.Content{SHA256: in.digest}
			var salts []string
			if salt != "" { // written last: nothing is left of what is refused before
				if salts, err = commitFiles(&q, paths); err != nil {
					return err
				}
				s, _, err := newSalt(salt)
				if err != nil {
					return err
				}
				content = manifest.Content{Commitment: manifest.Commit(*s, in.digest)}
				q.Sha256, q.Commitment = nil, content.Commitment[:]
			}
			return a.withService(cmd, func(ctx context.Context, s *service) error {
				w, err := s.workspace(ctx, workspace)
				if err != nil {
					return err
				}
				q.WorkspaceId = w.ID
				r, err := s.assets.CreateAsset(ctx, &q)
				if err != nil {
					return s.explain("describing "+args[0], err)
				}
				info := infoOfAsset(r.GetAsset())
				if err := a.out.result(info, "%s\n", info.ID); err != nil {
					return err
				}
				a.out.hint("%s, %s, %s: described to the service; the file stays here", clean(q.Name), bytesize.Round(q.Size), content)
				if salt != "" {
					a.out.hint("the salt is in %s: keep it, and keep it to yourself; cocos-cli data and algo need it (--salt)", salt)
				}
				if len(salts) > 0 {
					a.out.hint("those of its files are in %s", strings.Join(salts, ", "))
				}
				if servers := info.Source.Servers(); len(servers) > 0 {
					a.out.hint("the agent will connect to %s", strings.Join(servers, ", "))
				}
				if info.Source.InClear() {
					a.out.hint("over plain http, not encrypted: the host and everyone on the way read it (--encryption age)")
				}
				return nil
			})
		},
	}
	workspaceFlag(cmd, &workspace)
	f := cmd.Flags()
	f.StringVar(&q.Kind, "kind", "", "`KIND`: algorithm or dataset")
	f.StringVar(&q.Name, "name", "", "what lists call it (default: the file's name)")
	f.StringVar(&q.Description, "description", "", "what it is, for people")
	f.StringVar(&q.Type, "type", "", "`TYPE` of an algorithm: binary, python, wasm or container (default: found from the file)")
	imageNameFlag(cmd, &q.ImageName)
	beside.add(f)
	from.add(f)
	f.StringVar(&salt, "commit", "", "describe it by a commitment, whose salt is in `FILE`, or will be")
	sizeFlag(f, &q.UnpackedMax, "unpacked-max", "of a folder: the most that comes out of its archive, a `SIZE` such as 2GiB (default: the archive's size)")
	complete(cmd, "encryption", encryptionNames)
	complete(cmd, "kind", func() []string { return []string{kindAlgorithm, kindDataset} })
	complete(cmd, "type", func() []string {
		var s []string
		for _, t := range manifest.AlgorithmTypes() {
			s = append(s, string(t))
		}
		return s
	})
	return cmd
}

// describe computes what is told of an input.
func (a *app) describe(cmd *cobra.Command, in *input, q *computationsv1.CreateAssetRequest) error {
	switch {
	case q.Kind == kindAlgorithm && in.folder:
		return usagef("name the file itself", "an algorithm is one file, and %s is a folder", in.path)
	case q.Kind == kindDataset && q.Type != "":
		return usagef("leave it out", "--type is of algorithms only")
	case q.UnpackedMax != 0 && !in.folder:
		return usagef("leave it out", "--unpacked-max is of folders only")
	}
	if q.Kind == kindAlgorithm && q.Type == "" {
		var err error
		if q.Type, err = algorithmType(in.path); err != nil {
			return err
		}
	}
	switch {
	case q.Type == string(manifest.Container):
		d, err := describeImage(cmd, in.path, q.ImageName)
		if err != nil {
			return err
		}
		q.ImageConfig, q.UnpackedMax = d.Pin.Config[:], d.Pin.UnpackedMax
	case q.ImageName != "":
		return usagef("leave it out", "--image is of containers only")
	}
	if q.Name == "" {
		whole, err := filepath.Abs(in.path) // for "." and the like
		if err != nil {
			return err
		}
		q.Name = filepath.Base(whole)
	}
	p := a.out.progress(in.path, in.size)
	err := in.sum(cmd.Context(), p)
	p.stop()
	if err != nil {
		return err
	}
	q.Sha256, q.Size = in.digest[:], in.size
	if in.folder && q.UnpackedMax == 0 {
		q.UnpackedMax = in.size
	}
	return nil
}

// algorithmType looks at the beginning of a file.
func algorithmType(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	head := make([]byte, 512)
	n, err := io.ReadFull(f, head)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
		return "", err
	}
	line, _, _ := bytes.Cut(head[:n], []byte("\n"))
	switch {
	case bytes.HasPrefix(head[:n], []byte("\x7fELF")):
		return string(manifest.Binary), nil
	case bytes.HasPrefix(head[:n], []byte("\x00asm")):
		return string(manifest.Wasm), nil
	case strings.HasSuffix(path, ".py"), bytes.HasPrefix(line, []byte("#!")) && bytes.Contains(line, []byte("python")):
		return string(manifest.Python), nil
	case n == len(head) && string(head[257:262]) == "ustar":
		return string(manifest.Container), nil
	}
	return "", usagef("say --type binary, --type python, --type wasm or --type container", "--type is missing, and %s looks like none of them", path)
}
