package computations

import (
	"context"
	"errors"
	"log/slog"
	"net/url"
	"strings"
	"time"
)

// Service has the use cases. Its methods may be called at the same time; each
// takes who asks, decides with Allow, and writes what it changed into the audit
// log.
type Service struct {
	store Store
	// name is the service's public address, such as "https://cocos.example.org":
	// keys are registered with it, and links begin with it.
	name string
	// loginFlags are what signing in needs beside the name.
	loginFlags []string
	clock      func() time.Time
	log        *slog.Logger
	passwords  *hasher
	// byAddress, byNetwork, byBoth and byEmail bound attempts to sign in, invites what
	// one user may send, joins attempts to make an account with one invitation, makes
	// how many assets and computations one user makes.
	byAddress, byNetwork, byBoth, byEmail, invites, joins, makes *limiter
	// recheck is how often a watcher's right to watch is looked at again when
	// nothing happens.
	recheck time.Duration
}

// Config of a Service. Store and Name are required.
type Config struct {
	Store Store
	// Name is the public address of the console, without a slash at its end.
	Name string
	// Now is the clock; nil: time.Now.
	Now func() time.Time
	// Log is told of what goes wrong inside; nil: slog.Default.
	Log *slog.Logger
	// LoginFlags are what `cocos-cli login` needs here beside the address, such as
	// "--fingerprint", "sha256:…" where no system knows the service's authority.
	LoginFlags []string
	// PasswordCost of new hashes; zero: DefaultPasswordCost. Tests lower it.
	PasswordCost PasswordCost
}

// New returns the service.
func New(c Config) (*Service, error) {
	if c.Store == nil {
		return nil, errors.New("the service needs a store")
	}
	if u, err := url.Parse(c.Name); err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" ||
		strings.HasSuffix(c.Name, "/") || u.RawQuery != "" || u.Fragment != "" || u.User != nil {
		return nil, errors.New("the service's name must be its public address, such as https://cocos.example.org, without a slash at its end")
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
	if c.PasswordCost == (PasswordCost{}) {
		c.PasswordCost = DefaultPasswordCost
	}
	return &Service{
		store: c.Store, name: c.Name, loginFlags: c.LoginFlags, clock: c.Now, log: c.Log, passwords: newHasher(c.PasswordCost),
		byAddress: newLimiter(50, 10*time.Second, c.Now),
		byNetwork: newLimiter(200, 3*time.Second, c.Now),
		byBoth:    newLimiter(10, time.Minute, c.Now),
		byEmail:   newLimiter(100, 30*time.Second, c.Now),
		invites:   newLimiter(60, 15*time.Minute, c.Now),
		joins:     newLimiter(5, time.Minute, c.Now),
		makes:     newLimiter(2000, 5*time.Second, c.Now),
		recheck:   time.Minute,
	}, nil
}

// Name is the service's public address, with which keys are registered.
func (s *Service) Name() string { return s.name }

// LoginCommand signs in with the command-line program: by the password that it asks
// for, or, where the account has none, by an access token on standard input.
func (s *Service) LoginCommand(password bool) string {
	words := []string{"login", s.name}
	if !password {
		words = append(words, "--token-file", "-")
	}
	return CommandLine(append(words, s.loginFlags...)...)
}

// now in UTC and in microseconds, which every database keeps.
func (s *Service) now() time.Time { return s.clock().UTC().Truncate(time.Microsecond) }

// Identity is who asks, as a credential proved. Only Authenticate makes one that
// counts: each use case looks again whether the credential still holds.
type Identity struct {
	User       ID
	Credential ID
	Kind       CredentialKind
	Email      string
	Name       string
	Operator   bool
	// Password: the account has one.
	Password bool

	hash [32]byte
}

// note adds to the audit log; detail is names and values in turn.
func (s *Service) note(w Writer, workspace, actor ID, action string, object ID, detail ...string) error {
	e := AuditEntry{At: s.now(), Workspace: workspace, Actor: actor, Action: action, Object: object}
	for i := 0; i+1 < len(detail); i += 2 {
		if e.Detail == nil {
			e.Detail = map[string]string{}
		}
		e.Detail[detail[i]] = detail[i+1]
	}
	return w.AppendAudit(e)
}

// did is note for what a user did in a workspace.
func (s *Service) did(w Writer, a *access, action Action, object ID, detail ...string) error {
	return s.note(w, a.workspace.ID, a.user.ID, string(action), object, detail...)
}

// view runs f and returns what it found.
func view[T any](ctx context.Context, s *Service, f func(Reader) (T, error)) (T, error) {
	var found T
	err := s.store.View(ctx, func(r Reader) (err error) {
		found, err = f(r)
		return err
	})
	if err != nil {
		var none T
		return none, err
	}
	return found, nil
}

// change runs f, perhaps several times, in a transaction. What f says of a value
// that is taken goes to who asked.
func (s *Service) change(ctx context.Context, f func(Writer) error) error {
	var said error
	err := s.store.Update(ctx, func(w Writer) error {
		said = f(w)
		return said
	})
	if !errors.Is(err, ErrTaken) {
		return err
	}
	var refusal *Error
	if errors.As(said, &refusal) {
		return said
	}
	return &Error{Kind: Conflict, Message: "somebody did the same at this very moment", Hint: "look at what is there now, and try again"}
}

// update is change for an f that makes something.
func update[T any](ctx context.Context, s *Service, f func(Writer) (T, error)) (T, error) {
	var made T
	err := s.change(ctx, func(w Writer) (err error) {
		made, err = f(w)
		return err
	})
	if err != nil {
		var none T
		return none, err
	}
	return made, nil
}

// bounded is a page within its limits.
func (p Page) bounded() Page {
	if p.Limit <= 0 || p.Limit > MaxPage {
		p.Limit = MaxPage
	}
	return p
}
