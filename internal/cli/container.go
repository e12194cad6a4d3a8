package cli

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/ultravioletrs/cocos/internal/bytesize"
	"github.com/ultravioletrs/cocos/internal/oci"
	"github.com/ultravioletrs/cocos/manifest"
)

func (a *app) containerCmd() *cobra.Command {
	var name string
	cmd := &cobra.Command{
		Use:   "container FILE",
		Short: "Say what a manifest names a container image by, and how it starts",
		Long: `Verify the container image in an archive, say how it starts, and print what a manifest
has in /algorithm/image. The archive is one that docker save, podman save or skopeo copy
writes, or a tar of an OCI image layout.`,
		Example: `  docker save stats:1.0 -o stats.tar
  cocos-cli container stats.tar
  cocos-cli container --json several.tar --image stats:1.0`,
		Args: exactly("FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			d, err := describeImage(cmd, args[0], name)
			if err != nil {
				return err
			}
			return a.out.result(struct {
				Image      manifest.Image `json:"image"`
				Entrypoint []string       `json:"entrypoint"`
				Command    []string       `json:"command"`
				Env        []string       `json:"env"`
				WorkingDir string         `json:"working_dir"`
				User       string         `json:"user"`
			}{d.Pin, d.Config.Entrypoint, d.Config.Cmd, d.Config.Env, d.Config.WorkingDir, d.Config.User}, "%s", containerText(d))
		},
	}
	imageNameFlag(cmd, &name)
	return cmd
}

func imageNameFlag(cmd *cobra.Command, name *string) {
	cmd.Flags().StringVar(name, "image", "", "which image or tag of the archive, by its `NAME` (default: the only one)")
}

// describeImage verifies all of an image.
func describeImage(cmd *cobra.Command, file, name string) (oci.Description, error) {
	d, err := oci.Describe(cmd.Context(), file, name)
	if err != nil {
		return d, advise(fmt.Errorf("looking at %s: %w", file, err),
			"make the archive with docker save, podman save or skopeo copy; where it has several images or tags, name one with --image")
	}
	return d, nil
}

func containerText(d oci.Description) string {
	var r rows
	if d.Pin.Name != "" {
		r.add("image", "%s", packed(d.Pin.Name))
	}
	r.add("config", "%s", d.Pin.Config)
	r.add("unpacked", "%s, unpacked_max %d", bytesize.Round(d.Pin.UnpackedMax), d.Pin.UnpackedMax)
	if len(d.Config.Entrypoint) > 0 {
		r.add("entrypoint", "%q", d.Config.Entrypoint)
	}
	if len(d.Config.Cmd) > 0 {
		r.add("command", "%q", d.Config.Cmd)
	}
	for _, v := range d.Config.Env {
		r.add("variable", "%q", v)
	}
	if d.Config.WorkingDir != "" {
		r.add("works in", "%q", d.Config.WorkingDir)
	}
	if d.Config.User != "" {
		r.add("user", "%q", d.Config.User)
	}
	return r.String()
}
