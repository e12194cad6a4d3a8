package hostcheck

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"syscall"
	"time"

	"github.com/ultravioletrs/cocos/internal/computations/authority"
)

const (
	certVar = "MANAGER_GRPC_CLIENT_CERT"
	keyVar  = "MANAGER_GRPC_CLIENT_KEY"
	casVar  = "MANAGER_GRPC_SERVER_CA_CERTS"
	urlVar  = "MANAGER_GRPC_URL"

	day = 24 * time.Hour
	// soon is when a certificate's end is worth a warning; renewedSoon that of one
	// that the Manager renews itself, which should have happened before.
	soon        = 30 * day
	renewedSoon = 9 * day
)

// certificates looks at the files that speak for this Manager and for the
// server.
func certificates(_ context.Context, h *host, c Config) []Finding {
	s := c.Server
	var out []Finding
	if s.CACerts == "" {
		out = append(out, info(casVar+" is not set: the authorities that this system trusts speak for the server")...)
	} else {
		cas, err := readCerts(s.CACerts)
		if err != nil {
			out = append(out, h.unreadable(casVar, s.CACerts, err, "PEM certificates of the server's authorities")...)
		} else {
			out = append(out, h.validity(casVar, s.CACerts, cas)...)
		}
	}
	if s.ClientCert == "" && s.ClientKey == "" {
		return append(out, info(certVar+" is not set: this Manager shows the server no certificate")...)
	}
	chain, err := readCerts(s.ClientCert)
	if err != nil {
		return append(out, h.unreadable(certVar, s.ClientCert, err, "this Manager's PEM certificate")...)
	}
	out = append(out, h.validity(certVar, s.ClientCert, chain[:1])...)
	if _, err := readFile(s.ClientKey); err != nil {
		return append(out, h.unreadable(keyVar, s.ClientKey, err, "the PEM private key of "+s.ClientCert)...)
	}
	if _, err := tls.LoadX509KeyPair(s.ClientCert, s.ClientKey); err != nil {
		return append(out, fail(fmt.Sprintf("%s=%s does not fit %s=%s: %v", keyVar, s.ClientKey, certVar, s.ClientCert, err),
			"the PEM private key of that certificate", "correct one of the two")...)
	}
	st, err := os.Stat(s.ClientKey)
	if err != nil {
		return append(out, h.unreadable(keyVar, s.ClientKey, err, "the private key")...)
	}
	if mode := st.Mode().Perm(); mode&0o007 != 0 {
		return append(out, fail(fmt.Sprintf("%s=%s has mode %04o: every user of this host can use it", keyVar, s.ClientKey, mode), "at most 0640",
			fmt.Sprintf("chmod o= %s; and get a new key and certificate, if others have logged in here", s.ClientKey))...)
	}
	return append(out, ok(fmt.Sprintf("%s=%s fits the certificate", keyVar, s.ClientKey))...)
}

// unreadable says why a file can't be used.
func (h *host) unreadable(name, file string, err error, needed string) []Finding {
	mend := "correct " + name + ", or the file"
	if errors.Is(err, fs.ErrPermission) {
		mend = fmt.Sprintf("let user %s read it: setfacl -m u:%s:r %s, and its folders", h.user, h.user, file)
	}
	return fail(fmt.Sprintf("%s=%s: %v", name, file, err), needed, mend)
}

// validity judges when certificates hold; the one that ends first is told.
func (h *host) validity(name, file string, certs []*x509.Certificate) []Finding {
	now, first := h.now(), certs[0]
	soon, mend := soon, "renew it; a running Manager uses the new file from its next connection on"
	if _, enrolled := authority.HostOf(first); enrolled {
		soon, mend = renewedSoon, "let the Manager run, which renews it, and look at its log; or join again: cocos-manager enroll --again"
	}
	for _, c := range certs {
		if now.Before(c.NotBefore) {
			return fail(fmt.Sprintf("%s=%s: %s holds from %s on only", name, file, c.Subject, date(c.NotBefore)), "a certificate that holds now",
				"wait, renew it, or correct the clock (row clock)")
		}
		if c.NotAfter.Before(first.NotAfter) {
			first = c
		}
	}
	left := first.NotAfter.Sub(now)
	switch {
	case left <= 0:
		return fail(fmt.Sprintf("%s=%s: %s expired on %s", name, file, first.Subject, date(first.NotAfter)), "a certificate that holds now", mend)
	case left < soon:
		return warn(fmt.Sprintf("%s=%s: %s expires in %d days, on %s", name, file, first.Subject, left/day, date(first.NotAfter)), fmt.Sprintf("%d days or more", soon/day), mend)
	}
	return ok(fmt.Sprintf("%s=%s holds for %d more days", name, file, left/day))
}

func date(t time.Time) string { return t.UTC().Format("2006-01-02 15:04 MST") }

// readCerts reads a file of PEM certificates, at least one.
func readCerts(name string) ([]*x509.Certificate, error) {
	if name == "" {
		return nil, errors.New("is not set")
	}
	b, err := readFile(name)
	if err != nil {
		return nil, err
	}
	var out []*x509.Certificate
	for {
		var block *pem.Block
		if block, b = pem.Decode(b); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("PEM block %d is %q, not a certificate", len(out)+1, block.Type)
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("PEM block %d: %w", len(out)+1, err)
		}
		out = append(out, cert)
	}
	if out == nil {
		return nil, errors.New("holds no PEM certificate")
	}
	return out, nil
}

