package keybroker

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/ultravioletrs/cocos/attest"
)

// The page for owners says what the code does.
func TestDocumentation(t *testing.T) {
	b, err := os.ReadFile("../../docs/key-broker.md")
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Join(strings.Fields(string(b)), " ")
	want := []string{
		"version " + Version + ",", `"version": "` + Version + `"`, errorPrefix, sessionCookie, evidenceFormat,
		"POST " + authPath, "POST " + attestPath, "GET " + resourcePath, string(ecdhAlgorithm), string(rsaAlgorithm),
		fmt.Sprintf("RSA of %d to %d bits", minRSA, maxRSA),
		fmt.Sprintf("good for %.0f minutes, once", challengeTime.Minutes()), fmt.Sprintf("for %.0f minutes. No `init-data`", sessionTime.Minutes()),
		fmt.Sprintf("%d attestations under way of which %d are appraised at once (%.0f s each", maxAttests, maxAppraisals, appraisalTime.Seconds()),
		fmt.Sprintf("messages of %d MiB, %d sessions", maxAttest>>20, maxSessions), fmt.Sprintf("at most %d KiB; the [secret]", MaxResource>>10),
	}
	for _, kind := range []string{typeRequest, typeVersion, typeCookie, typeExpired, typeEvidence, typeDenied, typeMissing, typeBusy, typeInternal} {
		want = append(want, "`"+kind+"`")
	}
	for _, kind := range attest.Types() {
		want = append(want, "`"+teeNames[kind]+"`")
	}
	for _, w := range want {
		if !strings.Contains(text, w) {
			t.Errorf("docs/key-broker.md does not say %q", w)
		}
	}
}
