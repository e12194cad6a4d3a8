package cli_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/ultravioletrs/cocos/atls"
	"github.com/ultravioletrs/cocos/attest"
	"github.com/ultravioletrs/cocos/internal/keybroker"
	"github.com/ultravioletrs/cocos/keys"
	"github.com/ultravioletrs/cocos/manifest"
)

// port VAR finds one that is free.
func cmdPort(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: port VAR")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	ts.Check(err)
	_, port, err := net.SplitHostPort(l.Addr().String())
	ts.Check(errors.Join(err, l.Close()))
	ts.Setenv(args[0], port)
}

// certificate CERT KEY makes one for 127.0.0.1 that is its own authority.
func cmdCertificate(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: certificate CERT KEY")
	}
	cert, key, err := selfSigned()
	ts.Check(errors.Join(err, os.WriteFile(ts.MkAbs(args[0]), cert, 0o600), os.WriteFile(ts.MkAbs(args[1]), key, 0o600)))
}

// sourced IN OUT DATASET URL RESOURCE gives a dataset a source with a broker.
func cmdSourced(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 5 {
		ts.Fatalf("usage: sourced IN OUT DATASET URL RESOURCE")
	}
	f, err := manifest.Parse([]byte(ts.ReadFile(args[0])))
	ts.Check(err)
	m := f.Manifest
	for i := range m.Datasets {
		if m.Datasets[i].Name == args[2] {
			m.Datasets[i].Source = manifest.Source{URL: "https://data.example/x", Encryption: manifest.Age, Broker: args[3], Resource: args[4]}
		}
	}
	f, err = manifest.Freeze(m)
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), f.Raw, 0o600))
	ts.Setenv("DIGEST", f.Digest.String())
}

// ask MANIFEST URL RESOURCE CA [measured=N] [host=NAME] [instance=NAME] is a VM that
// asks a broker, once it is there, and prints what it gets to the file "asked".
func cmdAsk(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) < 4 {
		ts.Fatalf("usage: ask MANIFEST URL RESOURCE CA [measured=N] [host=NAME] [instance=NAME]")
	}
	name := "first"
	host, measurement := simulation(ts, args[4:], func(what, value string) bool {
		name = value
		return what == "instance"
	})
	f, err := manifest.Parse([]byte(ts.ReadFile(args[0])))
	ts.Check(err)
	instance, err := keys.ParsePrivatePEM([]byte(ts.ReadFile(name + ".pem")))
	ts.Check(err)
	prover, err := atls.NewProver(atls.ProverConfig{Attester: host.Attester(measurement, f.Digest), Manifest: f.Digest, Instance: instance})
	ts.Check(err)
	defer prover.Close()
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(ts.ReadFile(args[3])))
	t := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}
	defer t.CloseIdleConnections()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for {
		got, err := keybroker.Ask(ctx, keybroker.Query{
			Client: &http.Client{Transport: t}, Broker: args[1], Resource: args[2], Manifest: f.Digest, TEE: attest.Sim, Prove: prover.ForBroker,
		})
		if err != nil && strings.Contains(err.Error(), "can't be reached") && ctx.Err() == nil {
			time.Sleep(20 * time.Millisecond) // the broker is another process, which begins
			continue
		}
		text := string(got)
		if err != nil {
			text = err.Error()
		}
		ts.Check(os.WriteFile(ts.MkAbs("asked"), []byte(strings.TrimSuffix(text, "\n")+"\n"), 0o600))
		if (err != nil) != neg {
			ts.Fatalf("asked: %s", text)
		}
		return
	}
}

// selfSigned is a certificate for 127.0.0.1 in PEM, with its key.
func selfSigned() (cert, key []byte, err error) {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, k.Public(), k)
	if err != nil {
		return nil, nil, err
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		return nil, nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}), nil
}

// consent DIGEST KEY consents to the VM with that instance key.
func cmdConsent(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: consent DIGEST KEY")
	}
	k, err := keys.ParsePublicPEM([]byte(ts.ReadFile(args[1])))
	ts.Check(err)
	ts.Check(ts.Exec("cocos-cli", "broker", "consent", args[0], k.Fingerprint()))
}
