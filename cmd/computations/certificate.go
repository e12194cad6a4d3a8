package main

import (
	"crypto/tls"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"
)

// certificateEvery is how often the operator's certificate is looked at.
const certificateEvery = 10 * time.Second

// pair is the operator's certificate with its key, in two files that may change.
type pair struct {
	certFile, keyFile string
	log               *slog.Logger
	now               func() time.Time

	mu      sync.Mutex
	current *tls.Certificate
	written [2]time.Time // of the files that were read last
	looked  time.Time
}

// read takes the files as they are. The caller is alone, or holds the mutex.
func (p *pair) read() error {
	p.looked, p.written = p.now(), p.stamps()
	c, err := tls.LoadX509KeyPair(p.certFile, p.keyFile)
	if err != nil {
		return fmt.Errorf("COMPUTATIONS_TLS_CERT=%q with COMPUTATIONS_TLS_KEY=%q: %w", p.certFile, p.keyFile, err)
	}
	p.current = &c
	return nil
}

func (p *pair) stamps() (s [2]time.Time) {
	for i, name := range []string{p.certFile, p.keyFile} {
		if info, err := os.Stat(name); err == nil {
			s[i] = info.ModTime()
		}
	}
	return s
}

// certificate is for tls.Config.GetCertificate. Files that were changed and can't
// be used leave the certificate before in use.
func (p *pair) certificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.now().Sub(p.looked) < certificateEvery {
		return p.current, nil
	}
	if p.looked = p.now(); p.stamps() != p.written {
		if err := p.read(); err != nil {
			p.log.Error("the certificate has changed and can't be used; the one before stays", "error", err)
		}
	}
	return p.current, nil
}
