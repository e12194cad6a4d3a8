package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/ultravioletrs/cocos/internal/config"
	"github.com/ultravioletrs/cocos/internal/manager"
	"github.com/ultravioletrs/cocos/internal/version"
	"github.com/ultravioletrs/cocos/internal/vm"
)

var setServer = config.HostPort(func(s *settings) *string { return &s.serverAddress }, "server.example.org:7001")

// enroll joins a server by a token, and leaves what the Manager needs to connect.
func enroll(ctx context.Context, args, environ []string, stdin io.Reader, stdout io.Writer) error {
	flags := flag.NewFlagSet("enroll", flag.ContinueOnError)
	flags.SetOutput(io.Discard) // the error says it
	service := flags.String("service", "", "")
	token := flags.String("token", "", "")
	ca := flags.String("ca", "", "")
	fingerprint := flags.String("fingerprint", "", "")
	again := flags.Bool("again", false, "")
	if err := flags.Parse(args); err != nil {
		return fmt.Errorf("%w: enroll: %w", errUsage, err)
	}
	switch {
	case flags.NArg() > 0:
		return fmt.Errorf("%w: enroll takes no argument %q", errUsage, flags.Arg(0))
	case *service == "":
		return fmt.Errorf("%w: enroll needs --service HOST:PORT", errUsage)
	case *token == "":
		return fmt.Errorf("%w: enroll needs --token TOKEN, or --token - to read it from standard input", errUsage)
	}
	if err := setServer(new(settings), *service); err != nil {
		return fmt.Errorf("--service %q is not valid; expected %w", *service, err)
	}
	s, err := parse(environ)
	if err != nil {
		return err
	}
	stateDir, _, err := folders(s)
	if err != nil {
		return err
	}
	if err := ownStateDir(stateDir); err != nil {
		return err
	}
	if *token == "-" {
		line, err := bufio.NewReader(io.LimitReader(stdin, 4096)).ReadString('\n')
		if err != nil && !errors.Is(err, io.EOF) {
			return fmt.Errorf("reading the token: %w", err)
		}
		*token = strings.TrimSpace(line)
	}
	e := manager.Enrolment{Address: *service, Token: *token, Fingerprint: *fingerprint, Version: version.String(), Timeout: s.serverTimeout, Clock: manager.SystemClock{}, Into: enrolled(s, stateDir)}
	if e.InstanceID, err = instanceID(s); err != nil {
		return err
	}
	if *ca != "" {
		if e.Authorities, err = readPEM(*ca); err != nil {
			return fmt.Errorf("--ca %q: %w", *ca, err)
		}
	}
	if _, err := os.Stat(e.Into.Certificate); !*again && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s is there: this host has joined already. With --again it joins as another host: the service then takes nothing of the runs that it has now", e.Into.Certificate)
	}
	joined, err := manager.Enrol(ctx, e)
	if err != nil {
		return err
	}
	if err := writeEnrolledServer(stateDir, *service); err != nil {
		return fmt.Errorf("noting the service's address: %w; set MANAGER_GRPC_URL=%s", err, *service)
	}
	fmt.Fprintf(stdout, "joined %s as %s (%s)\n", *service, joined.Name, joined.ID)
	fmt.Fprintf(stdout, "certificate  %s, until %s; the Manager renews it\n", e.Into.Certificate, joined.Expires.UTC().Format(time.DateOnly))
	if joined.Authorities {
		fmt.Fprintf(stdout, "authorities  %s\n", e.Into.Authorities)
	}
	if s.given["MANAGER_GRPC_URL"] && s.serverAddress != *service {
		fmt.Fprintf(stdout, "note         MANAGER_GRPC_URL=%s is set: the Manager connects there\n", s.serverAddress)
	}
	if s.given["MANAGER_GRPC_SERVER_CA_CERTS"] && !joined.Authorities {
		fmt.Fprintf(stdout, "note         MANAGER_GRPC_SERVER_CA_CERTS=%s is set, and was not needed\n", s.serverCAs)
	}
	_, err = fmt.Fprintln(stdout, "Start the Manager, or restart it.")
	return err
}

// enrolled names the files of a host that joined: those that variables name, and
// the state directory's.
func enrolled(s settings, stateDir string) manager.Enrolled {
	dir := filepath.Join(stateDir, vm.EnrolledDir)
	e := manager.Enrolled{
		Key:         filepath.Join(dir, vm.EnrolledKey),
		Certificate: filepath.Join(dir, vm.EnrolledCertificate),
		Authorities: filepath.Join(dir, vm.EnrolledAuthorities),
	}
	if s.clientCert != "" {
		e.Key, e.Certificate = s.clientKey, s.clientCert
	}
	if s.serverCAs != "" {
		e.Authorities = s.serverCAs
	}
	return e
}

// useEnrolled has the Manager connect as it joined, in what variables leave open.
func (s *settings) useEnrolled(stateDir string) *manager.Enrolled {
	e := enrolled(*s, stateDir)
	is := func(name string) bool { _, err := os.Stat(name); return err == nil }
	if s.clientCert == "" && is(e.Certificate) {
		s.clientCert, s.clientKey = e.Certificate, e.Key
	}
	if s.serverCAs == "" {
		if is(e.Authorities) {
			s.serverCAs = e.Authorities
		} else {
			e.Authorities = ""
		}
	} else {
		e.Authorities = "" // the operator's own file
	}
	if b, err := os.ReadFile(filepath.Join(stateDir, vm.EnrolledDir, vm.EnrolledServer)); err == nil && !s.given["MANAGER_GRPC_URL"] {
		_ = setServer(s, strings.TrimSpace(string(b))) // what is no address leaves the default
	}
	if s.clientCert == "" {
		return nil
	}
	return &e
}

func writeEnrolledServer(stateDir, address string) error {
	dir := filepath.Join(stateDir, vm.EnrolledDir)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, vm.EnrolledServer), []byte(address+"\n"), 0o600)
}

// ownStateDir refuses to leave files in another user's state directory, which its
// Manager could not use.
func ownStateDir(dir string) error {
	info, err := os.Stat(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok && int(st.Uid) != os.Geteuid() {
		return fmt.Errorf("%s (MANAGER_STATE_DIR) belongs to user id %d, and you are %d: run this as the Manager's user, such as: sudo -u cocos cocos-manager enroll …", dir, st.Uid, os.Geteuid())
	}
	return nil
}
