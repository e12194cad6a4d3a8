// Command generate makes the tables of the hospitals example: patients that do
// not exist, the same ones each time. From the root of the source tree:
//
//	go run ./examples/hospitals/generate examples/hospitals/data
//
// Surgery does better than medication at every stage, and worse on the whole,
// because the patients who are worst off get it: what a comparison without the
// stage, which only one hospital knows, gets wrong.
package main

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "generate:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) != 1 {
		return errors.New("say into which folder: generate DIR")
	}
	for name, table := range tables() {
		if err := os.WriteFile(filepath.Join(args[0], name), table, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// cohort is patients of one treatment and stage; percent of them recover.
type cohort struct {
	treatment, stage string
	patients         int
	percent, days    int
}

var cohorts = []cohort{
	{"medication", "I", 110, 88, 9},
	{"medication", "II", 70, 76, 13},
	{"medication", "III", 24, 52, 21},
	{"medication", "IV", 6, 20, 34},
	{"surgery", "I", 36, 95, 12},
	{"surgery", "II", 52, 84, 16},
	{"surgery", "III", 96, 64, 23},
	{"surgery", "IV", 36, 36, 38},
}

// tables returns both, by the names of their files.
func tables() map[string][]byte {
	r := rand.New(rand.NewPCG(2026, 16))
	var treated, followed []string
	number := 0
	patient := func() string { number++; return pseudonym(fmt.Sprintf("patient %d", number)) }
	for _, c := range cohorts {
		for range c.patients {
			p := patient()
			treated = append(treated, fmt.Sprintf("%s,%s,%s", p, c.treatment, c.stage))
			if r.IntN(12) == 0 {
				continue // the other hospital never saw them again
			}
			followed = append(followed, outcome(r, p, c.percent, c.days))
		}
	}
	for range 60 { // whom only the other hospital knows
		followed = append(followed, outcome(r, patient(), 70, 15))
	}
	return map[string][]byte{
		"treatments.csv": table(r, "patient,treatment,stage", treated),
		"outcomes.csv":   table(r, "patient,recovered,days", followed),
	}
}

func outcome(r *rand.Rand, patient string, percent, days int) string {
	recovered := 0
	if r.IntN(100) < percent {
		recovered = 1
	}
	return fmt.Sprintf("%s,%d,%d", patient, recovered, days-days/3+r.IntN(2*(days/3)+1))
}

// pseudonym is what hospitals that share a key make of a number that both know a
// patient by.
func pseudonym(number string) string {
	mac := hmac.New(sha256.New, []byte("a key that the two hospitals share, and nobody else has"))
	mac.Write([]byte(number))
	return fmt.Sprintf("%x", mac.Sum(nil)[:16])
}

func table(r *rand.Rand, heading string, rows []string) []byte {
	r.Shuffle(len(rows), func(i, j int) { rows[i], rows[j] = rows[j], rows[i] })
	var b bytes.Buffer
	for _, row := range append([]string{heading}, rows...) {
		fmt.Fprintln(&b, row)
	}
	return b.Bytes()
}
