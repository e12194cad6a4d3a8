package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"time"

	"github.com/ultravioletrs/cocos/atls/atlstest"
	"github.com/ultravioletrs/cocos/hal/emulator"
	"github.com/ultravioletrs/cocos/hal/progress"
)

const (
	// handshakers connect at once, each for handshakeTime in a turn.
	handshakers   = 16
	handshakeTime = 2 * time.Second
)

// handshakes counts connections per second that are made with fresh evidence,
// turn by turn with plain mutual TLS.
func handshakes(ctx context.Context, l *lab) ([]row, error) {
	r := row{name: "atls_handshakes", unit: "1/s", reference: "plain mutual TLS, both ends in one process, too", aim: aim{atLeast: true, bound: 0.5}}
	for range l.runs {
		rates, err := atlstest.Compare(ctx, l.path("atls-sim"), handshakers, 1, handshakeTime)
		if err != nil {
			return nil, err
		}
		r.values = append(r.values, rates.AttestedTLS)
		r.referenceValues = append(r.referenceValues, rates.MutualTLS)
	}
	return []row{r}, nil
}

// verify times whole appraisals by the packages' own benchmarks, on evidence of
// hardware where COCOS_EVIDENCE names some and the packages use it.
func verify(ctx context.Context, l *lab) (rows []row, err error) {
	for _, tee := range []string{"snp", "tdx", "sgx"} {
		r := row{name: "verify_" + tee, unit: "ms", aim: aim{ofValue: true, bound: 5}}
		out, _, err := timed(ctx, "go", "test", "-run", "^$", "-bench", "^BenchmarkVerify$", "-count", strconv.Itoa(l.runs), "./attest/"+tee)
		if err != nil {
			return rows, err
		}
		if r.values, err = perOperation(out); err != nil {
			return rows, fmt.Errorf("%s: %w", r.name, err)
		}
		rows = append(rows, r)
	}
	return rows, nil
}

var perOperationRE = regexp.MustCompile(`(?m)^Benchmark\S+\s+\d+\s+([0-9.]+) ns/op`)

// perOperation reads what go test prints of benchmarks, in ms.
func perOperation(out string) (s series, err error) {
	for _, m := range perOperationRE.FindAllStringSubmatch(out, -1) {
		ns, err := strconv.ParseFloat(m[1], 64)
		if err != nil {
			return nil, err
		}
		s = append(s, ns/1e6)
	}
	if len(s) == 0 {
		return nil, fmt.Errorf("go test printed no figure: %s", bytes.TrimSpace([]byte(out)))
	}
	return s, nil
}

// measured times the CLI on the built image and the firmware of SEV-SNP.
func measured(ctx context.Context, l *lab) ([]row, error) {
	find, err := emulator.New(os.Getenv, progress.New(os.Stderr, false, time.Now))
	if err != nil {
		return nil, err
	}
	firmware, err := find.Measuring(ctx, emulator.AmdSev)
	if err != nil {
		return nil, err
	}
	r := row{name: "measure_snp", unit: "s", aim: aim{ofValue: true, bound: 1}}
	for range l.runs {
		_, took, err := timed(ctx, cliBinary, "measure", "image", imageDir, "--firmware-snp", firmware, "--vcpus", "4")
		if err != nil {
			return nil, err
		}
		r.values = append(r.values, took.Seconds())
	}
	return []row{r}, nil
}
