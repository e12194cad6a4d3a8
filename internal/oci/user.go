package oci

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"strings"
)

// maxAccounts bounds /etc/passwd and /etc/group, in bytes.
const maxAccounts = 1 << 20

// maxID is the last user and group.
const maxID = 1<<31 - 1

// LookupUser finds the numbers of an image's user in the folder of the image.
// The user is as in Config; a number needs no account. Without a group it is the
// account's, or 0 where there is none.
func LookupUser(root *os.Root, user string) (Owner, error) {
	name, group, hasGroup := strings.Cut(user, ":")
	if name == "" {
		name = "0"
	}
	o, err := lookupAccount(root, name)
	if err != nil || !hasGroup {
		return o, err
	}
	o.GID, err = lookupGroup(root, group)
	return o, err
}

func lookupAccount(root *os.Root, name string) (Owner, error) {
	uid, numeric := parseID(name)
	found := Owner{UID: uid}
	ok, err := eachLine(root, "etc/passwd", func(fields []string) bool {
		if len(fields) < 4 || fields[0] != name && !(numeric && fields[2] == name) {
			return false
		}
		uid, uidOK := parseID(fields[2])
		gid, gidOK := parseID(fields[3])
		if !uidOK || !gidOK {
			return false
		}
		found = Owner{UID: uid, GID: gid}
		return true
	})
	if err == nil && !ok && !numeric {
		err = fmt.Errorf("the image's user %.80q is not in its /etc/passwd", name)
	}
	return found, err
}

func lookupGroup(root *os.Root, name string) (int, error) {
	gid, numeric := parseID(name)
	if numeric {
		return gid, nil
	}
	ok, err := eachLine(root, "etc/group", func(fields []string) (found bool) {
		if len(fields) < 3 || fields[0] != name {
			return false
		}
		gid, found = parseID(fields[2])
		return found
	})
	if err == nil && !ok {
		err = fmt.Errorf("the image's group %.80q is not in its /etc/group", name)
	}
	return gid, err
}

func parseID(s string) (int, bool) {
	n, err := strconv.ParseUint(s, 10, 31)
	return int(n), err == nil && n < maxID
}

// eachLine calls match for the fields of each line until it returns true.
func eachLine(root *os.Root, name string, match func(fields []string) bool) (bool, error) {
	at, err := Follow(root, name)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("looking for the image's user: %w", err)
	}
	f, err := root.Open(orTop(at))
	if err != nil {
		return false, fmt.Errorf("looking for the image's user: %w", err)
	}
	defer f.Close()
	s := bufio.NewScanner(io.LimitReader(f, maxAccounts))
	for s.Scan() {
		if match(strings.Split(s.Text(), ":")) {
			return true, nil
		}
	}
	return false, s.Err()
}
