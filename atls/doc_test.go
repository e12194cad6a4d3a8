package atls

import (
	"bytes"
	"crypto/sha512"
	"encoding/hex"
	"os"
	"strings"
	"testing"

	"github.com/ultravioletrs/cocos/attest"
)

// The example of the documentation is what the code computes, and the names and
// limits in it are the code's.
func TestDocumentation(t *testing.T) {
	b, err := os.ReadFile("../docs/attested-tls.md")
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Join(strings.Fields(string(b)), " ")
	of := func(x byte) [32]byte { return [32]byte(bytes.Repeat([]byte{x}, 32)) }
	one, two := leafOf(server, of(1), of(2), of(3)), leafOf(server, of(1), of(2), of(4))
	root := newTree([]hash{one, two}).root()
	data := attest.Binding{Label: attest.ForConnections, Manifest: of(5), Instance: []byte("instance"), Root: root}.ReportData()
	const runtimeData = `{"nonce":"AA==","tee-pubkey":{}}`
	asked := brokerLeaf("https://keys.example", sha512.Sum512([]byte(runtimeData)))
	told := attest.Binding{Label: attest.ForConnections, Manifest: of(5), Instance: []byte("instance"), Root: asked}.ReportData()
	for _, want := range []string{
		"leaf " + hex.EncodeToString(asked[:]),
		"data " + hex.EncodeToString(told[:32]) + " " + hex.EncodeToString(told[32:]),
		brokerLabel, runtimeData, "field(3)",
		"leaf 1 " + hex.EncodeToString(one[:]),
		"leaf 2 " + hex.EncodeToString(two[:]),
		"root " + hex.EncodeToString(root[:]),
		"data " + hex.EncodeToString(data[:32]) + " " + hex.EncodeToString(data[32:]),
		attestedProtocol, exporterLabel, leafLabel, string(attest.ForConnections), "cocos/v1/connection`",
		"at most 524288 bytes", "at most 2048 bytes", "at most 1024 bytes", "at most 10,", "(1024 at most", "36 in this version",
		"after 20 seconds", "waited for 15 seconds",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("docs/attested-tls.md does not say %q", want)
		}
	}
	if cachedRoot != hash(mustHex(t, "dbc1b4c900ffe48d575b5da5c638040125f65db0fe3e24494b76ea986457d986")) {
		t.Errorf("SHA-256(0x02) is %x", cachedRoot)
	}
	if brokerClient != 3 || maxEvidence != 524288 || maxKey != 2048 || maxSignature != 1024 || maxDepth != 10 || maxBatch != 1024 ||
		len(sampleHello().bytes()) != 36 || patience.Seconds() != 20 || reportTime.Seconds() != 15 {
		t.Error("the documentation has other limits")
	}
}

func mustHex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
