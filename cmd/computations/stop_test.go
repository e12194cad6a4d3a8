package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	computationsv1 "github.com/ultravioletrs/cocos/api/computations/v1"
	"github.com/ultravioletrs/cocos/internal/computations"
	"github.com/ultravioletrs/cocos/internal/store/storetest"
	"github.com/ultravioletrs/cocos/internal/telemetry/otlptest"
)

// password is a person's in these tests.
const password = "a long and winding road"

// filled makes a data folder with computations in it, one of which runs. Who has
// the session may watch it.
func filled(t *testing.T) (dir string, session string, run computations.ID) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "data")
	s, err := parse([]string{"COMPUTATIONS_DATA_DIR=" + dir})
	if err != nil {
		t.Fatal(err)
	}
	p, err := open(t.Context(), s, discard())
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := p.store.Close(); err != nil {
			t.Error(err)
		}
	}()
	link, err := p.service.Bootstrap(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	session, err = p.service.RedeemLink(t.Context(), link[strings.LastIndex(link, "/")+1:], "Ada", "ada@example.org", password, "test")
	if err != nil {
		t.Fatal(err)
	}
	who, err := p.service.Authenticate(t.Context(), session)
	if err != nil {
		t.Fatal(err)
	}
	f := storetest.Fill(t, p.store, 10)
	if err := p.store.Update(t.Context(), func(w computations.Writer) error {
		r, err := w.LockRun(f.Run)
		if err != nil {
			return err
		}
		r.State, r.Ended = computations.RunRunning, time.Time{}
		return errors.Join(w.PutRun(r), w.PutMember(computations.Member{Workspace: f.Workspace, User: who.User, Role: computations.RoleAdministrator, Joined: time.Now()}))
	}); err != nil {
		t.Fatal(err)
	}
	return dir, session, f.Run
}

// client is a connection to the service's gRPC, by whatever certificate it shows.
func (r *running) client() *grpc.ClientConn {
	r.t.Helper()
	conn, err := grpc.NewClient(r.grpc, grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{InsecureSkipVerify: true})))
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// signedIn is a context for calls with a session.
func signedIn(t *testing.T, session string) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+session)
}

// live opens the live page of a run and reads what comes first.
func (r *running) live(run computations.ID, session string) *bufio.Reader {
	r.t.Helper()
	req, err := http.NewRequestWithContext(r.t.Context(), http.MethodGet, "http://"+r.http+"/r/"+string(run)+"/stream", nil)
	if err != nil {
		r.t.Fatal(err)
	}
	req.AddCookie(&http.Cookie{Name: "cocos", Value: session})
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = resp.Body.Close() })
	if resp.StatusCode != http.StatusOK {
		r.t.Fatalf("the live page: %s", resp.Status)
	}
	body := bufio.NewReader(resp.Body)
	if line, err := body.ReadString('\n'); err != nil || !strings.HasPrefix(line, "retry:") {
		r.t.Fatalf("%q, %v", line, err)
	}
	return body
}

// half sends a form but for its last byte, and returns what sends that and reads
// the answer's status.
func (r *running) half() (finish func() (status int, err error)) {
	r.t.Helper()
	conn, err := net.Dial("tcp", r.http)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = conn.Close() })
	form := url.Values{"email": {"ada@example.org"}, "password": {password}}.Encode()
	if _, err := fmt.Fprintf(conn, "POST /sign-in HTTP/1.1\r\nHost: %s\r\nOrigin: http://%[1]s\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: %d\r\n\r\n%s",
		r.http, len(form), form[:len(form)-1]); err != nil {
		r.t.Fatal(err)
	}
	return func() (int, error) {
		if _, err := io.WriteString(conn, form[len(form)-1:]); err != nil {
			return 0, err
		}
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			return 0, err
		}
		return resp.StatusCode, resp.Body.Close()
	}
}

