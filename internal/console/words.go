package console

import (
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/ultravioletrs/cocos/internal/computations"
	"github.com/ultravioletrs/cocos/manifest"
)

// doneTexts are what a page may be told to say that was just done. Only these
// words come by address, never a text.
var doneTexts = map[string]string{
	"accepted":     "You have joined. Welcome.",
	"approved":     "Your approval is in.",
	"archived":     "The computation is archived. It is not shown in lists any more.",
	"asset":        "The asset is registered.",
	"asset-saved":  "The asset is changed.",
	"copied":       "This is the copy. It is a draft and needs its own approvals.",
	"cordoned":     "The host gets no new runs.",
	"created":      "The draft is saved.",
	"declined":     "The invitation is declined.",
	"disabled":     "The account is disabled.",
	"draining":     "The host gets no new runs, and is done when the last of its runs has ended.",
	"enabled":      "The account is enabled.",
	"frozen":       "The manifest is frozen. It never changes again.",
	"imported":     "The computation is imported as a draft.",
	"key-revoked":  "The key is revoked.",
	"linked":       "You sign in this way from now on. Nobody had vouched for your account's address before: its password, its other sessions and its tokens have ended, and its keys are revoked. Register a key again before you go on.",
	"left":         "You have left the workspace.",
	"member":       "The role is changed.",
	"name":         "The name is changed.",
	"parts":        "The parts are changed.",
	"password":     "The password is changed. All other sessions are signed out.",
	"receipt":      "The receipt is handed in.",
	"removed":      "The member is removed.",
	"restored":     "The computation is shown in lists again.",
	"retention":    "The time for which events and logs are kept is changed.",
	"retired":      "The asset is retired. New drafts can't use it.",
	"revoked":      "It is revoked.",
	"host-revoked": "The host is revoked. It can't connect any more.",
	"saved":        "The draft is saved.",
	"service":      "The setting is changed.",
	"signed-out":   "You are signed out.",
	"started":      "The run is queued.",
	"stopping":     "The run was asked to stop.",
	"supplied":     "Your choice is saved.",
	"token-ended":  "The token is withdrawn. It lets no host in.",
	"uncordoned":   "The host gets runs again.",
	"withdrawn":    "The invitation is withdrawn.",
	"workspace":    "The workspace is there. Invite the first people, or describe a computation.",
}

// state is how a stage or a run's state is shown: in words, with a tone that
// never stands alone.
type state struct{ Text, Tone string }

var states = map[string]state{
	string(computations.StageDraft):     {"Draft", "quiet"},
	string(computations.StageApprovals): {"Waiting for approvals", "wait"},
	string(computations.StageReady):     {"Ready to run", "go"},
	string(computations.RunQueued):      {"Queued", "wait"},
	string(computations.RunOffered):     {"Asking a host", "wait"},
	string(computations.RunStarting):    {"Starting", "busy"},
	string(computations.RunRunning):     {"Running", "busy"},
	string(computations.RunFinished):    {"Finished", "good"},
	string(computations.RunFailed):      {"Failed", "bad"},
	string(computations.RunStopped):     {"Stopped", "quiet"},
}

// stateOrder is the order in which lists offer states.
var stateOrder = []string{"draft", "approvals", "ready", "queued", "offered", "starting", "running", "finished", "failed", "stopped"}

func stateOf[T ~string](s T) state {
	if st, ok := states[string(s)]; ok {
		return st
	}
	return state{sentenceCase(string(s)), "quiet"}
}

var partTexts = map[computations.Part]struct{ Name, Does string }{
	computations.PartCreator:   {"Creator", "describes the computation, invites people and starts it"},
	computations.PartEditor:    {"Editor", "changes the draft and freezes it"},
	computations.PartRunner:    {"Runner", "starts and stops runs"},
	computations.PartViewer:    {"Viewer", "looks on"},
	computations.PartDataset:   {"Dataset provider", "brings a dataset"},
	computations.PartAlgorithm: {"Algorithm provider", "brings the algorithm"},
	computations.PartConsumer:  {"Consumer", "receives the result and its receipt"},
}

