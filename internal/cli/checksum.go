package cli

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/ultravioletrs/cocos/manifest"
)

func (a *app) checksumCmd() *cobra.Command {
	var salt string
	cmd := &cobra.Command{
		Use:   "checksum PATH...",
		Short: "Print the SHA-256 that a manifest names an input by",
		Long: `Print the SHA-256 of files, in the format of sha256sum, and of folders by their
deterministic archive, which is what travels to the agent. With --json also the
size, which a manifest needs too.

With --commit it is a commitment in place of the digest, by which nobody can find out
the input by trying: the SHA-256 of a label, a random salt and the input's SHA-256. The
salt is kept in FILE, for you alone; cocos-cli data and algo need it. A FILE that is
there is used again.`,
		Example: `  cocos-cli checksum algorithm.py iris.csv
  cocos-cli checksum --commit answer.salt answer.csv
  cocos-cli checksum --json images/`,
		Args: atLeastOne("PATH"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if salt != "" && len(args) > 1 {
				return usagef("give one PATH: each input has a salt of its own", "--commit takes one input")
			}
			failed := 0
			for _, path := range args {
				err := a.checksum(cmd, path, salt)
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
	cmd.Flags().StringVar(&salt, "commit", "", "print a commitment, whose salt is in `FILE`, or will be")
	return cmd
}

func (a *app) checksum(cmd *cobra.Command, path, saltFile string) error {
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
	info := struct {
		Path       string              `json:"path"`
		Kind       string              `json:"kind"`
		SHA256     manifest.Digest     `json:"sha256,omitzero"`
		Commitment manifest.Commitment `json:"commitment,omitzero"`
		Size       int64               `json:"size"`
	}{Path: path, Kind: in.kind(), SHA256: in.digest, Size: in.size}
	sum, made := in.digest, false
	if saltFile != "" {
		var salt *manifest.Salt
		if salt, made, err = newSalt(saltFile); err != nil {
			return err
		}
		info.SHA256, info.Commitment = manifest.Digest{}, manifest.Commit(*salt, in.digest)
		sum = manifest.Digest(info.Commitment)
	}
	if a.out.json {
		err = a.out.object(info)
	} else {
		err = a.out.write([]byte(sumLine(sum, path))) // the name as it is, or sha256sum -c finds no file
	}
	switch {
	case err != nil || saltFile == "":
	case made:
		a.out.hint("the salt is in %s: keep it, and keep it to yourself; cocos-cli data needs it (--salt)", saltFile)
	default:
		a.out.hint("with the salt that was in %s", saltFile)
	}
	return err
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
