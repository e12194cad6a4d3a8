// Command computations is a sample computations server. It asks the first
// Manager that connects for one run, prints everything that comes back, and
// tells which commands upload to the agent and fetch the result.
//
//	go run ./test/computations/main.go [-ttl DURATION] <algo-path> <public-key-path> <attested-tls-bool> <data-paths>
//
// docs/sample-server.md lists the variables that configure it.
package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"

	managerv1 "github.com/ultravioletrs/cocos/api/manager/v1"
	"github.com/ultravioletrs/cocos/internal/vm"
	"github.com/ultravioletrs/cocos/keys"
	"github.com/ultravioletrs/cocos/manifest"
	"github.com/ultravioletrs/cocos/test/computations/server"
)

const usage = `usage: computations [-ttl DURATION] <algo-path> <public-key-path> <attested-tls-bool> <data-paths>

  -ttl DURATION        how long the VM may live, in whole seconds, such as 90s or
                       2h; unset: as long as its host allows
  <algo-path>          an ELF program or a Python script
  <public-key-path>    PEM public key of the person who brings algorithm and data
                       and takes the result (cocos-cli keys makes one)
  <attested-tls-bool>  true: participants appraise the VM, whose TEE the variable
                       TEE names, before they send anything; false: they trust
                       the host
  <data-paths>         files and folders, with commas between them or as further
                       arguments; none is allowed

variables: HOST (127.0.0.1), PORT (7001), SERVER_CERT, SERVER_KEY, CA_FILE,
MANIFEST_FILE, EVENTS_FILE, ALGO_TYPE, ALGO_ARGS, ALGO_FILES, PYTHON_PACKAGES,
SCRATCH_BYTES, TEE, DATA_PUBLIC_KEY, APPROVAL_FILES; see docs/sample-server.md
`

// endGrace is how long the VM may take to go when this server is stopped.
const endGrace = 60 * time.Second

var errUsage = errors.New("usage")

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// A second signal ends the process at once.
	context.AfterFunc(ctx, stop)
	err := run(ctx, os.Args[1:], os.Getenv)
	stop()
	switch {
	case errors.Is(err, errUsage):
		fmt.Fprintf(os.Stderr, "computations: %v\n\n%s", err, usage)
		os.Exit(2)
	case err != nil:
		fmt.Fprintf(os.Stderr, "computations: %v\n", err)
		os.Exit(1)
	}
}

// sample is one run of this command.
type sample struct {
	computation  server.Computation
	frozen       manifest.Frozen
	manifestFile string
	publicKey    string
	runID        string
	address      string
	ttl          time.Duration
	// approvals are the files in which participants approve.
	approvals []string
}

func run(ctx context.Context, args []string, getenv func(string) string) (err error) {
	s, err := prepare(args, getenv)
	if err != nil {
		return err
	}
	host, port := orElse(getenv("HOST"), "127.0.0.1"), orElse(getenv("PORT"), "7001")
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return fmt.Errorf("PORT=%q is not a TCP port; expected 0 to 65535", port)
	}
	files, err := os.MkdirTemp("", "cocos-computations-")
	if err != nil {
		return err
	}
	// With the run its manifest and certificate have lost their use.
	defer func() { err = errors.Join(err, os.RemoveAll(files)) }()
	s.manifestFile = orElse(getenv("MANIFEST_FILE"), filepath.Join(files, "manifest.json"))
	if err := os.WriteFile(s.manifestFile, s.frozen.Raw, 0o644); err != nil {
		return fmt.Errorf("MANIFEST_FILE: %w", err)
	}
	tlsConfig, hint, err := certificate(host, getenv, files)
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", net.JoinHostPort(host, port))
	if err != nil {
		return fmt.Errorf("listening (HOST, PORT): %w", err)
	}
	refused := make(chan error, 1)
	srv, err := server.New(server.Config{TLS: tlsConfig, Journal: getenv("EVENTS_FILE"), Watch: func(e server.Entry) {
		fmt.Println(e)
		if err := s.react(e); err != nil {
			select {
			case refused <- err:
			default: // one reason to end is enough
			}
		}
	}})
	if err != nil {
		return errors.Join(fmt.Errorf("EVENTS_FILE: %w", err), listener.Close())
	}
	fmt.Printf("Manifest digest %s\nManifest        %s\n", s.frozen.Digest, s.manifestFile)
	s.howToApprove()
	fmt.Printf("Listening on    %s (TLS). Start a Manager with\n\n  MANAGER_GRPC_URL=%s %s%s cocos-manager\n\n", listener.Addr(), reachable(listener.Addr()), hint, s.managerTEE())

	serving, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	var group errgroup.Group
	group.Go(func() error { return srv.Serve(serving, listener) })
	group.Go(func() error {
		defer end()
		approvals, err := server.AwaitApprovals(ctx, s.frozen, s.approvals)
		if err != nil {
			return fmt.Errorf("APPROVAL_FILES: %w", err)
		}
		if ctx.Err() != nil {
			return nil
		}
		srv.Submit(&managerv1.RunRequest{RunId: s.runID, Manifest: s.frozen.Raw, Approvals: approvals, TtlSeconds: uint32(s.ttl / time.Second)})
		select {
		case err := <-refused:
			return err
		case <-ctx.Done():
			return s.finish(srv)
		case <-serving.Done():
			return nil
		}
	})
	return group.Wait()
}

