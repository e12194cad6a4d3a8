package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	osuser "os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	controlv1 "github.com/ultravioletrs/cocos/api/control/v1"
	"github.com/ultravioletrs/cocos/internal/rpcerr"
)

const (
	// installedSocket is where the installed Manager listens, treeSocket where
	// one does that was started in the source tree.
	installedSocket = "/run/cocos/manager.sock"
	treeSocket      = "cmd/manager/tmp/control.sock"
	socketVar       = "COCOS_MANAGER_SOCKET"
	// controlTimeout bounds a call that is answered at once. A stop of a VM whose
	// shim hangs takes longest.
	controlTimeout = 2 * time.Minute
	// reasonSocket: this user may not use the socket.
	reasonSocket = "SOCKET_PERMISSION"
)

// managerCmd is for the operator of a host.
func (a *app) managerCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "manager",
		Short: "See what the Manager of this host does, and stop VMs",
		Long: `See what the Manager of this host does, and stop VMs. For the host's operators:
it speaks with the Manager over a unix socket, whose permissions say who may. A
RUN is named by its id, or by the beginning of it where no other run begins so.`,
	}
	cmd.PersistentFlags().StringVar(&a.socket, "socket", "", fmt.Sprintf("the Manager's unix socket, a `FILE` [$%s]; default: %s, else %s of the source tree", socketVar, installedSocket, treeSocket))
	group(cmd,
		a.managerStatusCmd(),
		a.managerListCmd(),
		a.managerShowCmd(),
		a.managerLogsCmd(),
		a.managerStopCmd(),
		a.managerQemuArgsCmd(),
	)
	return cmd
}

// host is the Manager of this host, and the connection to it.
type host struct {
	controlv1.ControlServiceClient
	socket string
	causes *causes
	conn   *grpc.ClientConn
}

// host prepares a connection; nothing is sent before the first call.
func (a *app) host() (*host, error) {
	socket, err := a.managerSocket()
	if err != nil {
		return nil, err
	}
	h := &host{socket: socket, causes: &causes{}}
	h.conn, err = grpc.NewClient("passthrough:///manager",
		grpc.WithTransportCredentials(insecure.NewCredentials()), // the kernel says who is who
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			conn, err := (&net.Dialer{}).DialContext(ctx, "unix", socket)
			h.causes.set(err)
			return conn, err
		}),
		grpc.WithUserAgent("cocos-cli"),
		grpc.WithDisableServiceConfig(),
	)
	if err != nil {
		return nil, fmt.Errorf("connecting to %s: %w", socket, err)
	}
	h.ControlServiceClient = controlv1.NewControlServiceClient(h.conn)
	return h, nil
}

func (h *host) close() {
	h.conn.Close() //nolint:errcheck // nothing is in flight
}

// managerSocket is the one that is named, or the first that is there.
func (a *app) managerSocket() (string, error) {
	for _, named := range []string{a.socket, a.env.Getenv(socketVar)} {
		if named != "" {
			return named, nil
		}
	}
	places := []string{installedSocket}
	if root := sourceTree(); root != "" {
		places = append(places, filepath.Join(root, treeSocket))
	}
	for _, place := range places {
		if _, err := os.Stat(place); !errors.Is(err, fs.ErrNotExist) {
			return place, nil
		}
	}
	return "", &problem{reason: reasonUnreachable, err: fmt.Errorf("no Manager is running here: there is no socket %s", strings.Join(places, ", nor ")),
		hint: startHint + "; where its socket is elsewhere, give --socket or set " + socketVar}
}

const startHint = "start it: systemctl start cocos-manager, or build/cocos-manager in the source tree"

// sourceTree finds the root of this module's sources above the working
// directory; empty if it does not lie in them.
func sourceTree() string {
	dir, err := os.Getwd()
	if err != nil {
		return ""
	}
	for ; ; dir = filepath.Dir(dir) {
		if b, err := os.ReadFile(filepath.Join(dir, "go.mod")); err == nil {
			first, _, _ := strings.Cut(string(b), "\n")
			if strings.TrimSpace(first) == "module github.com/ultravioletrs/cocos" {
				return dir
			}
		}
		if dir == filepath.Dir(dir) {
			return ""
		}
	}
}

