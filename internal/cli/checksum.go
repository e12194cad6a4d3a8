package cli

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/ultravioletrs/cocos/manifest"
)

func (a *app) checksumCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "checksum PATH...",
		Short: "Print the SHA-256 that a manifest names an input by",
		Long: `Print the SHA-256 of files, in the format of sha256sum, and of folders by their
deterministic archive, which is what travels to the agent. With --json also the
size, which a manifest needs too.`,
		Example: `  cocos-cli checksum algorithm.py iris.csv
  cocos-cli checksum --json images/`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return exactly("PATH")(cmd, args)
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			failed := 0
			for _, path := range args {
				err := a.checksum(cmd, path)
				if err := cmd.Context().Err(); err != nil {
					return err
				}
				if err != nil && len(args) == 1 {
					return err
				}
				if err != nil {
					a.out.problem(err)
					failed++
				}
			}
			if failed > 0 {
				return fmt.Errorf("%d of %d checksums failed", failed, len(args))
			}
			return nil
		},
	}
}

func (a *app) checksum(cmd *cobra.Command, path string) error {
	in, err := openInput(path)
	if err != nil {
		return fmt.Errorf("computing a checksum: %w", err)
	}
	p := a.out.progress(path, in.size)
	err = in.sum(cmd.Context(), p)
	p.stop()
	if err != nil {
		return err
	}
	if !a.out.json {
		return a.out.write([]byte(sumLine(in.digest, path))) // the name as it is, or sha256sum -c finds no file
	}
	return a.out.object(struct {
		Path   string          `json:"path"`
		Kind   string          `json:"kind"`
		SHA256 manifest.Digest `json:"sha256"`
		Size   int64           `json:"size"`
	}{path, in.kind(), in.digest, in.size})
}

// sumLine is the line that sha256sum prints: a name with a line break or a
// backslash is escaped, and the line then begins with a backslash.
func sumLine(d manifest.Digest, name string) string {
	escaped := strings.NewReplacer(`\`, `\\`, "\n", `\n`, "\r", `\r`).Replace(name)
	mark := ""
	if escaped != name {
		mark = `\`
	}
	return mark + d.String() + "  " + escaped + "\n"
}
