package computations

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	_ "embed"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"sync"
	"unicode/utf8"

	"golang.org/x/crypto/argon2"
)

// PasswordCost is what an Argon2id hash costs (RFC 9106).
type PasswordCost struct {
	MemoryKiB uint32
	Passes    uint32
	Threads   uint8
}

// DefaultPasswordCost is the second recommendation of RFC 9106, section 4.
var DefaultPasswordCost = PasswordCost{MemoryKiB: 64 << 10, Passes: 3, Threads: 4}

// weaker tells whether a hash of cost c should be made anew at cost d.
func (c PasswordCost) weaker(d PasswordCost) bool {
	return c.MemoryKiB < d.MemoryKiB || c.Passes < d.Passes
}

const (
	minPassword = 12   // runes
	maxPassword = 1024 // bytes
	saltBytes   = 16
	hashBytes   = 32

	// maxHashes at once, and maxWaiting for their turn: at the default cost 128 MiB.
	// No more than maxOfOne of both are for one who asks, so that nobody keeps all
	// others from signing in.
	maxHashes  = 2
	maxWaiting = 64
	maxOfOne   = 8
)

//go:embed passwords.txt
var obviousList string

var obvious = func() map[string]bool {
	words := map[string]bool{}
	for _, w := range strings.Fields(obviousList) {
		words[w] = true
	}
	return words
}()

// checkPassword refuses what others would guess first.
func checkPassword(field, password, email string) *Error {
	folded := strings.ToLower(strings.Join(strings.Fields(password), ""))
	local, domain, _ := strings.Cut(email, "@")
	distinct := map[rune]bool{}
	for _, r := range folded {
		distinct[r] = true
	}
	// A word that is obvious stays so with digits and signs behind it.
	bare := strings.TrimRight(folded, "0123456789!?.-_*#+$%&@")
	switch {
	case !utf8.ValidString(password):
		return invalid(field, "is not UTF-8")
	case utf8.RuneCountInString(password) < minPassword:
		return invalid(field, "has %d characters; at least %d are needed: several words are easiest to remember", utf8.RuneCountInString(password), minPassword)
	case len(password) > maxPassword:
		return invalid(field, "has %d bytes; at most %d are accepted", len(password), maxPassword)
	case len(distinct) < 5:
		return invalid(field, "has only %d different characters; choose one that is harder to guess", len(distinct))
	case obvious[folded] || obvious[bare]:
		return invalid(field, "is one that others would try first; choose one that is harder to guess")
	case folded == email || bare == local || bare == domain || bare == local+local:
		return invalid(field, "is made of the email address; choose one that is harder to guess")
	}
	return nil
}

// hasher makes and checks hashes, a few at once: each takes much memory.
type hasher struct {
	cost  PasswordCost
	slots chan struct{}
	mu    sync.Mutex
	// waiting counts those who hash or wait for their turn, and by each one's own.
	waiting int
	by      map[string]int
	// nobodys is a hash that no password has, for accounts that aren't there.
	nobodys string
	// derive is Argon2id; tests count what it is asked for.
	derive func(c PasswordCost, password string, salt []byte, n uint32) []byte
}

func newHasher(cost PasswordCost) *hasher {
	h := &hasher{cost: cost, slots: make(chan struct{}, maxHashes), by: map[string]int{}, derive: derive}
	var salt [saltBytes]byte
	var sum [hashBytes]byte
	_, _ = rand.Read(salt[:]) // never fails
	_, _ = rand.Read(sum[:])
	h.nobodys = phc(cost, salt[:], sum[:])
	return h
}

// enter waits for a turn of whoever asks; leave ends it.
func (h *hasher) enter(ctx context.Context, by string) (leave func(), err error) {
	if err := h.count(by); err != nil {
		return nil, err
	}
	select {
	case h.slots <- struct{}{}:
		return func() { <-h.slots; h.discount(by) }, nil
	case <-ctx.Done():
		h.discount(by)
		return nil, ctx.Err()
	}
}

func (h *hasher) count(by string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case h.by[by] >= maxOfOne:
		return &Error{Kind: Limited, Message: "too many passwords are being checked for you at this moment", Hint: "try again in a few seconds"}
	case h.waiting >= maxWaiting+maxHashes:
		return &Error{Kind: Limited, Message: "too many people are signing in at this moment", Hint: "try again in a minute"}
	}
	h.waiting++
	h.by[by]++
	return nil
}

func (h *hasher) discount(by string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.waiting--
	if h.by[by]--; h.by[by] == 0 {
		delete(h.by, by)
	}
}

// hash returns a password's hash in PHC's string format; by is who asks for it.
func (h *hasher) hash(ctx context.Context, by, password string) (string, error) {
	leave, err := h.enter(ctx, by)
	if err != nil {
		return "", err
	}
	defer leave()
	var salt [saltBytes]byte
	_, _ = rand.Read(salt[:]) // never fails
	return phc(h.cost, salt[:], h.derive(h.cost, password, salt[:], hashBytes)), nil
}

// verify tells whether hash is that of password; an empty one is nobody's and
// costs as much. weak: it should be made anew at today's cost.
func (h *hasher) verify(ctx context.Context, by, hash, password string) (ok, weak bool, err error) {
	if hash == "" || len(password) > maxPassword {
		hash = h.nobodys
	}
	cost, salt, sum, err := parsePHC(hash)
	if err != nil {
		return false, false, err
	}
	leave, err := h.enter(ctx, by)
	if err != nil {
		return false, false, err
	}
	defer leave()
	got := h.derive(cost, password, salt, uint32(len(sum)))
	return subtle.ConstantTimeCompare(got, sum) == 1, cost.weaker(h.cost), nil
}

func derive(c PasswordCost, password string, salt []byte, n uint32) []byte {
	return argon2.IDKey([]byte(password), salt, c.Passes, c.MemoryKiB, c.Threads, n)
}

func phc(c PasswordCost, salt, sum []byte) string {
	b64 := base64.RawStdEncoding
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version, c.MemoryKiB, c.Passes, c.Threads,
		b64.EncodeToString(salt), b64.EncodeToString(sum))
}

// parsePHC reads what phc wrote; a cost that nothing here would set is refused.
func parsePHC(text string) (c PasswordCost, salt, sum []byte, err error) {
	fault := errors.New("a stored password hash is not in the form that it was written in")
	f := strings.Split(text, "$")
	if len(f) != 6 || f[0] != "" || f[1] != "argon2id" || f[2] != fmt.Sprintf("v=%d", argon2.Version) {
		return c, nil, nil, fault
	}
	if _, err := fmt.Sscanf(f[3], "m=%d,t=%d,p=%d", &c.MemoryKiB, &c.Passes, &c.Threads); err != nil {
		return c, nil, nil, fault
	}
	if salt, err = base64.RawStdEncoding.Strict().DecodeString(f[4]); err != nil {
		return c, nil, nil, fault
	}
	if sum, err = base64.RawStdEncoding.Strict().DecodeString(f[5]); err != nil {
		return c, nil, nil, fault
	}
	if c.MemoryKiB < 8 || c.MemoryKiB > 1<<20 || c.Passes < 1 || c.Passes > 16 || c.Threads < 1 ||
		len(salt) < 8 || len(sum) != hashBytes || phc(c, salt, sum) != text {
		return c, nil, nil, fault
	}
	return c, salt, sum, nil
}
