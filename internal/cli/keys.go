package cli

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/ultravioletrs/cocos/internal/bytesize"
	"github.com/ultravioletrs/cocos/keys"
)

const (
	privateExt = ".pem"
	publicExt  = ".pub.pem"
	// maxKeyFile is far more than any key takes, in bytes.
	maxKeyFile = 64 << 10
)

// keyInfo is what the CLI says of a key.
type keyInfo struct {
	Type        keys.Kind   `json:"type"`
	Fingerprint string      `json:"fingerprint"`
	PublicKey   keys.Public `json:"public_key"`
	PrivateFile string      `json:"private_file,omitempty"`
	PublicFile  string      `json:"public_file,omitempty"`
}

func infoOf(k keys.Public) keyInfo {
	return keyInfo{Type: k.Kind(), Fingerprint: k.Fingerprint(), PublicKey: k}
}

func (a *app) keysCmd() *cobra.Command {
	var (
		kind  string
		out   string
		force bool
	)
	cmd := &cobra.Command{
		Use:   "keys",
		Short: "Make a key pair, and register keys with the service",
		Long: `Make a key pair: PREFIX.pem, the private key, which stays with you (mode 0600),
and PREFIX.pub.pem, the public key, for whoever writes the manifest.

Prints the fingerprint, which is what people compare over another channel.

Its commands show a key, and register and revoke public keys at the service that you
are signed in to.`,
		Example: `  cocos-cli keys --out alice
  cocos-cli keys --out alice --type ecdsa-p384`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if out == "" || filepath.Base(out) == "." || out[len(out)-1] == filepath.Separator {
				return usagef("for example --out alice", "--out %q is not a prefix of file names", out)
			}
			info, err := makeKeys(keys.Kind(kind), out, force)
			if err != nil {
				return err
			}
			if err := a.out.result(info, "%s\n", info.Fingerprint); err != nil {
				return err
			}
			a.out.hint("wrote %s (private: keep it to yourself) and %s (give this one away)", info.PrivateFile, info.PublicFile)
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVar(&kind, "type", string(keys.Ed25519), fmt.Sprintf("`TYPE`, one of %v", keys.Kinds()))
	f.StringVar(&out, "out", "cocos", "`PREFIX` of the two files")
	f.BoolVar(&force, "force", false, "overwrite files that are there")
	complete(cmd, "type", func() []string {
		var s []string
		for _, k := range keys.Kinds() {
			s = append(s, string(k))
		}
		return s
	})
	cmd.AddCommand(a.keysShowCmd(), a.keysRegisterCmd(), a.keysListCmd(), a.keysRevokeCmd())
	return cmd
}

func (a *app) keysShowCmd() *cobra.Command {
	return &cobra.Command{
		Use:     "show FILE",
		Short:   "Print the fingerprint of a private or public key",
		Example: `  cocos-cli keys show alice.pub.pem`,
		Args:    exactly("FILE"),
		RunE: func(_ *cobra.Command, args []string) error {
			pub, err := readPublic(args[0])
			if err != nil {
				return err
			}
			return a.out.result(infoOf(pub), "%s\n", pub.Fingerprint())
		},
	}
}

// makeKeys writes both files or none.
func makeKeys(kind keys.Kind, prefix string, force bool) (keyInfo, error) {
	priv, err := keys.Generate(kind)
	if err != nil {
		return keyInfo{}, usage(err, "see cocos-cli keys --help")
	}
	privPEM, err := priv.PEM()
	if err != nil {
		return keyInfo{}, err
	}
	files := []newFile{
		{name: prefix + privateExt, data: privPEM, mode: 0o600},
		{name: prefix + publicExt, data: priv.Public().PEM(), mode: 0o644},
	}
	if err := writeAll(files, force); err != nil {
		if errors.Is(err, fs.ErrExist) {
			return keyInfo{}, advise(err, "choose another --out, or --force to overwrite both files; a private key that is overwritten is lost")
		}
		return keyInfo{}, advise(err, "choose with --out a folder that you can write to")
	}
	info := infoOf(priv.Public())
	info.PrivateFile, info.PublicFile = files[0].name, files[1].name
	return info, nil
}

type newFile struct {
	name string
	data []byte
	mode fs.FileMode
}

// writeAll writes all files or, after an error, none; those that are there are
// overwritten only with force.
func writeAll(files []newFile, force bool) (err error) {
	if !force {
		for _, f := range files {
			if _, err := os.Lstat(f.name); err == nil {
				return &fs.PathError{Op: "writing", Path: f.name, Err: fs.ErrExist}
			} else if !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
	}
	var made []string
	defer func() {
		if err != nil {
			for _, name := range made {
				os.Remove(name) //nolint:errcheck // err says more
			}
		}
	}()
	if !force {
		// Created under their own names, so that a file that appeared meanwhile
		// is not overwritten either.
		for _, f := range files {
			if err := writeNew(f.name, f.data, f.mode); err != nil {
				if !errors.Is(err, fs.ErrExist) {
					made = append(made, f.name)
				}
				return err
			}
			made = append(made, f.name)
		}
		return nil
	}
	for _, f := range files {
		tmp := f.name + ".new"
		os.Remove(tmp) //nolint:errcheck // writeNew reports one that stays
		made = append(made, tmp)
		if err := writeNew(tmp, f.data, f.mode); err != nil {
			return err
		}
	}
	for _, f := range files {
		if err := os.Rename(f.name+".new", f.name); err != nil {
			return err
		}
	}
	return nil
}

func writeNew(name string, data []byte, mode fs.FileMode) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	// The umask may have taken bits of a public file; a private one has none.
	return errors.Join(err, f.Chmod(mode), f.Sync(), f.Close())
}

// readSmall reads a file of at most limit bytes.
func readSmall(name string, limit int64) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(b)) > limit {
		return nil, fmt.Errorf("%s is larger than %s", name, bytesize.Round(limit))
	}
	return b, nil
}

// complete gives a flag fixed values for the shell.
func complete(cmd *cobra.Command, flag string, values func() []string) {
	err := cmd.RegisterFlagCompletionFunc(flag, func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return values(), cobra.ShellCompDirectiveNoFileComp
	})
	if err != nil {
		panic(err) // a flag that the command does not have
	}
}