// explain turns the error of a call into what happened and what to do next.
func (h *host) explain(doing string, err error) error {
	s, ok := status.FromError(err)
	if !ok {
		return fmt.Errorf("%s: %w", doing, err)
	}
	if d, ok := rpcerr.DetailOf(err); ok {
		return &problem{err: fmt.Errorf("%s: %s", doing, s.Message()), reason: string(d.Reason), field: d.Field, hint: d.Hint}
	}
	switch s.Code() {
	case codes.Unavailable, codes.DeadlineExceeded:
		return h.unreachable(doing, s)
	case codes.Unimplemented:
		return advise(fmt.Errorf("%s: the Manager does not know this call", doing), "the Manager is of another version than this program: cocos-cli version, cocos-manager version")
	}
	return advise(fmt.Errorf("%s: the Manager failed: %s", doing, s.Message()), "its log tells more: journalctl -u cocos-manager")
}

func (h *host) unreachable(doing string, s *status.Status) error {
	cause := h.causes.last()
	fail := func(hint, format string, args ...any) error {
		return &problem{err: fmt.Errorf(doing+": "+format, args...), reason: reasonUnreachable, hint: hint}
	}
	switch {
	case errors.Is(cause, fs.ErrPermission):
		return &problem{err: fmt.Errorf("%s: you may not use the Manager's socket %s", doing, h.socket), reason: reasonSocket, hint: accessHint(h.socket)}
	case errors.Is(cause, fs.ErrNotExist):
		return fail(startHint+"; where its socket is elsewhere, give --socket or set "+socketVar, "no Manager is running here: there is no socket %s", h.socket)
	case errors.Is(cause, syscall.ECONNREFUSED) && !isSocket(h.socket):
		return fail("check --socket and "+socketVar, "%s is not a socket", h.socket)
	case errors.Is(cause, syscall.ECONNREFUSED):
		return fail(startHint, "nobody listens on %s: the Manager that made it has ended", h.socket)
	case cause != nil:
		return fail("check --socket and "+socketVar, "can't reach the Manager: %w", cause)
	case s.Code() == codes.DeadlineExceeded:
		return fail("see its log: journalctl -u cocos-manager", "the Manager does not answer on %s", h.socket)
	}
	return fail("try again; if it stays so, see the Manager's log", "the connection to the Manager broke: %s", s.Message())
}

// isSocket is also true of what can't be looked at.
func isSocket(name string) bool {
	info, err := os.Stat(name)
	return err != nil || info.Mode()&fs.ModeSocket != 0
}

// accessHint says how to get at the socket.
func accessHint(socket string) string {
	group := "cocos"
	if info, err := os.Stat(socket); err == nil && info.Mode().Perm()&0o060 == 0o060 {
		if stat, ok := info.Sys().(*syscall.Stat_t); ok {
			group = strconv.FormatUint(uint64(stat.Gid), 10)
			if g, err := osuser.LookupGroupId(group); err == nil {
				group = g.Name
			}
		}
	}
	return fmt.Sprintf("use sudo, or join the group that may (MANAGER_CONTROL_GROUP, usually %s): sudo usermod -aG %s \"$USER\", then log in again", group, group)
}

// withHost runs a command that makes short calls.
func (a *app) withHost(cmd *cobra.Command, do func(context.Context, *host) error) error {
	h, err := a.host()
	if err != nil {
		return err
	}
	defer h.close()
	ctx, cancel := context.WithTimeout(cmd.Context(), controlTimeout)
	defer cancel()
	return do(ctx, h)
}

// completeRuns offers the runs of the Manager to a shell.
func (a *app) completeRuns(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	h, err := a.host()
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	defer h.close()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	list, err := h.List(ctx, &controlv1.ListRequest{})
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var out []string
	for _, r := range list.GetRuns() {
		out = append(out, r.GetRunId())
	}
	return out, cobra.ShellCompDirectiveNoFileComp
}