// TestStopWithOpenStreams: those who watch are sent away at once, to come again,
// and what was being asked is answered.
func TestStopWithOpenStreams(t *testing.T) {
	dir, session, run := filled(t)
	r := start(t, dir)
	page := r.live(run, session)
	watch, err := computationsv1.NewRunsServiceClient(r.client()).Watch(signedIn(t, session), &computationsv1.WatchRequest{RunId: string(run)})
	if err != nil {
		t.Fatal(err)
	}
	if first, err := watch.Recv(); err != nil || first.GetRun().GetId() != string(run) {
		t.Fatalf("%v, %v", first, err)
	}
	finish := r.half()
	// The server has the request when it has read its head: ask it something later.
	time.Sleep(100 * time.Millisecond)
	began := time.Now()
	r.stop()
	if rest, err := io.ReadAll(page); err != nil || strings.Contains(string(rest), "event: end") {
		t.Errorf("the live page ended with %v: %q; an end would keep the browser away", err, rest)
	}
	for err == nil {
		_, err = watch.Recv()
	}
	if status.Code(err) != codes.Unavailable {
		t.Errorf("the watch ended with %v", err)
	}
	if answer, err := finish(); err != nil || answer != http.StatusSeeOther {
		t.Errorf("signing in while the service ends: %d, %v", answer, err)
	}
	r.end()
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("it took %v, with a grace of 20 s for those who need it", took)
	}
}

// TestStopCutsOffWhoIsTooSlow: one request that never ends holds nobody up for
// longer than the grace.
func TestStopCutsOffWhoIsTooSlow(t *testing.T) {
	r := start(t, filepath.Join(t.TempDir(), "data"), "COMPUTATIONS_SHUTDOWN_GRACE=1s")
	finish := r.half()
	time.Sleep(100 * time.Millisecond)
	began := time.Now()
	r.end()
	if took := time.Since(began); took < time.Second || took > 10*time.Second {
		t.Errorf("it took %v", took)
	}
	if answer, err := finish(); err == nil {
		t.Errorf("it was answered with %d after the end", answer)
	}
}

// relay passes a PostgreSQL server's socket on, until it is cut.
type relay struct {
	t       *testing.T
	to, dir string
	mu      sync.Mutex
	open    []net.Conn
	l       net.Listener
}

func (r *relay) listen() {
	r.t.Helper()
	l, err := net.Listen("unix", filepath.Join(r.dir, ".s.PGSQL.5432"))
	if err != nil {
		r.t.Fatal(err)
	}
	r.l = l
	go func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("unix", filepath.Join(r.to, ".s.PGSQL.5432"))
			if err != nil {
				_ = in.Close()
				continue
			}
			r.mu.Lock()
			r.open = append(r.open, in, out)
			r.mu.Unlock()
			go func() { _, _ = io.Copy(in, out); _ = in.Close() }()
			go func() { _, _ = io.Copy(out, in); _ = out.Close() }()
		}
	}()
}

func (r *relay) cut() {
	_ = r.l.Close()
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range r.open {
		_ = c.Close()
	}
	r.open = nil
}

// TestReadyWithTheDatabase: a service whose database is gone lives and is not
// ready, and is ready again when the database is back.
func TestReadyWithTheDatabase(t *testing.T) {
	u, err := url.Parse(storetest.PostgreSQL(t).URL)
	if err != nil {
		t.Fatal(err)
	}
	q := u.Query()
	between := &relay{t: t, to: q.Get("host"), dir: t.TempDir()}
	between.listen()
	defer between.cut()
	q.Set("host", between.dir)
	u.RawQuery = q.Encode()
	r := start(t, filepath.Join(t.TempDir(), "data"), "COMPUTATIONS_DATABASE="+u.String(), "COMPUTATIONS_SHUTDOWN_GRACE=1s")
	becomes := func(want int) (body string) {
		t.Helper()
		for end := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
			is, body := r.get("http://" + r.metrics + "/readyz")
			if is == want {
				return body
			}
			if time.Now().After(end) {
				t.Fatalf("/readyz is %d, not %d: %s", is, want, body)
			}
		}
	}
	between.cut()
	if body := becomes(http.StatusServiceUnavailable); !strings.Contains(body, "the log says why") {
		t.Errorf("%s", body)
	}
	if is, _ := r.get("http://" + r.metrics + "/healthz"); is != http.StatusOK {
		t.Errorf("/healthz is %d: the process lives", is)
	}
	between.listen()
	becomes(http.StatusOK)
	r.end()
}

