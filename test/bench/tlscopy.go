package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"time"
)

// The reference of the transfers: a bare copy over TLS 1.3, crypto/tls as it
// comes, io.Copy with a buffer of 1 MiB, and a receiver that hashes and writes
// what it reads, one after the other. Both ends are processes of their own, like
// the product's. The file travels after its size (64-bit big-endian); the
// receiver of an upload answers with the digest.

// helpers are started by this program as processes of their own.
var helpers = map[string]func(args []string) error{
	"tls-serve":  tlsServe,
	"tls-put":    tlsPut,
	"tls-get":    tlsGet,
	"tls-hold":   tlsHold,
	"page-serve": pageServe,
}

const (
	put = 'p'
	get = 'g'
)

// tlsServe SOURCE TARGET CERT: takes uploads into the file TARGET, sends the
// file SOURCE. It writes its certificate to the file CERT, then its address to
// standard output, and serves until it is killed.
func tlsServe(args []string) error {
	source, target, certFile := args[0], args[1], args[2]
	cert, err := selfSigned()
	if err != nil {
		return err
	}
	if err := os.WriteFile(certFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Certificate[0]}), 0o600); err != nil {
		return err
	}
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{cert}})
	if err != nil {
		return err
	}
	fmt.Println(l.Addr())
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		// One at a time, as it is measured.
		if err := serveCopy(c, source, target); err != nil {
			fmt.Fprintln(os.Stderr, "tls-serve:", err)
		}
		c.Close()
	}
}

func serveCopy(c net.Conn, source, target string) error {
	var verb [1]byte
	if _, err := io.ReadFull(c, verb[:]); err != nil {
		return err
	}
	switch verb[0] {
	case put:
		digest, err := receive(c, target)
		if err != nil {
			return err
		}
		_, err = c.Write(digest)
		return err
	case get:
		return send(c, source)
	}
	return fmt.Errorf("verb %q", verb)
}

// tlsPut ADDRESS CERT SOURCE DIGEST.
func tlsPut(args []string) error {
	c, err := dialCopy(args[0], args[1], put)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := send(c, args[2]); err != nil {
		return err
	}
	got := make([]byte, sha256.Size)
	if _, err := io.ReadFull(c, got); err != nil {
		return err
	}
	return sameDigest(got, args[3])
}

// tlsGet ADDRESS CERT TARGET DIGEST.
func tlsGet(args []string) error {
	c, err := dialCopy(args[0], args[1], get)
	if err != nil {
		return err
	}
	defer c.Close()
	got, err := receive(c, args[2])
	if err != nil {
		return err
	}
	return sameDigest(got, args[3])
}

func sameDigest(got []byte, want string) error {
	if hex.EncodeToString(got) != want {
		return fmt.Errorf("the copy has digest %x; expected %s", got, want)
	}
	return nil
}

func dialCopy(address, certFile string, verb byte) (net.Conn, error) {
	b, err := os.ReadFile(certFile)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(b) {
		return nil, errors.New("no certificate in " + certFile)
	}
	c, err := tls.Dial("tcp", address, &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: pool})
	if err != nil {
		return nil, err
	}
	_, err = c.Write([]byte{verb})
	return c, err
}

// onlyWriter and onlyReader keep io.Copy from choosing buffers of its own.
type (
	onlyWriter struct{ io.Writer }
	onlyReader struct{ io.Reader }
)

func send(w io.Writer, source string) error {
	f, err := os.Open(source)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if err := binary.Write(w, binary.BigEndian, info.Size()); err != nil {
		return err
	}
	_, err = io.CopyBuffer(onlyWriter{w}, onlyReader{f}, make([]byte, mib))
	return err
}

func receive(r io.Reader, target string) (digest []byte, err error) {
	var size int64
	if err := binary.Read(r, binary.BigEndian, &size); err != nil {
		return nil, err
	}
	f, err := os.Create(target)
	if err != nil {
		return nil, err
	}
	h := sha256.New()
	n, err := io.CopyBuffer(onlyWriter{io.MultiWriter(h, f)}, io.LimitReader(r, size), make([]byte, mib))
	if err == nil && n != size {
		err = fmt.Errorf("%d of %d bytes came", n, size)
	}
	return h.Sum(nil), errors.Join(err, f.Close())
}

func selfSigned() (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
}

// tlsCopy is a running tlsServe.
type tlsCopy struct {
	l       *lab
	server  *process
	address string
	cert    string
	target  string
}

func (l *lab) startTLSCopy(source string) (*tlsCopy, error) {
	t := &tlsCopy{l: l, cert: l.path("reference.pem"), target: l.path("reference.bin")}
	var err error
	if t.server, err = l.start("reference", nil, l.self, "tls-serve", source, t.target, t.cert); err != nil {
		return nil, err
	}
	// The address is the one line that it prints.
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		b, err := os.ReadFile(t.server.log)
		if line, _, whole := bytes.Cut(b, []byte("\n")); err == nil && whole {
			t.address = string(line)
			return t, nil
		}
		if time.Now().After(deadline) {
			return nil, errors.Join(fmt.Errorf("the bare TLS copy did not start: %s", t.server.lastWords()), t.server.stop())
		}
	}
}
