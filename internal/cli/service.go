package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"

	computationsv1 "github.com/ultravioletrs/cocos/api/computations/v1"
)

const (
	// loginFile is in the CLI's own folder, too. It has a secret.
	loginFile = "service.json"
	// serviceTimeout bounds a call that is answered at once.
	serviceTimeout = 45 * time.Second
	// defaultGRPCPort is where a service's gRPC is beside its console.
	defaultGRPCPort = "7001"
)

// login is the service that this person's programs are signed in to.
type login struct {
	Version int `json:"version"`
	// Service is its name: the console's public address. This person gave it, and
	// keys are registered with it.
	Service string `json:"service"`
	// Address of its gRPC, HOST:PORT.
	Address string `json:"address"`
	// CA is PEM, Fingerprint sha256:HEX of a certificate; both empty: the system's
	// authorities are trusted.
	CA          string `json:"ca,omitzero"`
	Fingerprint string `json:"fingerprint,omitzero"`
	// Email is the account's.
	Email string `json:"email"`
	// Kind is "session" or "token"; Secret lets this program in.
	Kind   string `json:"kind"`
	Secret string `json:"secret"`
}

func (l *login) version() *int { return &l.Version }

func (l *login) check() error {
	if _, err := serviceName(l.Service); err != nil {
		return fmt.Errorf("/service %w", err)
	}
	if host, port, err := net.SplitHostPort(l.Address); err != nil || host == "" || port == "" {
		return errors.New("/address is not HOST:PORT")
	}
	if l.Fingerprint != "" {
		if err := checkFingerprint(l.Fingerprint); err != nil {
			return fmt.Errorf("/fingerprint %w", err)
		}
	}
	if l.Secret == "" {
		return errors.New("/secret is missing")
	}
	return nil
}

// serviceName is the address of a service as keys are registered with it: without
// path or slash. Without TLS it is on this machine.
func serviceName(address string) (string, error) {
	u, err := url.Parse(address)
	if err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" || strings.Trim(u.Path, "/") != "" {
		return "", fmt.Errorf("is %q; expected an address such as https://cocos.example.org", address)
	}
	switch {
	case u.Scheme == "https":
	case u.Scheme == "http" && loopback(u.Hostname()):
	case u.Scheme == "http":
		return "", fmt.Errorf("is %q; without TLS (https) a service can be on this machine only", address)
	default:
		return "", fmt.Errorf("is %q; expected an address that begins with https://", address)
	}
	return u.Scheme + "://" + strings.ToLower(u.Host), nil
}

func loopback(host string) bool {
	a, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && a.IsLoopback()
}

// readLogin returns who is signed in, or says how to.
func (a *app) readLogin() (login, error) {
	l, err := a.anyLogin()
	if err != nil {
		return l, err
	}
	file, err := a.loginFile()
	if err != nil {
		return l, err
	}
	info, err := os.Stat(file)
	if err != nil {
		return l, err
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return l, advise(fmt.Errorf("%s has mode %04o: others could have read the secret in it", file, mode),
			"cocos-cli logout ends what it lets in by; then sign in again")
	}
	return l, nil
}

// anyLogin is readLogin also where others could have read the file.
func (a *app) anyLogin() (l login, err error) {
	file, err := a.loginFile()
	if err != nil {
		return l, err
	}
	if _, err := os.Stat(file); errors.Is(err, fs.ErrNotExist) {
		return l, &problem{reason: reasonNotSignedIn, err: errors.New("you are not signed in to a service"), hint: "cocos-cli login URL, with the address of the service's console"}
	}
	return l, a.readHome(loginFile, &l)
}

func (a *app) loginFile() (string, error) {
	dir, err := a.home()
	return filepath.Join(dir, loginFile), err
}

// forgetLogin removes what lets this program in.
func (a *app) forgetLogin() error {
	file, err := a.loginFile()
	if err != nil {
		return err
	}
	if err := os.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// service is the connection to a Computation Management service.
type service struct {
	login
	app    *app
	causes *causes
	conn   *grpc.ClientConn

	accounts     computationsv1.AccountsServiceClient
	workspaces   computationsv1.WorkspacesServiceClient
	invitations  computationsv1.InvitationsServiceClient
	keys         computationsv1.KeysServiceClient
	assets       computationsv1.AssetsServiceClient
	computations computationsv1.ComputationsServiceClient
	runs         computationsv1.RunsServiceClient
	hosts        computationsv1.HostsServiceClient
	audit        computationsv1.AuditServiceClient
}

// reach prepares a connection; nothing is sent before the first call.
func (a *app) reach(l login) (*service, error) {
	creds, err := serviceTLS(&l)
	if err != nil {
		return nil, err
	}
	s := &service{login: l, app: a, causes: &causes{}}
	options := []grpc.DialOption{
		grpc.WithTransportCredentials(watched{creds, s.causes}),
		grpc.WithContextDialer(s.causes.dial),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 20 * time.Second, Timeout: 10 * time.Second}),
		grpc.WithUserAgent(a.client()),
		grpc.WithDisableServiceConfig(),
		grpc.WithUnaryInterceptor(inTime),
	}
	if l.Secret != "" {
		options = append(options, grpc.WithPerRPCCredentials(bearer(l.Secret)))
	}
	if s.conn, err = grpc.NewClient("passthrough:///"+l.Address, options...); err != nil {
		return nil, fmt.Errorf("connecting to %s: %w", l.Address, err)
	}
	s.accounts = computationsv1.NewAccountsServiceClient(s.conn)
	s.workspaces = computationsv1.NewWorkspacesServiceClient(s.conn)
	s.invitations = computationsv1.NewInvitationsServiceClient(s.conn)
	s.keys = computationsv1.NewKeysServiceClient(s.conn)
	s.assets = computationsv1.NewAssetsServiceClient(s.conn)
	s.computations = computationsv1.NewComputationsServiceClient(s.conn)
	s.runs = computationsv1.NewRunsServiceClient(s.conn)
	s.hosts = computationsv1.NewHostsServiceClient(s.conn)
	s.audit = computationsv1.NewAuditServiceClient(s.conn)
	return s, nil
}

// client is what this program calls itself in the list of sessions.
func (a *app) client() string {
	if v := a.env.Version; v != "" {
		return "cocos-cli " + v
	}
	return "cocos-cli"
}

func (s *service) close() {
	s.conn.Close() //nolint:errcheck // nothing is in flight
}

// bearer is a secret that goes with each call, and over TLS only.
type bearer string

func (b bearer) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": "Bearer " + string(b)}, nil
}

func (bearer) RequireTransportSecurity() bool { return true }

// inTime bounds each call by itself: between two a person may be asked.
func inTime(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, call grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	ctx, cancel := context.WithTimeout(ctx, serviceTimeout)
	defer cancel()
	return call(ctx, method, req, reply, cc, opts...)
}

// withService runs a command with the service that this person is signed in to.
func (a *app) withService(cmd *cobra.Command, do func(context.Context, *service) error) error {
	l, err := a.readLogin()
	if err != nil {
		return err
	}
	s, err := a.reach(l)
	if err != nil {
		return err
	}
	defer s.close()
	return do(cmd.Context(), s)
}