// prepare turns the arguments into a frozen manifest.
func prepare(args []string, getenv func(string) string) (*sample, error) {
	flags := flag.NewFlagSet("computations", flag.ContinueOnError)
	flags.SetOutput(io.Discard) // the error says it
	ttl := flags.Duration("ttl", 0, "")
	if err := flags.Parse(args); err != nil {
		return nil, fmt.Errorf("%w: %w", errUsage, err)
	}
	if *ttl < 0 || *ttl%time.Second != 0 || *ttl/time.Second > math.MaxUint32 {
		return nil, fmt.Errorf("%w: -ttl is %v; expected whole seconds, 136 years at most, or 0: as long as the host allows", errUsage, *ttl)
	}
	args = flags.Args()
	if len(args) < 3 {
		return nil, fmt.Errorf("%w: %d arguments given; at least 3 are needed", errUsage, len(args))
	}
	owner, err := publicKey("<public-key-path>", args[1])
	if err != nil {
		return nil, err
	}
	s := &sample{publicKey: args[1], runID: uuid.NewString(), ttl: *ttl}
	s.computation = server.Computation{Algorithm: args[0], Type: manifest.AlgorithmType(getenv("ALGO_TYPE")), Owner: owner}
	if err := s.attested(args[2], getenv); err != nil {
		return nil, err
	}
	if name := getenv("DATA_PUBLIC_KEY"); name != "" {
		if s.computation.DataOwner, err = publicKey("DATA_PUBLIC_KEY", name); err != nil {
			return nil, err
		}
	}
	if t := s.computation.Type; t != "" && !slices.Contains(manifest.AlgorithmTypes(), t) {
		return nil, fmt.Errorf("ALGO_TYPE=%q is no type of algorithm; expected one of %q, or unset it", t, manifest.AlgorithmTypes())
	}
	if s.computation.Args, err = algorithmArgs(getenv("ALGO_ARGS")); err != nil {
		return nil, err
	}
	if err := s.inputs(args[3:], getenv); err != nil {
		return nil, err
	}
	if s.frozen, err = s.computation.Freeze(); err != nil {
		return nil, err
	}
	if got, want := len(s.approvals), len(s.frozen.Approvals); got != want {
		return nil, fmt.Errorf("APPROVAL_FILES names %d files; %d participants have to approve this manifest, each with what cocos-cli manifest approve prints in a file of its own", got, want)
	}
	return s, nil
}

// inputs takes <data-paths> and what else is brought with the algorithm.
func (s *sample) inputs(data []string, getenv func(string) string) error {
	c := &s.computation
	for _, arg := range data {
		c.Data = append(c.Data, listed(arg)...)
	}
	c.Files = listed(getenv("ALGO_FILES"))
	p := getenv("PYTHON_PACKAGES")
	switch names := listed(p); {
	case len(names) == 2:
		c.Python = manifest.Packages{Requirements: names[0], Wheels: names[1]}
	case p != "":
		return fmt.Errorf("PYTHON_PACKAGES=%q: expected the names of two of ALGO_FILES with a comma between them, such as requirements.txt,wheels", p)
	}
	if text := getenv("SCRATCH_BYTES"); text != "" {
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			return fmt.Errorf("SCRATCH_BYTES=%q is no number of bytes", text)
		}
		c.ScratchBytes = n
	}
	return nil
}

