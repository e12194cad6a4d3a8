package snp

import (
	"encoding/binary"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ultravioletrs/cocos/attest"
)

// genuine is evidence that hardware made, with what must come out.
var genuine = []struct {
	folder, certificate string
	line                Line
	version             uint32
	signer              Signer
	policy              uint64 // zero: not known beforehand
	tcb                 string // as a number
	measurement         string // its beginning and its end
	reportData          string // its beginning
	at                  time.Time
	platform            string // what its host lacks of what a policy can ask for
}{
	{"snp-milan-v2-vcek", "vcek.pem", Milan, 2, VCEK, 0xb0000, "4405000000000002", "b07af962 872b01", "0102030405", time.Time{}, "smt tsme ecc rapl_disabled ciphertext_hiding alias_check"},
	{"snp-genoa-v3-vcek", "vcek.pem", Genoa, 3, VCEK, 0, "541700000000000a", "f57dc09a 7c89ae", "b581f12e", time.Time{}, "tsme rapl_disabled ciphertext_hiding"},
	{"snp-turin-v5-vcek", "vcek.pem", Turin, 5, VCEK, 0, "4700000002000100", "f924dd18 dee624", "", time.Time{}, "smt rapl_disabled ciphertext_hiding reserved"},
	{"snp-milan-v3-vlek", "vlek.pem", Milan, 3, VLEK, 0, "", "5a5cdbad ed0715", "", time.Date(2025, 6, 1, 0, 0, 0, 0, time.UTC), "smt rapl_disabled ciphertext_hiding"},
}

// pins accepts what a report says, and nothing else; AMD's list is not there.
func pins(r *Report, l Line) *attest.SNPPolicy {
	least := attest.SNPTCB{}
	for i, tcb := range []TCB{r.CurrentTCB, r.ReportedTCB, r.CommittedTCB, r.LaunchTCB} {
		v, err := tcb.Versions(l)
		if err != nil {
			return nil
		}
		if i == 0 {
			least = v
		}
		least = attest.SNPTCB{
			FMC: min(least.FMC, v.FMC), Bootloader: min(least.Bootloader, v.Bootloader), TEE: min(least.TEE, v.TEE),
			SNP: min(least.SNP, v.SNP), Microcode: min(least.Microcode, v.Microcode),
		}
	}
	signer := "vcek"
	if r.Signer == VLEK {
		signer = "vlek"
	}
	chips := []string{hex.EncodeToString(r.ChipID[:])}
	if r.Signer == VLEK && r.ChipID == [64]byte{} {
		chips = []string{attest.AnyID}
	}
	return &attest.SNPPolicy{
		Measurements: []attest.Hex{r.Measurement[:]}, HostData: []attest.Hex{r.HostData[:]}, Products: []string{string(l)},
		ChipIDs: chips, Signers: []string{signer}, MinimumTCB: map[string]attest.SNPTCB{string(l): least}, Revocation: attest.CheckNot,
		Guest:        attest.SNPGuestPolicy{AllowSMT: true, AllowDebug: r.Policy&bitDebug != 0},
		VMPL:         r.VMPL,
		IDKeyDigests: []attest.Hex{r.IDKeyDigest[:]}, AuthorKeyDigests: []attest.Hex{r.AuthorKeyDigest[:]},
	}
}

func read(t testing.TB, dir, folder, certificate string) attest.Evidence {
	t.Helper()
	report, err := os.ReadFile(filepath.Join(dir, folder, "report.bin"))
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(dir, folder, certificate))
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(text)
	if block == nil {
		t.Fatalf("%s/%s is not PEM", folder, certificate)
	}
	return attest.Evidence{Type: attest.SNP, Report: report, Endorsements: attest.Endorsements{Certificates: [][]byte{block.Bytes}}}
}

