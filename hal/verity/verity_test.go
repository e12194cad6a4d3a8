package verity

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"strings"
	"testing"
)

// pattern is data whose block i repeats the two bytes of i.
func pattern(blocks int) []byte {
	b := make([]byte, 0, blocks*BlockSize)
	for i := range blocks {
		b = append(b, bytes.Repeat([]byte{byte(i >> 8), byte(i)}, BlockSize/2)...)
	}
	return b
}

// The expected values are those of veritysetup 2.6.1:
//
//	veritysetup format --no-superblock --hash-offset=$((n*4096)) \
//	    --data-blocks=$n --salt=abab... data data
func TestBuildMatchesVeritysetup(t *testing.T) {
	salt := [32]byte(bytes.Repeat([]byte{0xab}, 32))
	for _, tc := range []struct {
		blocks     int
		root, tree string // the tree's SHA-256
	}{
		{1, "dd2661f29736b994bb4d44940a72e328d0b56887df8761a1274e7d51cc525eed", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},
		{2, "4ce9a1250a2d17fa5b46950a45a0c254dec696c91fd9fdf13da7327ee3880410", "5b8e6193a776d6492ad8577c299b3d79e9f8e732367784fb4293132b73cad7fa"},
		{127, "485a8f377d6aacd70a8a679e726eae3dd9cf775c584125e4f315ecb3aa999268", "7303515fc8732bb4a77e25f09baaa9fe8727280b827961893ee5c8bee56a7b3b"},
		{128, "f498f6d7920b5220c65d6c575d0a96ebeec0ec3b230070703df8cafffbdf8c59", "a52eefe8e3a2f5a67c92effcafba61011ee09c86f90d9cbdd9e4e16414a0b9ab"},
		{129, "f411f2862deb94646e039fa848a4a4f0b1942dbbb6f76a22a4e2b7e0f27dfc72", "601097deb5e8fd1dea1e612de75abead3774ae06defde49ea613790355c90b8b"},
		{16385, "a363973f8d9c10b1b34675b8e64cc23ec2ec62423a0a6cee50b3e9ab1d1b6f52", "03352c58d04fe8dae80c461ccfcd255cc970704a9fc36eb339a01a5d1a9c42bb"},
	} {
		data := pattern(tc.blocks)
		p, tree, err := Build(bytes.NewReader(data), int64(len(data)), salt)
		if err != nil {
			t.Fatal(err)
		}
		sum := sha256.Sum256(tree)
		if hex.EncodeToString(p.RootHash[:]) != tc.root || hex.EncodeToString(sum[:]) != tc.tree {
			t.Errorf("%d blocks: root %x, tree %x", tc.blocks, p.RootHash, sum)
		}
		if got := int64(len(data) + len(tree)); p.Size() != got || p.HashOffset() != int64(len(data)) {
			t.Errorf("%d blocks: size %d, offset %d; the disk has %d, %d", tc.blocks, p.Size(), p.HashOffset(), got, len(data))
		}
	}
}

func TestBuildRefuses(t *testing.T) {
	for _, size := range []int64{-4096, 0, 1, 4095, 4097, (maxDataBlocks + 1) * BlockSize} {
		if _, _, err := Build(bytes.NewReader(nil), size, [32]byte{}); err == nil {
			t.Errorf("%d bytes: no error", size)
		}
	}
	if _, _, err := Build(bytes.NewReader(make([]byte, 5000)), 8192, [32]byte{}); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("short data: got %v", err)
	}
}

func TestSaltFollowsTheData(t *testing.T) {
	a, err := Salt(strings.NewReader("a"))
	if err != nil {
		t.Fatal(err)
	}
	again, _ := Salt(strings.NewReader("a"))
	b, _ := Salt(strings.NewReader("b"))
	if a != again || a == b || a == [32]byte{} {
		t.Errorf("salts %x, %x, %x", a, again, b)
	}
}

const good = "sha256-4096:17839:67651ee788bc1b2a72923d1b360c1e0beb4f669eeee147ce928f9f8df1487473:28a8bbd3df693355815b0bda51ddc0ae188f9ceaa085d3245a6b9daf67f7f055"

func TestParse(t *testing.T) {
	p, err := Parse(good)
	if err != nil {
		t.Fatal(err)
	}
	if p.String() != good || p.DataBlocks != 17839 || p.RootHash[0] != 0x67 || p.Salt[31] != 0x55 {
		t.Errorf("got %+v", p)
	}
	const target = "1 254:0 254:0 4096 4096 17839 17839 sha256 67651ee788bc1b2a72923d1b360c1e0beb4f669eeee147ce928f9f8df1487473 28a8bbd3df693355815b0bda51ddc0ae188f9ceaa085d3245a6b9daf67f7f055"
	if got := p.Target("254:0"); got != target {
		t.Errorf("target %s", got)
	}
	if p.Sectors() != 17839*8 {
		t.Errorf("%d sectors", p.Sectors())
	}
}

func TestParseRefuses(t *testing.T) {
	for name, s := range map[string]string{
		"empty":            "",
		"other format":     strings.Replace(good, "sha256-4096", "sha1-4096", 1),
		"no blocks":        strings.Replace(good, "17839", "0", 1),
		"too many blocks":  strings.Replace(good, "17839", "268435457", 1),
		"negative":         strings.Replace(good, "17839", "-1", 1),
		"leading zero":     strings.Replace(good, "17839", "017839", 1),
		"plus":             strings.Replace(good, "17839", "+17839", 1),
		"upper case":       strings.Replace(good, "67651ee7", "67651EE7", 1),
		"short root hash":  strings.Replace(good, ":67651ee7", ":", 1),
		"long salt":        good + "00",
		"no salt":          good[:strings.LastIndex(good, ":")+1],
		"salt missing":     good[:strings.LastIndex(good, ":")],
		"zero root hash":   "sha256-4096:1:" + strings.Repeat("0", 64) + ":" + strings.Repeat("1", 64),
		"more":             good + ":x",
		"blank":            good + " ",
		"newline":          good + "\n",
		"not hex":          strings.Replace(good, "67651ee7", "67651eez", 1),
		"empty data block": strings.Replace(good, "17839", "", 1),
	} {
		if p, err := Parse(s); err == nil {
			t.Errorf("%s: %q parses as %+v", name, s, p)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(good)
	f.Add("sha256-4096:1::")
	f.Fuzz(func(t *testing.T, s string) {
		if p, err := Parse(s); err == nil && p.String() != s {
			t.Errorf("%q has a second spelling %q", s, p)
		}
	})
}
