package main

import (
	"crypto/tls"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/ultravioletrs/cocos/internal/computations"
	"github.com/ultravioletrs/cocos/internal/computations/authority"
	"github.com/ultravioletrs/cocos/internal/computations/fleet"
	"github.com/ultravioletrs/cocos/internal/store"
	"github.com/ultravioletrs/cocos/internal/store/storetest"
	"github.com/ultravioletrs/cocos/internal/vm"
)

// service is the real one's side for Managers.
type service struct {
	address   string
	authority *authority.Authority
	store     *store.Store
	user      computations.ID
}

func newService(t *testing.T) *service {
	t.Helper()
	s := &service{store: storetest.Open(t, storetest.SQLite(t)), user: computations.NewID()}
	var err error
	if s.authority, err = authority.Open(authority.Config{Dir: t.TempDir()}); err != nil {
		t.Fatal(err)
	}
	f, err := fleet.New(fleet.Config{Store: s.store, Authority: s.authority, ServerAuthorities: s.authority.PEM(), Log: discard})
	if err != nil {
		t.Fatal(err)
	}
	own, err := s.authority.Server("127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(grpc.Creds(credentials.NewTLS(s.authority.TLS(own.Certificate))))
	f.Register(server)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.address = l.Addr().String()
	done := make(chan struct{})
	go func() { defer close(done); _ = server.Serve(l) }()
	t.Cleanup(func() { server.Stop(); <-done })
	err = s.store.Update(t.Context(), func(w computations.Writer) error {
		return w.PutUser(computations.User{ID: s.user, Email: "a@example.org"})
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *service) token(t *testing.T) string {
	t.Helper()
	secret := "ce_" + string(computations.NewID())
	err := s.store.Update(t.Context(), func(w computations.Writer) error {
		return w.PutEnrolToken(computations.EnrolToken{ID: computations.NewID(), Name: "rack-1", Hash: computations.HashSecret(secret), By: s.user, Created: time.Now(), Expires: time.Now().Add(time.Hour)})
	})
	if err != nil {
		t.Fatal(err)
	}
	return secret
}

// connects tells whether a Manager with this configuration would be let in.
func (s *service) connects(t *testing.T, environ []string) (cert *tls.Certificate, address string) {
	t.Helper()
	set, err := parse(environ)
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := configure(t.Context(), set, discard)
	if err != nil {
		t.Fatal(err)
	}
	c, err := cfg.Server.TLS()
	if err != nil {
		t.Fatal(err)
	}
	conn, err := tls.Dial("tcp", s.address, c)
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	if len(c.Certificates) != 1 || cfg.Server.Enrolled == nil {
		t.Fatalf("%+v, %+v", c, cfg.Server)
	}
	return &c.Certificates[0], cfg.Server.Address
}

// without drops variables from an environment.
func without(environ []string, names ...string) (out []string) {
	for _, e := range environ {
		name, _, _ := strings.Cut(e, "=")
		keep := true
		for _, n := range names {
			keep = keep && n != name
		}
		if keep {
			out = append(out, e)
		}
	}
	return out
}

// TestEnroll: with one command the Manager has what it takes to connect, where
// nothing else is set.
func TestEnroll(t *testing.T) {
	s := newService(t)
	state := filepath.Join(t.TempDir(), "s")
	environ := append(without(machineEnviron(t), "MANAGER_GRPC_URL", "MANAGER_STATE_DIR"), "MANAGER_STATE_DIR="+state)
	var out strings.Builder
	args := []string{"--service", s.address, "--fingerprint", s.authority.Fingerprint(), "--token"}
	if err := enroll(t.Context(), append(args, "-"), environ, strings.NewReader(s.token(t)+"\n"), &out); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"joined " + s.address + " as rack-1 (", filepath.Join(state, "enrolled", "certificate.pem"), "the Manager renews it", "Start the Manager"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is not in\n%s", want, out.String())
		}
	}
	cert, address := s.connects(t, environ)
	if id, ok := authority.HostOf(cert.Leaf); !ok || !strings.Contains(out.String(), id) || address != s.address {
		t.Errorf("as %q to %s", id, address)
	}
	for _, name := range []string{vm.EnrolledKey, vm.EnrolledCertificate, vm.EnrolledAuthorities, vm.EnrolledServer} {
		if info, err := os.Stat(filepath.Join(state, vm.EnrolledDir, name)); err != nil || info.Mode() != 0o600 {
			t.Errorf("%s: %v, %v", name, info, err)
		}
	}

	// Not by mistake, and then as another.
	err := enroll(t.Context(), append(args, s.token(t)), environ, nil, &out)
	if err == nil || !strings.Contains(err.Error(), "has joined already. With --again") {
		t.Errorf("%v", err)
	}
	if err := enroll(t.Context(), append(args, s.token(t), "--again"), environ, nil, &out); err != nil {
		t.Fatal(err)
	}
	again, _ := s.connects(t, environ)
	if authority.SerialOf(again.Leaf) == authority.SerialOf(cert.Leaf) {
		t.Error("the certificate is the same")
	}

	// What is set holds.
	_, address = s.connects(t, append(environ, "MANAGER_GRPC_URL=127.0.0.1:9"))
	if address != "127.0.0.1:9" {
		t.Errorf("the Manager would connect to %s", address)
	}
}

// TestEnrollWhereVariablesPoint: the files go there, and are used from there.
func TestEnrollWhereVariablesPoint(t *testing.T) {
	s := newService(t)
	dir := t.TempDir()
	cert, key, cas := filepath.Join(dir, "c.pem"), filepath.Join(dir, "k.pem"), filepath.Join(dir, "a.pem")
	environ := append(machineEnviron(t), "MANAGER_GRPC_CLIENT_CERT="+cert, "MANAGER_GRPC_CLIENT_KEY="+key, "MANAGER_GRPC_SERVER_CA_CERTS="+cas)
	ca := put(t, dir, "given.pem", string(s.authority.PEM()))
	var out strings.Builder
	if err := enroll(t.Context(), []string{"--service", s.address, "--ca", ca, "--token", s.token(t)}, environ, nil, &out); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out.String(), "MANAGER_GRPC_URL=127.0.0.1:1 is set: the Manager connects there") {
		t.Error(out.String())
	}
	for _, name := range []string{cert, key, cas} {
		if _, err := os.Stat(name); err != nil {
			t.Error(err)
		}
	}
	s.connects(t, environ)
}

