package userapi_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	computationsv1 "github.com/ultravioletrs/cocos/api/computations/v1"
	"github.com/ultravioletrs/cocos/internal/computations"
)

const protoPackage = "cocos.computations.v1"

// descriptors are those of all services of the API, by "Service/Method".
func descriptors() map[string]protoreflect.MethodDescriptor {
	all := map[string]protoreflect.MethodDescriptor{}
	protoregistry.GlobalFiles.RangeFilesByPackage(protoPackage, func(f protoreflect.FileDescriptor) bool {
		for i := range f.Services().Len() {
			s := f.Services().Get(i)
			for j := range s.Methods().Len() {
				m := s.Methods().Get(j)
				all[string(s.Name())+"/"+string(m.Name())] = m
			}
		}
		return true
	})
	return all
}

// answer is all that a caller gets.
type answer struct {
	code  codes.Code
	text  string
	bytes []byte // the status with its details, and the trailers
	body  string // the messages, as JSON
}

// call makes a call with an authorization value; empty: none.
func call(t *testing.T, conn *served, d protoreflect.MethodDescriptor, authorization string, req proto.Message) answer {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if authorization != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, "authorization", authorization)
	}
	kind, err := protoregistry.GlobalTypes.FindMessageByName(d.Output().FullName())
	if err != nil {
		t.Fatal(err)
	}
	var (
		path    = fmt.Sprintf("/%s/%s", d.Parent().FullName(), d.Name())
		trailer metadata.MD
		body    strings.Builder
	)
	note := func(m proto.Message) {
		b, err := protojson.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		body.Write(b)
	}
	if d.IsStreamingServer() {
		var stream grpc.ClientStream
		stream, err = conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, path)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(stream.SendMsg(req), stream.CloseSend()); err != nil && !errors.Is(err, io.EOF) {
			t.Fatal(err)
		}
		for err == nil {
			m := kind.New().Interface()
			if err = stream.RecvMsg(m); err == nil {
				note(m)
			}
		}
		if errors.Is(err, io.EOF) {
			err = nil
		}
		trailer = stream.Trailer()
	} else {
		m := kind.New().Interface()
		if err = conn.Invoke(ctx, path, req, m, grpc.Trailer(&trailer)); err == nil {
			note(m)
		}
	}
	s := status.Convert(err)
	b, marshalErr := proto.MarshalOptions{Deterministic: true}.Marshal(s.Proto())
	if marshalErr != nil {
		t.Fatal(marshalErr)
	}
	return answer{s.Code(), s.Message(), append(b, fmt.Sprint(trailer)...), body.String()}
}

// nowhere is req with every name of a thing of the fixture replaced by one that
// names nothing.
func (w *world) nowhere(req proto.Message) proto.Message {
	return replaced(req, func(id string) string {
		if _, known := w.kinds[computations.ID(id)]; known {
			return string(computations.NewID())
		}
		return id
	})
}

// replaced is a copy with each string passed through f.
func replaced(req proto.Message, f func(string) string) proto.Message {
	req = proto.Clone(req)
	walk(req.ProtoReflect(), func(v string) string { return f(v) })
	return req
}

func walk(m protoreflect.Message, f func(string) string) {
	m.Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case fd.IsList():
			for i := range v.List().Len() {
				switch fd.Kind() {
				case protoreflect.StringKind:
					v.List().Set(i, protoreflect.ValueOfString(f(v.List().Get(i).String())))
				case protoreflect.MessageKind:
					walk(v.List().Get(i).Message(), f)
				}
			}
		case fd.IsMap():
		case fd.Kind() == protoreflect.StringKind:
			m.Set(fd, protoreflect.ValueOfString(f(v.String())))
		case fd.Kind() == protoreflect.MessageKind:
			walk(v.Message(), f)
		}
		return true
	})
}

// state is everything that a call could have changed, in the audit log's words.
func (w *world) state() int64 {
	n, _, err := w.svc.VerifyAudit(w.t.Context())
	w.check(err)
	return n
}

