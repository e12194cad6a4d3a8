package console

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/ultravioletrs/cocos/internal/bytesize"
	"github.com/ultravioletrs/cocos/internal/computations"
)

// wholeNumber reads a field; it must be from least to most.
func wholeNumber(field, text string, least, most int64) (int64, error) {
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < least || n > most {
		return 0, invalid(field, fmt.Sprintf("must be a whole number from %d to %d", least, most), "")
	}
	return n, nil
}

// byteSize reads a size as bytesize.Parse does; nothing is zero.
func byteSize(field, text string) (int64, error) {
	if strings.TrimSpace(text) == "" {
		return 0, nil
	}
	n, err := bytesize.Parse(text)
	if err != nil {
		return 0, invalid(field, err.Error(), "")
	}
	return n, nil
}

// sizeText is what byteSize reads as n; zero is nothing.
func sizeText(n int64) string {
	if n == 0 {
		return ""
	}
	return bytesize.Exact(n)
}

// duration reads "90m", "2 hours" or "30 days"; nothing is zero.
func duration(field, text string) (time.Duration, error) {
	text = strings.ToLower(strings.TrimSpace(text))
	if text == "" {
		return 0, nil
	}
	if d, err := time.ParseDuration(strings.ReplaceAll(text, " ", "")); err == nil && d > 0 {
		return d, nil
	}
	number, unit, _ := strings.Cut(text, " ")
	units := map[string]time.Duration{"second": time.Second, "minute": time.Minute, "hour": time.Hour, "day": 24 * time.Hour, "week": 7 * 24 * time.Hour}
	n, err := strconv.ParseInt(number, 10, 32)
	u := units[strings.TrimSuffix(strings.TrimSpace(unit), "s")]
	if err != nil || n <= 0 || u == 0 || n > int64(math.MaxInt64/u) {
		return 0, invalid(field, "is not a time such as 90 minutes, 2 hours or 30 days", "")
	}
	return time.Duration(n) * u, nil
}

// durationText is what duration reads as d; zero is nothing.
func durationText(d time.Duration) string {
	day := 24 * time.Hour
	switch {
	case d == 0:
		return ""
	case d%day == 0:
		return count(int(d/day), "day")
	case d%time.Hour == 0:
		return count(int(d/time.Hour), "hour")
	case d%time.Minute == 0:
		return count(int(d/time.Minute), "minute")
	}
	return count(int(d/time.Second), "second")
}

// moment reads the value of a datetime-local field, in UTC; nothing is zero.
func moment(field, text string) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	for _, layout := range []string{"2006-01-02T15:04:05", "2006-01-02T15:04", "2006-01-02"} {
		if t, err := time.Parse(layout, text); err == nil {
			return t, nil
		}
	}
	return time.Time{}, invalid(field, "is not a time such as 2026-11-29T14:30", "")
}

// faults collects what is wrong with a form.
type faults struct{ all computations.Errors }

func (f *faults) add(err error) {
	f.all = append(f.all, refusals(err)...)
}

func (f *faults) err() error {
	if len(f.all) == 0 {
		return nil
	}
	return f.all
}
