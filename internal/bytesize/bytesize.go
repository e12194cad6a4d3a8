// Package bytesize reads and writes numbers of bytes as people do: "512 MiB".
package bytesize

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
)

// ErrNotASize is what Parse refuses with.
var ErrNotASize = errors.New("is not a size such as 512 MiB, 1.5 GiB or 2048 (bytes)")

var units = []struct {
	name  string
	bytes int64
}{{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"TiB", 1 << 40}, {"kB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"TB", 1e12}, {"B", 1}}

// Parse reads "512 MiB", "1.5GiB", "2,048" or "2048", in bytes. Units may be of either
// case; those without an i are powers of 1000.
func Parse(text string) (int64, error) {
	number, unit := strings.ReplaceAll(strings.TrimSpace(text), ",", ""), int64(1)
	for _, u := range units {
		if n := len(number) - len(u.name); n > 0 && strings.EqualFold(number[n:], u.name) {
			number, unit = strings.TrimSpace(number[:n]), u.bytes
			break
		}
	}
	if n, err := strconv.ParseInt(number, 10, 64); err == nil && n >= 0 && n <= math.MaxInt64/unit {
		return n * unit, nil
	}
	// 1<<53: beyond it a fraction is not exact.
	f, err := strconv.ParseFloat(number, 64)
	if err != nil || math.IsNaN(f) || f < 0 || f*float64(unit) > 1<<53 || unit == 1 {
		return 0, ErrNotASize
	}
	return int64(f * float64(unit)), nil
}

// Exact is what Parse reads as n, in the largest unit of which n is a whole number.
func Exact(n int64) string {
	for _, u := range []int{3, 2, 1, 0} {
		if n != 0 && n%units[u].bytes == 0 {
			return fmt.Sprintf("%d %s", n/units[u].bytes, units[u].name)
		}
	}
	return strconv.FormatInt(n, 10)
}

// Round is about n bytes: "17 B", "1.5 GiB".
func Round(n int64) string {
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	v, prefixes := float64(n), "KMGTPE"
	i := -1
	for v >= 1024 && i < len(prefixes)-1 {
		v /= 1024
		i++
	}
	return fmt.Sprintf("%.1f %ciB", v, prefixes[i])
}