func TestReal(t *testing.T) {
	dir := os.Getenv("COCOS_EVIDENCE")
	if dir == "" {
		t.Log("COCOS_EVIDENCE names no folder: reports of hardware are not looked at, only self-made ones in genuine format")
		return
	}
	for _, tt := range genuine {
		t.Run(tt.folder, func(t *testing.T) {
			e := read(t, dir, tt.folder, tt.certificate)
			report, err := Parse(e.Report)
			if err != nil {
				t.Fatal(err)
			}
			if string(Marshal(report)) != string(e.Report) {
				t.Error("it is not written as it was read")
			}
			line, err := LineOf(e)
			if err != nil || line != tt.line {
				t.Errorf("product line %s, %v", line, err)
			}
			first, last, _ := strings.Cut(tt.measurement, " ")
			m := hex.EncodeToString(report.Measurement[:])
			if report.Version != tt.version || report.Signer != tt.signer || tt.policy != 0 && report.Policy != tt.policy ||
				!strings.HasPrefix(m, first) || !strings.HasSuffix(m, last) ||
				!strings.HasPrefix(hex.EncodeToString(report.ReportData[:]), tt.reportData) ||
				tt.tcb != "" && fmt.Sprintf("%016x", binary.LittleEndian.Uint64(report.ReportedTCB[:])) != tt.tcb {
				t.Errorf("%+v", report)
			}
			want := attest.Expected{ReportData: report.ReportData}
			p := pins(report, line)
			if p == nil {
				t.Fatal("its TCB has reserved bytes")
			}
			at := tt.at
			now := time.Now()
			if at.IsZero() {
				at = now
			} else if r, err := Appraise(t.Context(), e, want, p, now); err == nil || len(r.Failed()) != 1 || r.Failed()[0].Name != "snp.dates" {
				t.Errorf("today: %v", err)
			}
			r, err := Appraise(t.Context(), e, want, p, at)
			if err != nil || !r.Accepted {
				t.Fatal(err)
			}
			// Without AMD's list it is not accepted, unless the policy says so.
			p.Revocation = attest.CheckRequired
			if r, err := Appraise(t.Context(), e, want, p, at); err == nil || len(r.Failed()) != 1 || r.Failed()[0].Name != "snp.revocation" {
				t.Errorf("without a list: %v", err)
			}
			p.Revocation = attest.CheckNot
			wantPlatform(t, e, want, *p, at, tt.platform)
			// Each byte that is signed counts; a few of each field will do.
			for at := 0; at < SignedSize; at += 7 {
				forged := e
				forged.Report = append([]byte(nil), e.Report...)
				forged.Report[at] ^= 1
				if r, err := Appraise(t.Context(), forged, want, p, now); err == nil || r.Accepted {
					t.Errorf("accepted with byte %#x changed", at)
				}
			}
			if tt.folder == "snp-milan-v2-vcek" {
				p.Guest.AllowDebug = false
				r, err := Appraise(t.Context(), e, want, p, at)
				if err == nil || len(r.Failed()) != 1 || r.Failed()[0].Name != "snp.policy.debug" {
					t.Errorf("its debug bit: %v", err)
				}
			}
		})
	}
}

// wantPlatform asks everything of a genuine host: it is refused for what it lacks,
// and accepted by a policy that asks for what it has.
func wantPlatform(t *testing.T, e attest.Evidence, want attest.Expected, p attest.SNPPolicy, at time.Time, lacks string) {
	t.Helper()
	p.Platform = everything
	r, err := Appraise(t.Context(), e, want, &p, at)
	var failed []string
	for _, c := range r.Failed() {
		failed = append(failed, strings.TrimPrefix(c.Name, "snp.platform_info."))
	}
	if got := strings.Join(failed, " "); err == nil || got != lacks {
		t.Errorf("its host lacks %q; want %q (%v)", got, lacks, err)
	}
	report, err := Parse(e.Report)
	if err != nil {
		t.Fatal(err)
	}
	report.PinPlatform(&p)
	if _, err := Appraise(t.Context(), e, want, &p, at); err != nil {
		t.Errorf("pinned to its host: %v", err)
	}
	p.RequireMitigations = 1
	if r, err := Appraise(t.Context(), e, want, &p, at); err == nil || len(r.Failed()) != 2 || r.Failed()[0].Name != "snp.mitigations.launch" {
		t.Errorf("with a mitigation that none of these states: %v", err)
	}
}

func BenchmarkVerify(b *testing.B) {
	s := right(Milan, VCEK)
	e, vendors := s.made(), fakeVendors()
	want, policy, at := s.want, s.policy, s.at
	if dir := os.Getenv("COCOS_EVIDENCE"); dir != "" {
		e, vendors, at = read(b, dir, "snp-milan-v2-vcek", "vcek.pem"), amd(), time.Now()
		report, err := Parse(e.Report)
		if err != nil {
			b.Fatal(err)
		}
		want, policy = attest.Expected{ReportData: report.ReportData}, pins(report, Milan)
	}
	for b.Loop() {
		if _, err := appraise(e, want, policy, at, vendors); err != nil {
			b.Fatal(err)
		}
	}
}