// standing of somebody to what the method is about.
func (w *world) standing(name string, m *method) computations.Standing {
	s := computations.Standing{Operator: name == "olga", Role: people[name], Owner: m.owner == name}
	if m.inner {
		s.Parts = partsOf[name]
	}
	return s
}

// expected is the answer to somebody's call; OK: who it is is no reason to refuse.
func (w *world) expected(name string, m *method) codes.Code {
	s := w.standing(name, m)
	switch m.scope {
	case service:
		if !computations.Allow(s, m.action) {
			return codes.PermissionDenied
		}
	case tenant:
		switch {
		case !computations.Allow(s, m.see):
			return codes.NotFound
		case !computations.Allow(s, m.action):
			return codes.PermissionDenied
		}
	case own:
		switch {
		case m.owner == "" || m.owner == name:
		case strings.Contains(fmt.Sprintf("%T", m.request(w)), "AcceptInvitationRequest"):
			return codes.PermissionDenied // who has the link knows of it
		default:
			return codes.NotFound
		}
	}
	return codes.OK
}

func TestEveryMethodHasAnEntry(t *testing.T) {
	ds := descriptors()
	for name := range ds {
		if _, there := methods[name]; !there {
			t.Errorf("%s has no entry in the table: say who may call it, with a request", name)
		}
	}
	for name := range methods {
		if _, there := ds[name]; !there {
			t.Errorf("the table has %s, and the API has not", name)
		}
	}
	answered := map[string]bool{}
	for service, info := range newWorld(t).serve().server.GetServiceInfo() {
		for _, m := range info.Methods {
			answered[strings.TrimPrefix(service, protoPackage+".")+"/"+m.Name] = true
		}
	}
	for name := range ds {
		if !answered[name] {
			t.Errorf("%s is not served", name)
		}
	}
}

// TestEveryMethodRefusesEveryWrongIdentity tries each method with no credential,
// with ones that hold no more, and as everybody in the fixture.
func TestEveryMethodRefusesEveryWrongIdentity(t *testing.T) {
	ds := descriptors()
	all := maps.Clone(methods)
	all["AuditService/ListAudit of the service"] = serviceAudit
	// What is refused changes nothing, so that one world does for all of it.
	shared := newWorld(t)
	sharedConn := shared.serve()
	bad := map[string]map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		m := all[name]
		d := ds[strings.TrimSuffix(name, " of the service")]
		if d == nil {
			continue // TestEveryMethodHasAnEntry says so
		}
		t.Run(name, func(t *testing.T) {
			w, conn := shared.of(t), sharedConn
			want := rightAnswer[name]
			req := m.request(w)
			if m.scope != open && bad[m.who] == nil {
				bad[m.who] = w.badCredentials(m.who)
			}
			before := w.state()
			if m.scope != open {
				w.refusesBadCredentials(t, conn, d, bad[m.who], req)
			}
			// Who may not first: nothing has changed then.
			var allowed []string
			for _, somebody := range slices.Sorted(maps.Keys(people)) {
				if somebody == "dan" {
					continue // among the bad credentials
				}
				if m.scope == open || w.expected(somebody, &m) == codes.OK {
					allowed = append(allowed, somebody)
					continue
				}
				w.refuses(t, conn, d, &m, somebody, req)
			}
			if after := w.state(); after != before {
				t.Errorf("refused calls changed something: the audit log grew by %d entries", after-before)
			}
			// The right one is let in: the request is right in all but who asks.
			if !reads(d) {
				w = newWorld(t)
				conn = w.serve()
				req = m.request(w)
			}
			if m.scope == open {
				if got := call(t, conn, d, "", req); got.code != want {
					t.Errorf("without a credential, which it doesn't need: %v: %s", got.code, got.text)
				}
				return
			}
			if !slices.Contains(allowed, m.who) {
				t.Fatalf("the table says that %s may call it, and Allow says not", m.who)
			}
			if got := call(t, conn, d, "Bearer "+w.secrets[m.who], req); got.code != want {
				t.Errorf("%s: %v: %s", m.who, got.code, got.text)
			}
			for _, somebody := range allowed {
				if somebody == m.who {
					continue
				}
				got := call(t, conn, d, "Bearer "+w.secrets[somebody], req)
				if slices.Contains([]codes.Code{codes.Unauthenticated, codes.NotFound, codes.Internal, codes.Unknown}, got.code) ||
					got.code == codes.PermissionDenied && !strings.Contains(name, "Supply") && !strings.Contains(name, "Approve") {
					t.Errorf("%s may call it, and got %v: %s", somebody, got.code, got.text)
				}
				w.leaksNothing(t, somebody, got)
			}
		})
	}
}

