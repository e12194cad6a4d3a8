package cli

import (
	"bytes"
	"errors"
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"github.com/ultravioletrs/cocos/attest"
	"github.com/ultravioletrs/cocos/attest/collateral"
	"github.com/ultravioletrs/cocos/attest/snp"
)

func (a *app) attestationCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "attestation",
		Short: "Look at and appraise what TEEs say of themselves",
	}
	group(cmd, a.attestationGetCmd(), a.attestationVerifyCmd(), a.attestationExplainCmd())
	return cmd
}

// maxEvidence bounds a file of evidence, in bytes: a report with its event log
// and endorsements, in JSON.
const maxEvidence = 16 << 20

// evidenceFlags are those of every command that reads evidence from a file.
type evidenceFlags struct {
	kind  string
	file  string
	certs []string
}

func (f *evidenceFlags) add(cmd *cobra.Command) {
	s := cmd.Flags()
	s.StringVar(&f.kind, "type", "", "what the evidence is of, `TYPE` snp, tdx, sgx or sim; a raw file does not say")
	s.StringVar(&f.file, "evidence", "", "the evidence, a `FILE`: a raw report or quote, or what attestation get wrote")
	s.StringArrayVar(&f.certs, "certs", nil, "a `FILE` of certificates that came with the evidence, PEM or DER (repeatable)")
	complete(cmd, "type", func() []string { return []string{"snp", "tdx", "sgx", "sim"} })
}

// typeOf knows the words of --type, and the manifest's.
func typeOf(word string) (attest.Type, error) {
	if word == "snp" {
		return attest.SNP, nil
	}
	if t := attest.Type(word); slices.Contains(attest.Types(), t) {
		return t, nil
	}
	return "", usagef("one of snp, tdx, sgx, sim", "--type %q is not known", word)
}

// evidence reads --type, --evidence and --certs.
func (a *app) evidence(f *evidenceFlags) (attest.Evidence, error) {
	if f.file == "" {
		return attest.Evidence{}, usagef("give the report or quote as the vendor's tool or cocos-cli attestation get wrote it", "--evidence is missing")
	}
	var kind attest.Type
	var err error
	if f.kind != "" {
		if kind, err = typeOf(f.kind); err != nil {
			return attest.Evidence{}, err
		}
	}
	b, err := readSmall(f.file, maxEvidence)
	if err != nil {
		return attest.Evidence{}, fmt.Errorf("reading --evidence: %w", err)
	}
	e, err := readEvidence(kind, b)
	if err != nil {
		return attest.Evidence{}, then(fmt.Errorf("%s: %w", f.file, err), "")
	}
	certs, err := collateral.Files(f.certs...)
	if err != nil {
		return attest.Evidence{}, advise(fmt.Errorf("--certs: %w", err), "give certificates in PEM or DER, as the vendor's service or tool wrote them")
	}
	e.Endorsements = certs.With(e.Endorsements)
	return e, nil
}

// readEvidence tells by content whether b is evidence in JSON or a vendor's own
// format. No report or quote begins with a brace: they begin with small numbers.
func readEvidence(kind attest.Type, b []byte) (attest.Evidence, error) {
	text := bytes.TrimSpace(b)
	if len(text) == 0 {
		return attest.Evidence{}, errors.New("the file is empty")
	}
	if text[0] == '{' {
		return readEvidenceJSON(kind, text)
	}
	if kind == "" {
		return attest.Evidence{}, usagef("one of snp, tdx, sgx, sim", "--type is missing: the file does not say what it is of")
	}
	e := attest.Evidence{Type: kind, Report: b}
	if kind != attest.SNP && kind != attest.Sim || len(b) <= snp.ReportSize {
		return e, nil
	}
	// Tools that ask for an extended report put its certificate table behind it.
	table, err := snp.ParseCertTable(b[snp.ReportSize:])
	if err != nil || len(table.Certificates) == 0 {
		return attest.Evidence{}, fmt.Errorf("it has %d bytes; a report has %d, and what follows is no certificate table", len(b), snp.ReportSize)
	}
	e.Report, e.Endorsements = b[:snp.ReportSize], table
	return e, nil
}

func readEvidenceJSON(kind attest.Type, text []byte) (attest.Evidence, error) {
	e, err := attest.ParseEvidence(text)
	if err != nil {
		return attest.Evidence{}, advise(err, "give a file that cocos-cli attestation get wrote, or a raw report or quote with --type")
	}
	if kind != "" && kind != e.Type {
		return attest.Evidence{}, usagef("leave --type out, or find out which of the two is wrong", "--type says %s; the file says that it is of %s", kind, e.Type)
	}
	return e, nil
}