// TestSpansOfTheService: calls, pages and what they ask of the database are
// traced under names that tell nothing of what was asked.
func TestSpansOfTheService(t *testing.T) {
	dir, session, run := filled(t)
	collector := otlptest.New(t)
	r := start(t, dir, "COCOS_JAEGER_URL="+collector.URL)
	page := r.live(run, session)
	if code, _ := r.get("http://" + r.http + "/link/cl_notasecret"); code == 0 {
		t.Error("no answer")
	}
	accounts := computationsv1.NewAccountsServiceClient(r.client())
	if _, err := accounts.GetAccount(signedIn(t, session), &computationsv1.GetAccountRequest{}); err != nil {
		t.Fatal(err)
	}
	if _, err := accounts.SignIn(signedIn(t, session), &computationsv1.SignInRequest{Email: "ada@example.org", Password: "wrong", Client: "test"}); status.Code(err) != codes.Unauthenticated {
		t.Fatal(err)
	}
	r.end()
	if _, err := io.ReadAll(page); err != nil {
		t.Error(err)
	}
	const getAccount, signIn, link = "cocos.computations.v1.AccountsService/GetAccount", "cocos.computations.v1.AccountsService/SignIn", "GET /link/{secret}"
	named := map[string]otlptest.Span{}
	for _, s := range collector.Spans() {
		named[s.Name] = s
		for name, value := range s.Attributes {
			switch name {
			case "rpc.system.name", "rpc.method", "rpc.response.status_code", "http.request.method", "http.route", "http.response.status_code", "db.system.name", "cocos.attempts":
			default:
				t.Errorf("%s says %s=%q", s.Name, name, value)
			}
		}
		if text := fmt.Sprint(s); strings.Contains(text, "notasecret") || strings.Contains(text, session) || strings.Contains(text, "example.org") || strings.Contains(text, string(run)) {
			t.Errorf("a span tells too much: %s", text)
		}
		if s.Resource["service.name"] != "cocos-computations" {
			t.Errorf("%s is of %v", s.Name, s.Resource)
		}
		if strings.HasPrefix(s.Name, "store.") && s.Parent == "" {
			t.Errorf("%s is nobody's part", s.Name)
		}
	}
	for name, want := range map[string]string{getAccount: "OK", signIn: "Unauthenticated", link: named[link].Attributes["http.response.status_code"]} {
		s, ok := named[name]
		if !ok || s.Parent != "" || s.Error || s.Attributes["rpc.response.status_code"]+s.Attributes["http.response.status_code"] != want {
			t.Errorf("%s: %+v", name, s)
		}
		if !slices.ContainsFunc(collector.Spans(), func(p otlptest.Span) bool { return p.Parent == s.ID && strings.HasPrefix(p.Name, "store.") }) {
			t.Errorf("%s asks nothing of the database", name)
		}
	}
	if _, ok := named["GET /r/{run}/stream"]; ok {
		t.Error("a live page is traced, as long as it lasts")
	}
}

// TestFolderOfAnother: root, too, leaves no files in the service's folder.
func TestFolderOfAnother(t *testing.T) {
	dir := t.TempDir()
	if err := ownDataDir(dir, os.Geteuid()); err != nil {
		t.Error(err)
	}
	if err := ownDataDir(dir, os.Geteuid()+1); err == nil || !strings.Contains(err.Error(), "COMPUTATIONS_DATA_DIR") || !strings.Contains(err.Error(), "systemd-run") {
		t.Errorf("%v", err)
	}
}

// TestTellsSystemd: systemd hears that the service is ready when it serves.
func TestTellsSystemd(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	t.Setenv("NOTIFY_SOCKET", socket)
	r := start(t, filepath.Join(t.TempDir(), "data"))
	if err := conn.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 64)
	if n, err := conn.Read(b); err != nil || string(b[:n]) != "READY=1" {
		t.Errorf("%q, %v", b[:n], err)
	}
	r.end()
}