// reads tells whether a method changes nothing.
func reads(d protoreflect.MethodDescriptor) bool {
	return slices.ContainsFunc([]string{"Get", "List", "Count", "Export", "DryRun", "Watch"}, func(verb string) bool {
		return strings.HasPrefix(string(d.Name()), verb)
	})
}

// badCredentials are authorization values that let nobody in, by what is wrong with
// them; some were somebody's.
func (w *world) badCredentials(somebody string) map[string]string {
	right := w.secrets[somebody]
	expired, revoked, link := secretOf("cs_", "expired-"+somebody), secretOf("ct_", "revoked-"+somebody), secretOf("cl_", "link-"+somebody)
	w.credential(somebody, computations.Session, expired, -time.Second)
	id := w.credential(somebody, computations.AccessToken, revoked, time.Hour)
	w.put(func(tx computations.Writer) error { return tx.DeleteCredential(w.users[somebody], id) })
	w.credential(somebody, computations.SignInLink, link, time.Hour)
	return map[string]string{
		"garbage":                     "Bearer " + secretOf("cs_", "garbage"),
		"no secret at all":            "Bearer x",
		"an empty secret":             "Bearer ",
		"another scheme":              "Basic " + right,
		"no scheme":                   right,
		"a very long secret":          "Bearer " + strings.Repeat("cs_", 1000),
		"an expired session":          "Bearer " + expired,
		"a revoked token":             "Bearer " + revoked,
		"a sign-in link":              "Bearer " + link,
		"an invitation's secret":      "Bearer " + w.links["invitation"],
		"a disabled user's session":   "Bearer " + w.secrets["dan"],
		"a secret with something off": "Bearer " + right[:len(right)-1] + "_",
	}
}

// refusesBadCredentials: one answer to all of them, whatever is wrong, and to none.
func (w *world) refusesBadCredentials(t *testing.T, conn *served, d protoreflect.MethodDescriptor, bad map[string]string, req proto.Message) {
	t.Helper()
	none := call(t, conn, d, "", req)
	if none.code != codes.Unauthenticated {
		t.Errorf("without a credential: %v: %s", none.code, none.text)
	}
	for what, authorization := range bad {
		if got := call(t, conn, d, authorization, req); !bytes.Equal(got.bytes, none.bytes) {
			t.Errorf("%s: %v: %s; without one: %s", what, got.code, got.text, none.text)
		}
	}
}

// refuses: somebody who may not gets what is expected; and where that is that
// there is nothing, the very same bytes as for what isn't there.
func (w *world) refuses(t *testing.T, conn *served, d protoreflect.MethodDescriptor, m *method, somebody string, req proto.Message) {
	t.Helper()
	bearer := "Bearer " + w.secrets[somebody]
	got := call(t, conn, d, bearer, req)
	if want := w.expected(somebody, m); got.code != want {
		t.Errorf("%s: %v: %s; want %v", somebody, got.code, got.text, want)
	}
	w.leaksNothing(t, somebody, got)
	if got.code == codes.PermissionDenied && m.scope == tenant || strings.Contains(string(d.Name()), "AcceptInvitation") {
		return // may see it
	}
	if absent := call(t, conn, d, bearer, w.nowhere(req)); !bytes.Equal(got.bytes, absent.bytes) || got.body != absent.body {
		t.Errorf("%s can tell what is there from what isn't:\n%q\n%q", somebody, got.bytes, absent.bytes)
	}
}