// TestEnrollRefuses what can't be meant, before anything is sent.
func TestEnrollRefuses(t *testing.T) {
	good := []string{"--service", "127.0.0.1:1", "--token", "ce_x"}
	environ := []string{"MANAGER_STATE_DIR=" + filepath.Join(t.TempDir(), "s"), "MANAGER_GRPC_TIMEOUT=1s"}
	others := t.TempDir()
	if os.Geteuid() == 0 {
		if err := os.Chown(others, 12345, -1); err != nil {
			t.Fatal(err)
		}
	}
	for name, c := range map[string]struct {
		args, environ []string
		says          string
		usage         bool
	}{
		"nothing":           {nil, environ, "needs --service HOST:PORT", true},
		"no token":          {good[:2], environ, "needs --token", true},
		"no service":        {good[2:], environ, "needs --service", true},
		"an argument":       {append(good, "x"), environ, `no argument "x"`, true},
		"an unknown flag":   {append(good, "--tokn", "x"), environ, "tokn", true},
		"no address":        {[]string{"--service", "https://x", "--token", "t"}, environ, "HOST:PORT without a scheme", false},
		"a missing file":    {append(good, "--ca", "/nowhere/ca"), environ, "no such file", false},
		"not a certificate": {append(good, "--ca", os.DevNull), environ, "is not a file", false},
		"no fingerprint":    {append(good, "--fingerprint", "12"), environ, "64 hexadecimal digits", false},
		"a wrong variable":  {good, append(environ, "MANAGER_MAX_VMS=0"), "MANAGER_MAX_VMS", false},
		"nobody there":      {good, environ, "connection refused", false},
		"another's folder":  {good, []string{"MANAGER_STATE_DIR=" + others}, "belongs to user id 12345", false},
	} {
		if name == "another's folder" && os.Geteuid() != 0 {
			continue // only root can make one
		}
		err := enroll(t.Context(), c.args, c.environ, nil, &strings.Builder{})
		if err == nil || !strings.Contains(err.Error(), c.says) || errors.Is(err, errUsage) != c.usage {
			t.Errorf("%s: %v\nexpected %q in it", name, err, c.says)
		}
	}
}
