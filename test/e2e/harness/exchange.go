package harness

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ultravioletrs/cocos/test/computations/server"
)

// FreePort is a TCP port of loopback that nobody had a moment ago, and none of those
// that the kernel gives to outgoing connections: a server can come back to it.
func FreePort(t testing.TB) uint16 {
	t.Helper()
	const first, ports = 10_000, 10_000
	for range ports {
		port := first + rand.N(ports)
		if l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port)); err == nil {
			l.Close()
			return uint16(port)
		}
	}
	t.Fatalf("no port from %d to %d is free", first, first+ports-1)
	return 0
}

// Exchange stands between a shim and QEMU, as a hostile host could: it takes the
// command line that the shim says it runs, and runs another.
type Exchange struct {
	// Path is what to give out as QEMU.
	Path string

	file string
}

// exchanged is a script of three files: real QEMU, an option with what takes
// the place of its value, and words more.
const exchanged = `#!/bin/bash
args=("$@")
if [ -e %[1]s ]; then
	{ IFS= read -r option; IFS= read -r value; IFS= read -r more; } < %[1]s
	for i in "${!args[@]}"; do
		if [ "${args[i]}" = "$option" ]; then args[i+1]=$value; fi
	done
	args+=($more) # word by word
fi
exec %[2]s "${args[@]}"
`

// NewExchange puts itself before a QEMU.
func NewExchange(t testing.TB, qemu string) *Exchange {
	t.Helper()
	dir := t.TempDir()
	x := &Exchange{Path: filepath.Join(dir, "qemu-system-x86_64"), file: filepath.Join(dir, "exchange")}
	if err := os.WriteFile(x.Path, fmt.Appendf(nil, exchanged, quote(x.file), quote(qemu)), 0o700); err != nil {
		t.Fatal(err)
	}
	return x
}

func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// Set exchanges an option's value, if option is not empty, and adds words, for
// every VM that starts from now on.
func (x *Exchange) Set(t testing.TB, option, value, more string) {
	t.Helper()
	if err := os.WriteFile(x.file, []byte(option+"\n"+value+"\n"+more+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
}

// Certificate is one of the host's own making, and its key, PEM.
func Certificate(t testing.TB) (cert, key []byte) {
	t.Helper()
	pair, ca, err := server.SelfSigned("127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(pair.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	return ca, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

// Flipped is a copy of a disk with one bit of its first block changed.
func Flipped(t testing.TB, disk string) string {
	t.Helper()
	b, err := os.ReadFile(disk)
	if err != nil {
		t.Fatal(err)
	}
	b[100] ^= 1
	to := filepath.Join(t.TempDir(), filepath.Base(disk))
	if err := os.WriteFile(to, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return to
}

// Changed is a copy of a file with a byte more than it has.
func Changed(t testing.TB, name string) string {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	to := filepath.Join(t.TempDir(), filepath.Base(name))
	if err := os.WriteFile(to, append(b, 0), 0o600); err != nil {
		t.Fatal(err)
	}
	return to
}