// listed are the parts of a list with commas between them.
func listed(text string) []string {
	return slices.DeleteFunc(strings.Split(text, ","), func(part string) bool { return part == "" })
}

// publicKey reads what is called by what.
func publicKey(what, name string) (keys.Public, error) {
	pem, err := os.ReadFile(name)
	if err != nil {
		return keys.Public{}, fmt.Errorf("%s: %w; cocos-cli keys makes a key", what, err)
	}
	k, err := keys.ParsePublicPEM(pem)
	if err != nil {
		return keys.Public{}, fmt.Errorf("%s %s: %w", what, name, err)
	}
	return k, nil
}

// attested takes <attested-tls-bool> and what goes with it.
func (s *sample) attested(arg string, getenv func(string) string) error {
	tee, files := manifest.TEE(getenv("TEE")), getenv("APPROVAL_FILES")
	switch arg {
	case "false":
		for name, value := range map[string]string{"TEE": string(tee), "APPROVAL_FILES": files} {
			if value != "" {
				return fmt.Errorf("%s=%q is of use where <attested-tls-bool> is true; unset it, or say true", name, value)
			}
		}
		return nil
	case "true":
	default:
		return fmt.Errorf("%w: <attested-tls-bool> is %q; expected true or false", errUsage, arg)
	}
	tees := slices.DeleteFunc(manifest.TEEs(), func(t manifest.TEE) bool { return t == manifest.TEENone })
	if !slices.Contains(tees, tee) {
		return fmt.Errorf("TEE=%q: <attested-tls-bool> is true, and the manifest names the TEE that has to vouch for the VM; set it to one of %q (cocos-manager check says what a host has; sim protects nothing)", tee, tees)
	}
	s.computation.Attested = tee
	s.approvals = listed(files)
	return nil
}

// managerTEE is what a Manager must be told for a TEE that every host has.
func (s *sample) managerTEE() string {
	if s.frozen.TEE == manifest.TEESim {
		return " MANAGER_QEMU_ENABLE_SIM=true"
	}
	return ""
}

// howToApprove tells who still has to, and how.
func (s *sample) howToApprove() {
	for i, name := range s.approvals {
		if i == 0 {
			fmt.Print("Waiting for the approvals of all participants:\n\n")
		}
		fmt.Printf("  cocos-cli manifest approve %s --key YOUR-KEY.pem > %s\n", quote(s.manifestFile), quote(name))
	}
	if len(s.approvals) > 0 {
		fmt.Println()
	}
}

// algorithmArgs takes words with spaces between them, or a JSON list where
// words have spaces in them.
func algorithmArgs(text string) ([]string, error) {
	if !strings.HasPrefix(text, "[") {
		return strings.Fields(text), nil
	}
	var args []string
	if err := json.Unmarshal([]byte(text), &args); err != nil {
		return nil, fmt.Errorf("ALGO_ARGS=%q: %w; expected words, or a JSON list of texts", text, err)
	}
	return args, nil
}

// certificate returns the server's TLS configuration, and what a Manager must
// be told to trust it.
func certificate(host string, getenv func(string) string, files string) (*tls.Config, string, error) {
	certFile, keyFile, caFile := getenv("SERVER_CERT"), getenv("SERVER_KEY"), getenv("CA_FILE")
	if certFile != "" || keyFile != "" {
		if caFile != "" {
			return nil, "", errors.New("CA_FILE is where a self-made certificate goes; unset it, or unset SERVER_CERT and SERVER_KEY")
		}
		pair, err := tls.LoadX509KeyPair(certFile, keyFile)
		if err != nil {
			return nil, "", fmt.Errorf("SERVER_CERT=%q with SERVER_KEY=%q: %w; set both, or neither to have one made", certFile, keyFile, err)
		}
		return &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{pair}},
			"MANAGER_GRPC_SERVER_CA_CERTS=<the CA of " + quote(certFile) + ">", nil
	}
	names := []string{"localhost", "127.0.0.1", "::1", host}
	if name, err := os.Hostname(); err == nil {
		names = append(names, name)
	}
	if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
		addrs, err := net.InterfaceAddrs()
		if err != nil {
			return nil, "", fmt.Errorf("listing this host's addresses: %w", err)
		}
		for _, a := range addrs {
			if n, ok := a.(*net.IPNet); ok {
				names = append(names, n.IP.String())
			}
		}
	}
	pair, ca, err := server.SelfSigned(names...)
	if err != nil {
		return nil, "", err
	}
	caFile = orElse(caFile, filepath.Join(files, "ca.pem"))
	if err := os.WriteFile(caFile, ca, 0o644); err != nil {
		return nil, "", fmt.Errorf("CA_FILE: %w", err)
	}
	return &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{pair}},
		"MANAGER_GRPC_SERVER_CA_CERTS=" + quote(caFile), nil
}

