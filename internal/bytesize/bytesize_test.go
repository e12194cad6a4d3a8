package bytesize_test

import (
	"math"
	"testing"

	"github.com/ultravioletrs/cocos/internal/bytesize"
)

func TestParse(t *testing.T) {
	for text, want := range map[string]int64{
		"0": 0, "2048": 2048, " 2,048 ": 2048, "17 B": 17, "1kB": 1000, "1 KiB": 1024, "512 MiB": 512 << 20, "512mib": 512 << 20,
		"1.5 GiB": 3 << 29, "20GiB": 20 << 30, "1 TB": 1e12, "8388607 TiB": 8388607 << 40, "9223372036854775807": math.MaxInt64,
	} {
		if got, err := bytesize.Parse(text); err != nil || got != want {
			t.Errorf("%q: %d, %v; want %d", text, got, err, want)
		}
	}
	for _, text := range []string{
		"", " ", "MiB", "-1", "-1 MiB", "1.5", "1.5 B", "NaN MiB", "Inf GiB", "1e30 GiB", "0x10", "1 XiB", "8388608 TiB",
		"9223372036854775808", "ten", "1 M", "1 G",
	} {
		if got, err := bytesize.Parse(text); err == nil {
			t.Errorf("%q: %d", text, got)
		}
	}
}

// TestExact: what is written is read as it was.
func TestExact(t *testing.T) {
	for n, want := range map[int64]string{
		0: "0", 1: "1", 1000: "1000", 1024: "1 KiB", 3 << 29: "1536 MiB", 20 << 30: "20 GiB", 1 << 50: "1024 TiB", math.MaxInt64: "9223372036854775807",
	} {
		got := bytesize.Exact(n)
		if back, err := bytesize.Parse(got); got != want || err != nil || back != n {
			t.Errorf("%d: %q, which is read as %d, %v; want %q", n, got, back, err, want)
		}
	}
}

func TestRound(t *testing.T) {
	for n, want := range map[int64]string{0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 3 << 29: "1.5 GiB", math.MaxInt64: "8.0 EiB"} {
		if got := bytesize.Round(n); got != want {
			t.Errorf("%d: %q; want %q", n, got, want)
		}
	}
}
