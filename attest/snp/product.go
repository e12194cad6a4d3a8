package snp

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/ultravioletrs/cocos/attest"
)

// Line is a product line: AMD has one root key for each.
type Line string

// The lines. Bergamo and Siena have Genoa's keys (AMD 57230, 1.2).
const (
	Milan Line = "Milan"
	Genoa Line = "Genoa"
	Turin Line = "Turin"
)

// Lines lists them, the oldest first.
func Lines() []Line { return []Line{Milan, Genoa, Turin} }

// LineOfCPU knows the processors by CPUID Fn0000_0001_EAX, extended parts added.
func LineOfCPU(family, model uint8) (Line, error) {
	switch {
	case family == 0x19 && model <= 0x0f:
		return Milan, nil
	case family == 0x19 && (model >= 0x10 && model <= 0x1f || model >= 0xa0 && model <= 0xaf):
		return Genoa, nil
	case family == 0x1a && model <= 0x1f:
		return Turin, nil
	}
	return "", fmt.Errorf("a processor of family %#x, model %#x, which is of no product line known here", family, model)
}

// lineOfName knows them by a certificate's product name, which may say the
// stepping, too: "Milan-B0".
func lineOfName(name string) (Line, error) {
	base, _, _ := strings.Cut(name, "-")
	switch base {
	case string(Milan), string(Genoa), string(Turin):
		return Line(base), nil
	case "Bergamo", "Siena":
		return Genoa, nil
	}
	return "", fmt.Errorf("a certificate for the product %q, which is of no line known here", name)
}

// LineOf says which product line the evidence is of: by its report from version
// 3 on, by its endorsement key's certificate before. It is no more than what
// untrusted bytes say.
func LineOf(e attest.Evidence) (Line, error) {
	report, err := Parse(e.Report)
	if err != nil {
		return "", err
	}
	k, err := findKey(e, report)
	return lineOf(report, k, err)
}

// lineOf takes what findKey returned.
func lineOf(report *Report, k *key, err error) (Line, error) {
	switch {
	case report.Version >= 3:
		return LineOfCPU(report.CPUIDFamily, report.CPUIDModel)
	case err != nil:
		return "", fmt.Errorf("a report of version %d does not name its product; its certificate would: %w", report.Version, err)
	}
	return k.line, nil
}

// parts of a TCB_VERSION, by their place in it: each is the last arc of its
// certificate extension's identifier (57230, table 8), and a name or none, for
// reserved ones.
type part struct {
	arc  int
	name string
}

var (
	layoutMilan = [8]part{{1, "bootloader"}, {2, "tee"}, {4, ""}, {5, ""}, {6, ""}, {7, ""}, {3, "snp"}, {8, "microcode"}}
	layoutTurin = [8]part{{9, "fmc"}, {1, "bootloader"}, {2, "tee"}, {3, "snp"}, {5, ""}, {6, ""}, {7, ""}, {8, "microcode"}}
)

func layout(l Line) [8]part {
	if l == Turin {
		return layoutTurin
	}
	return layoutMilan
}

// Versions reads a TCB_VERSION as the product line has it. A reserved byte that
// is not zero is an error: it would go unjudged.
func (t TCB) Versions(l Line) (attest.SNPTCB, error) {
	if !slices.Contains(Lines(), l) {
		return attest.SNPTCB{}, fmt.Errorf("TCB version of product line %q: not known", l)
	}
	var v attest.SNPTCB
	for i, p := range layout(l) {
		switch p.name {
		case "fmc":
			v.FMC = t[i]
		case "bootloader":
			v.Bootloader = t[i]
		case "tee":
			v.TEE = t[i]
		case "snp":
			v.SNP = t[i]
		case "microcode":
			v.Microcode = t[i]
		default:
			if t[i] != 0 {
				return attest.SNPTCB{}, fmt.Errorf("byte %d of the TCB version is reserved on %s and not zero", i, l)
			}
		}
	}
	return v, nil
}

// reaches tells whether each component of v is at least that of least.
func reaches(v, least attest.SNPTCB) bool {
	return v.FMC >= least.FMC && v.Bootloader >= least.Bootloader && v.TEE >= least.TEE && v.SNP >= least.SNP && v.Microcode >= least.Microcode
}

func tcbText(l Line, v attest.SNPTCB) string {
	s := fmt.Sprintf("bootloader %d, tee %d, snp %d, microcode %d", v.Bootloader, v.TEE, v.SNP, v.Microcode)
	if l == Turin {
		return fmt.Sprintf("fmc %d, %s", v.FMC, s)
	}
	return s
}

// chipIDSize is how many bytes of CHIP_ID a line uses; the rest are zero.
func chipIDSize(l Line) int {
	if l == Turin {
		return 8
	}
	return 64
}

// VCEKPath is where AMD's key distribution service has the certificate of the
// chip key that signed the report (57230, chapter 4): path and query, to be put
// behind the service's address.
func VCEKPath(r *Report, l Line) (string, error) {
	if r.Signer != VCEK {
		return "", errors.New("the report is not signed by a chip's key (VCEK); a cloud provider's certificate (VLEK) comes from that provider alone")
	}
	if r.ChipID == [64]byte{} {
		return "", errors.New("the host hides the chip's identity (MASK_CHIP_ID): its certificate can't be asked for")
	}
	v, err := r.ReportedTCB.Versions(l)
	if err != nil {
		return "", err
	}
	query := fmt.Sprintf("blSPL=%02d&teeSPL=%02d&snpSPL=%02d&ucodeSPL=%02d", v.Bootloader, v.TEE, v.SNP, v.Microcode)
	if l == Turin {
		query = fmt.Sprintf("fmcSPL=%02d&%s", v.FMC, query)
	}
	return fmt.Sprintf("/vcek/v1/%s/%x?%s", l, r.ChipID[:chipIDSize(l)], query), nil
}

// CRLPath is where that service has the line's revocation list.
func CRLPath(l Line) string { return fmt.Sprintf("/vcek/v1/%s/crl", l) }
