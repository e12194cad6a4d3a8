package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"filippo.io/age"
	"github.com/spf13/cobra"

	"github.com/ultravioletrs/cocos/manifest"
)

// maxRecipients bounds a file of recipients, in bytes.
const maxRecipients = 1 << 20

// encrypting is a command line of encrypt.
type encrypting struct {
	to          []string
	newIdentity string
	out         string
	force       bool
}

// encrypted is what a script, and the writer of a manifest, wants to know.
type encrypted struct {
	Path          string          `json:"path"`
	Kind          string          `json:"kind"`
	SHA256        manifest.Digest `json:"sha256"`
	Size          int64           `json:"size"`
	File          string          `json:"file"`
	EncryptedSize int64           `json:"encrypted_size"`
	Recipient     string          `json:"recipient,omitempty"`
	Identity      string          `json:"identity_file,omitempty"`
}

func (a *app) encryptCmd() *cobra.Command {
	var o encrypting
	cmd := &cobra.Command{
		Use:   "encrypt PATH",
		Short: "Encrypt a dataset for a place that the agent takes it from",
		Long: `Encrypt a file, or a folder as its deterministic archive, with age
(age-encryption.org/v1), for a web server, an S3-compatible store or a registry from which
the agent takes it. Print digest and size of what was encrypted: a manifest names the dataset
by these.

--new-identity makes a key pair (X25519 with ML-KEM-768, which a quantum computer does not
break either) and keeps it in FILE, for you alone: it goes to the agent with cocos-cli data
provide, or through your key broker. --to encrypts to recipients that are there; those of both kinds
can't be mixed.`,
		Example: `  cocos-cli encrypt scans/ --new-identity scans.key --out scans.age
  cocos-cli encrypt --json iris.csv --to age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p`,
		Args: exactly("PATH"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if (o.newIdentity == "") == (len(o.to) == 0) {
				return usagef("for example --new-identity scans.key", "give either --to or --new-identity")
			}
			in, err := openInput(args[0])
			if err != nil {
				return fmt.Errorf("encrypting: %w", err)
			}
			if o.out == "" {
				o.out = strings.TrimRight(args[0], string(filepath.Separator)) + ".age"
			}
			done, err := a.encrypt(cmd.Context(), &in, &o)
			if err != nil {
				return err
			}
			var r rows
			r.add("sha256", "%s", done.SHA256)
			r.add("size", "%d", done.Size)
			r.add("encrypted", "%s", packed(done.File))
			if done.Recipient != "" {
				r.add("recipient", "%s", done.Recipient)
			}
			if err := a.out.result(done, "%s", r.String()); err != nil {
				return err
			}
			if done.Identity != "" {
				a.out.hint("the identity is in %s: keep it, and keep it to yourself; without it nobody reads %s", done.Identity, done.File)
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.StringArrayVar(&o.to, "to", nil, "a `RECIPIENT` (age1…), or a file of them (repeatable)")
	f.StringVar(&o.newIdentity, "new-identity", "", "make an identity, keep it in `FILE`, and encrypt to it")
	f.StringVar(&o.out, "out", "", "the encrypted `FILE` (default: PATH.age)")
	f.BoolVar(&o.force, "force", false, "overwrite the encrypted file if it is there")
	return cmd
}

// recipients of the flags; identity is what --new-identity has made, and nil without.
func (o *encrypting) recipients() (to []age.Recipient, identity *age.HybridIdentity, err error) {
	for _, text := range o.to {
		what := text
		if !strings.HasPrefix(text, "age1") {
			b, err := readSmall(text, maxRecipients)
			if err != nil {
				return nil, nil, advise(fmt.Errorf("reading recipients: %w", err), "--to takes age1…, or a file with such lines")
			}
			text = string(b)
		}
		list, err := age.ParseRecipients(strings.NewReader(text))
		if err != nil {
			return nil, nil, usagef("recipients are age1… (of cocos-cli encrypt, age-keygen or age-keygen -pq)", "--to %.100s has no recipient that can be used", what)
		}
		to = append(to, list...)
	}
	if o.newIdentity == "" {
		return to, nil, nil
	}
	identity, err = age.GenerateHybridIdentity()
	if err != nil {
		return nil, nil, fmt.Errorf("making an identity: %w", err)
	}
	return []age.Recipient{identity.Recipient()}, identity, nil
}

func sameFile(a, b string) bool {
	one, err := os.Stat(a)
	if err != nil {
		return false
	}
	other, err := os.Stat(b)
	return err == nil && os.SameFile(one, other)
}

func (a *app) encrypt(ctx context.Context, in *input, o *encrypting) (done encrypted, err error) {
	to, identity, err := o.recipients()
	if err != nil {
		return done, err
	}
	if _, err := os.Lstat(o.out); err == nil && !o.force {
		return done, advise(fmt.Errorf("%s: %w", o.out, fs.ErrExist), "choose another --out, or add --force")
	}
	done = encrypted{Path: in.path, Kind: in.kind(), File: o.out}
	if identity != nil {
		done.Recipient, done.Identity = identity.Recipient().String(), o.newIdentity
		text := "# public key: " + done.Recipient + "\n" + identity.String() + "\n"
		if err := writeNew(o.newIdentity, []byte(text), 0o600); err != nil {
			return done, advise(fmt.Errorf("writing the identity: %w", err), "to encrypt to an identity that is there, give its recipient with --to")
		}
		defer func() {
			if err != nil { // of no use without what it opens
				err = errors.Join(err, os.Remove(o.newIdentity))
			}
		}()
		if sameFile(o.newIdentity, o.out) {
			return done, usagef("give each a place of its own", "--new-identity and --out are one file, %s", o.out)
		}
	}
	f, err := os.CreateTemp(filepath.Dir(o.out), "."+filepath.Base(o.out)+"-*")
	if err != nil {
		return done, fmt.Errorf("writing %s: %w", o.out, err)
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(f.Name())
		}
	}()
	w, err := age.Encrypt(f, to...)
	if err != nil {
		return done, usagef("encrypt to recipients of one kind", "these recipients can't be used together: %v", err)
	}
	if err := a.seal(ctx, in, w); err != nil {
		return done, err
	}
	if done.EncryptedSize, err = f.Seek(0, io.SeekCurrent); err != nil {
		return done, err
	}
	done.SHA256, done.Size = in.digest, in.size
	if err = errors.Join(f.Sync(), f.Close()); err == nil {
		err = os.Rename(f.Name(), o.out)
	}
	if err != nil {
		return done, fmt.Errorf("writing %s: %w", o.out, err)
	}
	return done, nil
}

// seal writes in to w, which it closes, and sets in's size and digest.
func (a *app) seal(ctx context.Context, in *input, w io.WriteCloser) error {
	show := a.out.progress("encrypting "+in.path, in.size)
	defer show.stop()
	h := newHasher(ctx, show)
	writing := &tailWriter{w: w} // remembers its error
	err := in.copyTo(io.MultiWriter(h, writing))
	n, digest, hashErr := h.finish()
	switch {
	case hashErr != nil:
		return hashErr
	case writing.err != nil:
		return fmt.Errorf("writing what is encrypted: %w", writing.err)
	case err != nil:
		return fmt.Errorf("reading %s: %w", in.path, err)
	}
	in.size, in.digest = n, digest
	return w.Close()
}