// leaksNothing looks for marks of the workspace in an answer to a stranger, and
// for those of its computations in one to a member without a part.
func (w *world) leaksNothing(t *testing.T, somebody string, got answer) {
	t.Helper()
	all := string(got.bytes) + got.body
	stranger := people[somebody] == "" && somebody != "ines" // who is invited
	if stranger && somebody != "olga" {
		for name, id := range w.things {
			if !strings.HasPrefix(name, "other") && name != somebody && strings.Contains(all, string(id)) {
				t.Errorf("%s learned of %s: %s", somebody, name, all)
			}
		}
	}
	if stranger && strings.Contains(all, mark) || (stranger || somebody == "nemo") && strings.Contains(all, innerMark) {
		t.Errorf("%s learned too much: %s", somebody, all)
	}
}

// TestForeignReferencesAreLikeAbsentOnes: also inside a request of somebody who
// may make it, the name of a thing of another tenant is as good as one of nothing.
func TestForeignReferencesAreLikeAbsentOnes(t *testing.T) {
	ds := descriptors()
	foreign := map[string]string{
		"user": "bob", "workspace": "other workspace", "computation": "other computation", "run": "other run", "asset": "other asset",
		"key": "other key", "invitation": "other invitation", "credential": "other token",
	}
	tried := 0
	shared := newWorld(t)
	conn := shared.serve()
	for _, name := range slices.Sorted(maps.Keys(methods)) {
		m := methods[name]
		if m.scope == open || m.scope == service || ds[name] == nil {
			continue
		}
		t.Run(name, func(t *testing.T) {
			w := shared.of(t)
			req := m.request(w)
			if q, ok := req.(*computationsv1.RegisterKeyRequest); ok {
				q.ReplacesKeyId = string(w.things["rita's key"])
			}
			if q, ok := req.(*computationsv1.CreateInvitationRequest); ok {
				q.ComputationId, q.Parts = string(w.things["draft"]), []string{"viewer"}
			}
			if q, ok := req.(*computationsv1.EditDraftRequest); ok {
				q.Draft.Keys = map[string]string{string(w.users["edith"]): string(w.things["other key"])}
			}
			named := map[string]bool{}
			replaced(req, func(v string) string {
				if w.kinds[computations.ID(v)] != "" {
					named[v] = true
				}
				return v
			})
			for id := range named {
				other, known := foreign[w.kinds[computations.ID(id)]]
				if !known {
					t.Fatalf("no foreign thing stands in for %s", w.kinds[computations.ID(id)])
				}
				with := func(instead computations.ID) answer {
					got := call(t, conn, ds[name], "Bearer "+w.secrets[m.who], replaced(req, func(v string) string {
						if v == id {
							return string(instead)
						}
						return v
					}))
					got.bytes = bytes.ReplaceAll(got.bytes, []byte(instead), []byte("ID"))
					got.body = strings.ReplaceAll(got.body, string(instead), "ID")
					return got
				}
				theirs, nothing := with(w.things[other]), with(computations.NewID())
				tried++
				if !bytes.Equal(theirs.bytes, nothing.bytes) || theirs.body != nothing.body {
					t.Errorf("in place of the %s: %q (%s) and %q (%s)", w.kinds[computations.ID(id)], theirs.bytes, theirs.body, nothing.bytes, nothing.body)
				}
			}
		})
	}
	if tried < 40 {
		t.Errorf("only %d references were tried", tried)
	}
}

// A new computation's keys are looked at like everything else.
func TestForeignKeysInDraftsAreLikeAbsentOnes(t *testing.T) {
	w := newWorld(t)
	conn := w.serve()
	try := func(key computations.ID) answer {
		d := w.draft()
		d.Keys = map[string]string{string(w.users["nemo"]): string(key)}
		return call(t, conn, descriptors()["ComputationsService/CreateComputation"], "Bearer "+w.secrets["nemo"],
			&computationsv1.CreateComputationRequest{WorkspaceId: string(w.things["workspace"]), Draft: d})
	}
	theirs, nothing := try(w.things["other key"]), try(computations.NewID())
	if theirs.code != codes.InvalidArgument || !bytes.Equal(theirs.bytes, nothing.bytes) {
		t.Errorf("%q and %q", theirs.bytes, nothing.bytes)
	}
}
