package cli

import (
	"bytes"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/ultravioletrs/cocos/keys"
	"github.com/ultravioletrs/cocos/manifest"
)

// maxContactName in characters.
const maxContactName = 64

var (
	// contactPattern has no room for what looks like something else in a list.
	contactPattern     = regexp.MustCompile(`^[\pL\pN][\pL\pM\pN ._@+-]*$`)
	fingerprintPattern = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)
)

// Words that stand in the place of a contact's name.
const (
	nameUnknown = "UNKNOWN"
	nameYou     = "you"
)

// contact is a key that this person knows to be somebody's, from elsewhere than
// the service that hands out manifests.
type contact struct {
	Name        string    `json:"name"`
	Fingerprint string    `json:"fingerprint"`
	Added       time.Time `json:"added"`
}

// contacts is the address book.
type contacts struct {
	Version  int       `json:"version"`
	Contacts []contact `json:"contacts"`
}

func (c *contacts) version() *int { return &c.Version }

func (c *contacts) check() error {
	for i, k := range c.Contacts {
		at := fmt.Sprintf("/contacts/%d", i)
		if err := checkContactName(k.Name); err != nil {
			return fmt.Errorf("%s/name %w", at, err)
		}
		if err := checkFingerprint(k.Fingerprint); err != nil {
			return fmt.Errorf("%s/fingerprint %w", at, err)
		}
		if j := slices.IndexFunc(c.Contacts[:i], k.sameName); j >= 0 {
			return fmt.Errorf("%s/name is that of /contacts/%d, too", at, j)
		}
		if j := slices.IndexFunc(c.Contacts[:i], k.sameKey); j >= 0 {
			return fmt.Errorf("%s/fingerprint is that of /contacts/%d, too", at, j)
		}
	}
	return nil
}

// Names that differ in case alone would be taken for one.
func (k contact) sameName(o contact) bool { return strings.EqualFold(k.Name, o.Name) }
func (k contact) sameKey(o contact) bool  { return k.Fingerprint == o.Fingerprint }

// nameOf returns whose key it is, or "".
func (c *contacts) nameOf(k keys.Public) string {
	i := slices.IndexFunc(c.Contacts, contact{Fingerprint: k.Fingerprint()}.sameKey)
	if i < 0 {
		return ""
	}
	return c.Contacts[i].Name
}

func checkContactName(s string) error {
	switch {
	case utf8.RuneCountInString(s) > maxContactName:
		return fmt.Errorf("has %d characters; at most %d are allowed", utf8.RuneCountInString(s), maxContactName)
	case !contactPattern.MatchString(s) || strings.HasSuffix(s, " "):
		return fmt.Errorf("is %q; use letters, digits, spaces and ._@+-, and begin with a letter or digit", s)
	case strings.EqualFold(s, nameUnknown), strings.EqualFold(s, nameYou):
		return fmt.Errorf("is %q, which means something else where names are shown", s)
	}
	return nil
}

func checkFingerprint(s string) error {
	if !fingerprintPattern.MatchString(s) {
		return fmt.Errorf("is %q; expected sha256: and 64 lower-case hexadecimal digits, as cocos-cli keys show prints it", s)
	}
	return nil
}

func (a *app) contactsCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "contacts",
		Short: "Keep the address book of keys that you have confirmed",
		Long: `Keep the address book: whose key is whose, as you know it from the people
themselves. cocos-cli manifest approve signs only what names these keys and your own.
It is the file contacts.json in $COCOS_HOME, else in $XDG_CONFIG_HOME/cocos, else in
~/.config/cocos.`,
	}
	group(cmd, a.contactsAddCmd(), a.contactsListCmd(), a.contactsRemoveCmd())
	return cmd
}