// react says what can be done next. A refused run is the end.
func (s *sample) react(e server.Entry) error {
	switch {
	case e.RunID != s.runID:
	case e.Type == "run_reply" && len(e.Faults) > 0:
		return errors.New("the Manager refused the run; each reason stands above")
	case e.Type == "run_reply":
		s.address = e.AgentAddress
	case e.Kind == vm.EventReady && e.Source == "agent":
		s.commands(e.Attributes["agent_key"])
	}
	return nil
}

func (s *sample) commands(pin string) {
	private := strings.TrimSuffix(s.publicKey, ".pub.pem") + ".pem"
	if _, err := os.Stat(private); err != nil || private == s.publicKey {
		private = "YOUR-PRIVATE-KEY.pem"
	}
	trust := "--agent-key " + quote(pin)
	if s.frozen.AttestedTLS {
		trust = "--policy YOUR-POLICY.json"
	}
	connect := fmt.Sprintf("--agent %s %s --key %s --manifest %s",
		quote(s.address), trust, quote(private), quote(s.manifestFile))
	fmt.Printf("\nThe agent is ready. Upload with\n\n  cocos-cli algo %s %s\n", strings.Join(s.algorithmPaths(), " "), connect)
	for _, d := range s.computation.Data {
		fmt.Printf("  cocos-cli data %s %s\n", quote(d), connect)
	}
	fmt.Printf("\nand when the state is ResultReady fetch the result with\n\n  cocos-cli result --out result %s\n\n", connect)
}

// algorithmPaths are what cocos-cli algo takes.
func (s *sample) algorithmPaths() []string {
	words := []string{quote(s.computation.Algorithm)}
	for i, f := range s.computation.Files {
		words = append(words, "--file", quote(s.frozen.Algorithm.Files[i].Name+"="+f))
	}
	return words
}

// finish asks for the run's end and waits until nothing is left of its VM.
func (s *sample) finish(srv *server.Server) error {
	ctx, cancel := context.WithTimeout(context.Background(), endGrace)
	defer cancel()
	if !srv.Offered(s.runID) {
		return nil
	}
	if reply, _, err := srv.Reply(ctx, s.runID); err != nil || reply.GetRefusal() != nil {
		return err // nothing was started, or it can't be told
	}
	for _, e := range srv.Events(s.runID) {
		if e.GetKind() == vm.EventRemoved {
			return nil
		}
	}
	fmt.Println("Stopping the run; a second signal ends this server at once.")
	if err := srv.Stop(s.runID); err != nil {
		return fmt.Errorf("%w; its VM goes on", err)
	}
	if _, err := srv.EventOfKind(ctx, s.runID, vm.EventRemoved); err != nil {
		return fmt.Errorf("%w; the VM may go on", err)
	}
	return nil
}

// reachable is an address at which this host reaches a listener.
func reachable(a net.Addr) string {
	host, port, err := net.SplitHostPort(a.String())
	if ip := net.ParseIP(host); err != nil || ip == nil || !ip.IsUnspecified() {
		return a.String()
	}
	return net.JoinHostPort("localhost", port)
}

func orElse(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

// quote makes s one word of a shell command.
func quote(s string) string {
	if s != "" && strings.IndexFunc(s, func(r rune) bool {
		return !strings.ContainsRune("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-+=:,./@", r)
	}) < 0 {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
