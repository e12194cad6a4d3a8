package main

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"time"
)

// tlsConfig reads the certificates anew, so that renewed ones are used from the
// next connection on.
func tlsConfig(s settings) (*tls.Config, error) {
	cfg := &tls.Config{MinVersion: tls.VersionTLS13}
	if s.serverCAs != "" {
		pool, err := readCAs(s.serverCAs)
		if err != nil {
			return nil, fmt.Errorf("MANAGER_GRPC_SERVER_CA_CERTS=%q: %w", s.serverCAs, err)
		}
		cfg.RootCAs = pool
	}
	if s.clientCert != "" {
		pair, err := readPair(s.clientCert, s.clientKey)
		if err != nil {
			return nil, fmt.Errorf("MANAGER_GRPC_CLIENT_CERT=%q with MANAGER_GRPC_CLIENT_KEY=%q: %w; expected a PEM certificate and its PEM private key", s.clientCert, s.clientKey, err)
		}
		if now := time.Now(); now.After(pair.Leaf.NotAfter) {
			return nil, fmt.Errorf("MANAGER_GRPC_CLIENT_CERT=%q expired on %s; renew it, or join again with a new token: cocos-manager enroll --again", s.clientCert, pair.Leaf.NotAfter.UTC().Format(time.RFC3339))
		}
		if now := time.Now(); now.Before(pair.Leaf.NotBefore) {
			return nil, fmt.Errorf("MANAGER_GRPC_CLIENT_CERT=%q is not valid before %s; look at this host's clock, or wait", s.clientCert, pair.Leaf.NotBefore.UTC().Format(time.RFC3339))
		}
		cfg.Certificates = []tls.Certificate{pair}
	}
	return cfg, nil
}

func readCAs(name string) (*x509.CertPool, error) {
	b, err := readPEM(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errors.New("the file does not exist")
	} else if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	n := 0
	for rest := b; ; n++ {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if block.Type != "CERTIFICATE" || err != nil {
			return nil, fmt.Errorf("PEM block %d, %q, is not a certificate; expected only certificates", n+1, block.Type)
		}
		pool.AddCert(cert)
	}
	if n == 0 {
		return nil, errors.New("holds no certificate; expected PEM certificates")
	}
	return pool, nil
}

func readPair(certFile, keyFile string) (tls.Certificate, error) {
	cert, err := readPEM(certFile)
	if err != nil {
		return tls.Certificate{}, err
	}
	key, err := readPEM(keyFile)
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.X509KeyPair(cert, key)
}

// maxPEM bounds a file of certificates, in bytes: a system's authorities take
// about 256 KiB.
const maxPEM = 4 << 20

// readPEM reads a file that is set by hand: neither a pipe nor a device keeps it
// from coming back.
func readPEM(name string) ([]byte, error) {
	f, err := openFile(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxPEM+1))
	if err == nil && len(b) > maxPEM {
		err = fmt.Errorf("%s has more than %d bytes", name, maxPEM)
	}
	return b, err
}