func (a *app) contactsAddCmd() *cobra.Command {
	var (
		keyFile, fingerprint string
		again                bool
	)
	cmd := &cobra.Command{
		Use:   "add NAME",
		Short: "Note whose key it is",
		Long: `Note that a key is NAME's, after you have compared its fingerprint over another
channel than the one it came by: NAME reads out what cocos-cli keys show prints
there, on the telephone for example.`,
		Example: `  cocos-cli contacts add bob --key bob.pub.pem
  cocos-cli contacts add carol --fingerprint sha256:…`,
		Args: exactly("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if (keyFile == "") == (fingerprint == "") {
				return usagef("cocos-cli keys show FILE prints the fingerprint of a key", "give either --key or --fingerprint")
			}
			if err := checkContactName(args[0]); err != nil {
				return usage(fmt.Errorf("NAME %w", err), seeHelp(cmd))
			}
			if keyFile != "" {
				k, err := readPublic(keyFile)
				if err != nil {
					return err
				}
				fingerprint = k.Fingerprint()
			}
			if err := checkFingerprint(fingerprint); err != nil {
				return usage(fmt.Errorf("--fingerprint %w", err), "copy it whole; a part of it can be imitated")
			}
			c := contact{Name: args[0], Fingerprint: fingerprint, Added: a.out.now().UTC().Truncate(time.Second)}
			if err := a.addContact(c, again); err != nil {
				return err
			}
			if err := a.out.result(c, "%s\n", c.Fingerprint); err != nil {
				return err
			}
			a.out.hint("noted as the key of %[1]s. If %[1]s has not read this fingerprint to you over another channel, such as\nthe telephone, do that now; if it differs: cocos-cli contacts remove %[2]q", c.Name, c.Name)
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVar(&keyFile, "key", "", "their public key, a `FILE`")
	f.StringVar(&fingerprint, "fingerprint", "", "or its fingerprint, `sha256:HEX`")
	f.BoolVar(&again, "replace", false, "replace the key that the name has, or the name that the key has")
	return cmd
}

// addContact puts c into the address book; what it replaces only if again is set.
func (a *app) addContact(c contact, again bool) error {
	var book contacts
	return a.updateHome(contactsFile, &book, func() error {
		for _, k := range book.Contacts {
			switch {
			case again, k.sameName(c) && k.sameKey(c):
			case k.sameName(c):
				return &problem{reason: reasonContact, err: fmt.Errorf("%s has another key in the address book: %s", k.Name, k.Fingerprint),
					hint: "ask them why it changed, over another channel than the one it came by; then give --replace"}
			case k.sameKey(c):
				return &problem{reason: reasonContact, err: fmt.Errorf("this is the key of %s in the address book", k.Name),
					hint: "one key is one person's: give --replace if the name was wrong"}
			}
		}
		book.Contacts = slices.DeleteFunc(book.Contacts, func(k contact) bool { return k.sameName(c) || k.sameKey(c) })
		book.Contacts = append(book.Contacts, c)
		slices.SortFunc(book.Contacts, func(a, b contact) int { return strings.Compare(a.Name, b.Name) })
		return nil
	})
}

func (a *app) contactsListCmd() *cobra.Command {
	return &cobra.Command{
		Use:     "list",
		Short:   "Print the address book",
		Example: `  cocos-cli contacts list`,
		Args:    exactly(),
		RunE: func(*cobra.Command, []string) error {
			book := contacts{Contacts: []contact{}}
			if err := a.readHome(contactsFile, &book); err != nil {
				return err
			}
			var b strings.Builder
			for _, c := range book.Contacts {
				fmt.Fprintf(&b, "%s  %s\n", c.Fingerprint, c.Name)
			}
			if err := a.out.result(map[string][]contact{"contacts": book.Contacts}, "%s", b.String()); err != nil {
				return err
			}
			if len(book.Contacts) == 0 {
				a.out.hint("nobody yet: cocos-cli contacts add NAME --key FILE")
			}
			return nil
		},
	}
}

func (a *app) contactsRemoveCmd() *cobra.Command {
	return &cobra.Command{
		Use:     "remove NAME",
		Short:   "Strike a name out",
		Example: `  cocos-cli contacts remove bob`,
		Args:    exactly("NAME"),
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			var book contacts
			if err := a.readHome(contactsFile, &book); err != nil {
				return nil, cobra.ShellCompDirectiveError
			}
			var names []string
			for _, c := range book.Contacts {
				names = append(names, c.Name)
			}
			return names, cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(_ *cobra.Command, args []string) error {
			var (
				book contacts
				gone contact
			)
			err := a.updateHome(contactsFile, &book, func() error {
				i := slices.IndexFunc(book.Contacts, contact{Name: args[0]}.sameName)
				if i < 0 {
					return advise(fmt.Errorf("the address book has no %q", args[0]), "cocos-cli contacts list shows who is in it")
				}
				gone = book.Contacts[i]
				book.Contacts = slices.Delete(book.Contacts, i, i+1)
				return nil
			})
			if err != nil {
				return err
			}
			if err := a.out.result(gone, "%s\n", gone.Fingerprint); err != nil {
				return err
			}
			a.out.hint("no longer the key of %s: a manifest that names it can't be approved", gone.Name)
			return nil
		},
	}
}

// readPublic reads the public key of a file with either half of a pair.
func readPublic(name string) (keys.Public, error) {
	b, err := readSmall(name, maxKeyFile)
	if err != nil {
		return keys.Public{}, fmt.Errorf("reading the key: %w", err)
	}
	pub, err := keys.ParsePublicPEM(b)
	if err != nil && bytes.Contains(b, []byte("PRIVATE KEY")) {
		var priv keys.Private
		priv, err = keys.ParsePrivatePEM(b)
		pub = priv.Public()
	}
	if err != nil {
		return keys.Public{}, fmt.Errorf("reading %s: %w", name, err)
	}
	return pub, nil
}

// party is a key that a manifest names, and who it is to the person here.
type party struct {
	Fingerprint string `json:"fingerprint"`
	// Contact is the name in the address book; empty: unknown.
	Contact string `json:"contact,omitzero"`
	// You: it is the caller's own key.
	You   bool            `json:"you"`
	Roles []manifest.Role `json:"roles"`
}

// confirmed tells whether the person here knows whose key it is.
func (p party) confirmed() bool { return p.You || p.Contact != "" }

// who is the name to show.
func (p party) who() string {
	switch {
	case p.You:
		return nameYou
	case p.Contact != "":
		return p.Contact
	}
	return nameUnknown
}

// parties lists every key of the manifest once, in the manifest's order. The
// address book is read only if there are other keys than own, which may be zero.
func (a *app) parties(f *manifest.Frozen, own keys.Public) ([]party, error) {
	all := []keys.Public{f.Algorithm.Provider}
	for _, d := range f.Datasets {
		all = append(all, d.Provider)
	}
	all = append(append(all, f.Consumers...), f.Approvals...)
	var (
		book   contacts
		opened bool
		list   []party
	)
	for i, k := range all {
		if slices.ContainsFunc(all[:i], k.Equal) {
			continue
		}
		p := party{Fingerprint: k.Fingerprint(), You: k.Equal(own), Roles: f.RolesOf(k)}
		if !p.You {
			if !opened {
				if err := a.readHome(contactsFile, &book); err != nil {
					return nil, fmt.Errorf("reading the address book: %w", err)
				}
				opened = true
			}
			p.Contact = book.nameOf(k)
		}
		list = append(list, p)
	}
	return list, nil
}

// unconfirmed refuses a manifest with keys that the address book does not have.
func unconfirmed(name string, ps []party) error {
	var texts []string
	for _, p := range ps {
		if !p.confirmed() {
			texts = append(texts, fmt.Sprintf("%s (%s)", p.Fingerprint, joined(p.Roles)))
		}
	}
	if len(texts) == 0 {
		return nil
	}
	return &problem{reason: reasonKeyUnconfirmed, field: "contacts",
		err: errors.New(name + " names keys that your address book does not have: " + strings.Join(texts, ", ")),
		hint: "nothing was signed. Ask each of these people for their fingerprint over another channel than the one the manifest came by (cocos-cli keys show prints it there); " +
			"where it is the same: cocos-cli contacts add NAME --fingerprint sha256:…. Where it is not, somebody put in a key of their own"}
}
