package storetest

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/ultravioletrs/cocos/internal/store"
)

// PostgreSQL makes a database with the schema in it on this test program's server.
func PostgreSQL(t testing.TB) store.Config {
	t.Helper()
	return database(t, migrated)
}

// EmptyPostgreSQL is PostgreSQL before anybody has opened it.
func EmptyPostgreSQL(t testing.TB) store.Config {
	t.Helper()
	return database(t, func() (string, error) { return "template0", nil })
}

// database copies one. It goes with the server: dropping it would have the server
// write out all that it has.
func database(t testing.TB, template func() (string, error)) store.Config {
	t.Helper()
	dir, err := server()
	if err != nil {
		t.Fatal(err)
	}
	from, err := template()
	if err != nil {
		t.Fatal(err)
	}
	name := fmt.Sprintf("test_%d", databases.Add(1))
	if err := admin(dir, "CREATE DATABASE "+name+" TEMPLATE "+from); err != nil {
		t.Fatal(err)
	}
	return store.Config{URL: address(dir, name)}
}

var (
	databases atomic.Int64
	server    = sync.OnceValues(start)
	migrated  = sync.OnceValues(migrate)
)

// migrate makes the database that others are copied from: the schema takes longer
// than the copy.
func migrate() (string, error) {
	const name = "migrated"
	dir, err := server()
	if err != nil {
		return "", err
	}
	if err := admin(dir, "CREATE DATABASE "+name); err != nil {
		return "", err
	}
	s, err := store.Open(context.Background(), store.Config{URL: address(dir, name)})
	if err != nil {
		return "", err
	}
	return name, s.Close()
}

func address(dir, database string) string {
	return "postgres:///" + database + "?" + url.Values{"host": {dir}, "user": {"cocos"}}.Encode()
}

func admin(dir, statement string) error {
	ctx := context.Background()
	c, err := pgx.Connect(ctx, address(dir, "postgres"))
	if err != nil {
		return err
	}
	defer c.Close(ctx)
	_, err = c.Exec(ctx, statement)
	return err
}

// supervise runs the server until its standard input ends, as it does with the
// test program, however that ends; then nothing is left.
const supervise = `
"$1/postgres" -D "$2/data" -k "$2" -c listen_addresses= -c max_connections=200 -c shared_buffers=32MB \
	-c fsync=on -c full_page_writes=on >"$2/log" 2>&1 </dev/null &
cat >/dev/null
kill -QUIT $!
wait $!
rm -rf "$2"
`

// start makes a server and returns its folder, which has its socket.
func start() (dir string, err error) {
	bin, err := programs()
	if err != nil {
		return "", err
	}
	if dir, err = os.MkdirTemp("", "cocos-postgres-"); err != nil {
		return "", err
	}
	attributes := &syscall.SysProcAttr{Setpgid: true} // an interrupt is not for it
	if os.Getuid() == 0 {
		// It refuses to run as root.
		if attributes.Credential, err = unprivileged(); err != nil {
			return "", err
		}
		if err := os.Chown(dir, int(attributes.Credential.Uid), int(attributes.Credential.Gid)); err != nil {
			return "", err
		}
	}
	initdb := exec.Command(filepath.Join(bin, "initdb"), "-D", filepath.Join(dir, "data"), "-U", "cocos", "-A", "trust",
		"--no-sync", "--encoding=UTF8", "--locale=C.UTF-8")
	initdb.SysProcAttr, initdb.Dir = attributes, dir
	if out, err := initdb.CombinedOutput(); err != nil {
		return "", fmt.Errorf("making PostgreSQL's files in %s: %w\n%s", dir, err, out)
	}
	sh := exec.Command("/bin/sh", "-c", supervise, "sh", bin, dir)
	sh.SysProcAttr, sh.Dir = attributes, dir
	if _, err := sh.StdinPipe(); err != nil {
		return "", err
	}
	if err := sh.Start(); err != nil {
		return "", err
	}
	go sh.Wait() // holds its standard input open, as long as this program runs
	for end := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		c, err := pgx.Connect(context.Background(), address(dir, "postgres"))
		if err == nil {
			return dir, c.Close(context.Background())
		}
		if time.Now().After(end) {
			log, _ := os.ReadFile(filepath.Join(dir, "log"))
			return "", fmt.Errorf("waiting for PostgreSQL: %w\n%s", err, log)
		}
	}
}

// programs is the folder of the newest server's programs.
func programs() (string, error) {
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/postgres")
	if err != nil {
		return "", err
	}
	slices.SortFunc(found, func(a, b string) int { return version(a) - version(b) })
	if len(found) > 0 {
		return filepath.Dir(found[len(found)-1]), nil
	}
	if path, err := exec.LookPath("postgres"); err == nil {
		return filepath.Dir(path), nil
	}
	return "", errors.New("PostgreSQL's server isn't installed: `make deps-test` installs Debian's package postgresql; elsewhere put postgres and initdb on PATH")
}

func version(path string) int {
	n, _ := strconv.Atoi(filepath.Base(filepath.Dir(filepath.Dir(path))))
	return n
}

func unprivileged() (*syscall.Credential, error) {
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err := strconv.ParseUint(u.Uid, 10, 32)
		if err != nil {
			return nil, err
		}
		gid, err := strconv.ParseUint(u.Gid, 10, 32)
		if err != nil {
			return nil, err
		}
		return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
	}
	return nil, errors.New("PostgreSQL doesn't run as root, and there is neither a user postgres nor nobody to run it as")
}

// Programs is the folder of PostgreSQL's programs, pg_dump among them.
func Programs(t testing.TB) string {
	t.Helper()
	dir, err := programs()
	if err != nil {
		t.Fatal(err)
	}
	return dir
}