var roleTexts = map[computations.Role]struct{ Name, Does string }{
	computations.RoleAdministrator: {"Administrator", "settles members and settings"},
	computations.RoleManager:       {"Manager", "sees and cancels everybody's computations, and invites people"},
	computations.RoleMember:        {"Member", "sees computations with a part in them, and makes own ones"},
}

var teeTexts = map[manifest.TEE]struct{ Name, Does string }{
	manifest.TEENone: {"No TEE", "a plain virtual machine; nothing vouches for it, and its host can read everything"},
	manifest.TEESNP:  {"AMD SEV-SNP", "memory that the host can't read, with evidence from the processor"},
	manifest.TEETDX:  {"Intel TDX", "memory that the host can't read, with evidence from the processor"},
	manifest.TEESGX:  {"Intel SGX", "an enclave with evidence from the processor"},
	manifest.TEESim:  {"Simulated TEE", "for trying things out: it protects nothing and proves nothing"},
}

func partName(p computations.Part) string {
	if t, ok := partTexts[p]; ok {
		return t.Name
	}
	return string(p)
}

func roleName(r computations.Role) string {
	if t, ok := roleTexts[r]; ok {
		return t.Name
	}
	return string(r)
}

func teeName(t manifest.TEE) string {
	if x, ok := teeTexts[t]; ok {
		return x.Name
	}
	return string(t)
}

// list says several things: "a, b and c".
func list(words []string) string {
	switch n := len(words); n {
	case 0:
		return ""
	case 1:
		return words[0]
	default:
		return strings.Join(words[:n-1], ", ") + " and " + words[n-1]
	}
}

// count says a number of things: "1 run", "3 runs".
func count[T int | int64](n T, one string) string {
	if n == 1 {
		return "1 " + one
	}
	return strconv.FormatInt(int64(n), 10) + " " + one + "s"
}

// sentenceCase begins with a capital, but for what is an address or a name of a
// program's.
func sentenceCase(s string) string {
	if first, _, _ := strings.Cut(s, " "); strings.ContainsAny(first, "@/_=0123456789") || strings.Contains(strings.TrimRight(first, ".:,;"), ".") {
		return s
	}
	r, n := utf8.DecodeRuneInString(s)
	if n == 0 || r == utf8.RuneError {
		return s
	}
	return string(unicode.ToUpper(r)) + s[n:]
}

// sentence is a text with a capital and an end.
func sentence(s string) string {
	s = sentenceCase(strings.TrimSpace(s))
	if s == "" || strings.ContainsAny(s[len(s)-1:], ".!?:") {
		return s
	}
	return s + "."
}

// predicates are how messages begin that say something of their field.
var predicates = map[string]bool{
	"is": true, "isn't": true, "are": true, "has": true, "hasn't": true, "can't": true, "does": true, "doesn't": true,
	"must": true, "may": true, "needs": true, "lacks": true, "names": true, "begins": true, "ends": true, "contains": true, "wants": true,
}

// about is a message of a field, with the field's label where it needs one.
func about(label, message string) string {
	first, _, _ := strings.Cut(message, " ")
	if predicates[first] {
		return sentence(label + " " + message)
	}
	return sentence(message)
}

func isNumber(s string) bool {
	_, err := strconv.ParseUint(s, 10, 31)
	return err == nil
}

// oneBased is an index as people count.
func oneBased(s string) string {
	n, _ := strconv.Atoi(s)
	return strconv.Itoa(n + 1)
}

// inTEE says where something runs, inside a sentence.
func inTEE(t manifest.TEE) string {
	switch t {
	case manifest.TEESim:
		return "a simulated TEE"
	case manifest.TEENone:
		return "a plain VM"
	}
	return teeName(t)
}