// serverTime bounds reaching the server, in all.
const serverTime = 8 * time.Second

// hello opens HTTP/2 (RFC 9113, 3.4): the preface and an empty SETTINGS frame.
// A server answers it, or refuses the certificate that it was shown.
const hello = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"

// server reaches for the computations server and says which step fails.
func server(ctx context.Context, h *host, c Config) []Finding {
	ctx, cancel := context.WithTimeout(ctx, serverTime)
	defer cancel()
	s := c.Server
	name := urlVar + "=" + s.Address
	cfg, err := s.tls(h.now)
	if err != nil {
		return fail("not tried: "+err.Error(), "usable certificates", "mend the row certificates first")
	}
	raw, err := h.dial(ctx, "tcp", s.Address)
	if err != nil {
		var dns *net.DNSError
		switch {
		case errors.As(err, &dns):
			return fail(fmt.Sprintf("%s: finding the address: %v", name, dns), "a name that resolves", "correct "+urlVar+", or name resolution (getent hosts NAME)")
		case errors.Is(err, syscall.ECONNREFUSED):
			return fail(name+": connecting: refused: nothing listens there", "a computations server that listens", "start the server, or correct "+urlVar)
		case ctx.Err() != nil:
			return fail(fmt.Sprintf("%s: connecting: no answer within %v", name, serverTime), "a server that can be reached", "look for a firewall on the way, or correct "+urlVar)
		}
		return fail(fmt.Sprintf("%s: connecting: %v", name, err), "a server that can be reached", "correct "+urlVar+", or the network")
	}
	defer raw.Close()
	deadline, _ := ctx.Deadline()
	if err := raw.SetDeadline(deadline); err != nil {
		return fail(fmt.Sprintf("%s: %v", name, err), "a connection", "")
	}
	cfg.ServerName, _, _ = net.SplitHostPort(s.Address)
	conn := tls.Client(raw, cfg)
	if err := conn.HandshakeContext(ctx); err != nil {
		return handshakeFailed(name, cfg.ServerName, err, ctx.Err() != nil || errors.Is(err, os.ErrDeadlineExceeded))
	}
	state := conn.ConnectionState()
	if state.NegotiatedProtocol != "h2" {
		return fail(name+": after the TLS handshake: it offers no HTTP/2", "a gRPC server", "correct "+urlVar)
	}
	// With TLS 1.3 a refusal of the client's certificate comes after the
	// handshake.
	_, err = conn.Write([]byte(hello))
	if err == nil {
		_, err = conn.Read(make([]byte, 1))
	}
	if err != nil {
		mend := "look at the server's log"
		if c.Server.ClientCert == "" {
			mend = "set " + certVar + " and " + keyVar + ", if the server asks for a certificate; else " + mend
		} else {
			mend = "have the certificate in " + certVar + " accepted by the server; else " + mend
		}
		return fail(fmt.Sprintf("%s: after the TLS handshake: %v", name, err), "a server that accepts this Manager", mend)
	}
	left := state.PeerCertificates[0].NotAfter.Sub(h.now())
	found := fmt.Sprintf("%s answers, its certificate holds for %d more days", name, left/day)
	if left < soon {
		return warn(found, "30 days or more", "have the server's certificate renewed")
	}
	return ok(found)
}

func (s Server) tls(now func() time.Time) (*tls.Config, error) {
	cfg := &tls.Config{MinVersion: tls.VersionTLS13, NextProtos: []string{"h2"}, Time: now}
	if s.CACerts != "" {
		cas, err := readCerts(s.CACerts)
		if err != nil {
			return nil, fmt.Errorf("%s=%s: %w", casVar, s.CACerts, err)
		}
		cfg.RootCAs = x509.NewCertPool()
		for _, ca := range cas {
			cfg.RootCAs.AddCert(ca)
		}
	}
	if s.ClientCert != "" || s.ClientKey != "" {
		pair, err := tls.LoadX509KeyPair(s.ClientCert, s.ClientKey)
		if err != nil {
			return nil, fmt.Errorf("%s=%s with %s=%s: %w", certVar, s.ClientCert, keyVar, s.ClientKey, err)
		}
		cfg.Certificates = []tls.Certificate{pair}
	}
	return cfg, nil
}

// handshakeFailed says what the likeliest reason is.
func handshakeFailed(name, serverName string, err error, late bool) []Finding {
	var (
		record  tls.RecordHeaderError
		unknown x509.UnknownAuthorityError
		host    x509.HostnameError
		invalid x509.CertificateInvalidError
	)
	found := fmt.Sprintf("%s: TLS handshake: %v", name, err)
	switch {
	case errors.As(err, &record):
		return fail(name+": TLS handshake: it speaks no TLS", "a server that speaks TLS 1.3", "correct "+urlVar+", or give the server a certificate")
	case errors.As(err, &unknown):
		return fail(found, "a certificate from an authority in "+casVar, "set "+casVar+" to the certificates of the authority that the server's comes from")
	case errors.As(err, &host):
		return fail(found, "a certificate for "+serverName, "use a name in "+urlVar+" that the certificate holds, or have one issued for "+serverName)
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return fail(found, "a certificate that holds now", "have the server's certificate renewed, or correct the clock (row clock)")
	case late:
		return fail(fmt.Sprintf("%s: TLS handshake: no answer within %v", name, serverTime), "a server that speaks TLS 1.3", "correct "+urlVar+", or look at the server's log")
	}
	return fail(found, "a server that speaks TLS 1.3", "correct "+urlVar+", or look at the server's log")
}
