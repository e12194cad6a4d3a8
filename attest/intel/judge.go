package intel

import (
	"bytes"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/ultravioletrs/cocos/attest"
)

// Names of what Intel's JSON is for, by the type of evidence.
var (
	idOf   = map[attest.Type]string{attest.SGX: "SGX", attest.TDX: "TDX"}
	qeIDOf = map[attest.Type]string{attest.SGX: idQE, attest.TDX: idTDQE}
)

// Judge adds the claims about who signed q, and on which platform, to r, whose
// Type says what was quoted; td is what a TDX quote says of its module. It
// returns the time within which everything that it went by is good. The caller
// concludes. root is Root(), but in tests.
func Judge(r *attest.Result, q *Quote, td *TD, e attest.Endorsements, p *attest.IntelTCB, root *x509.Certificate) Window {
	j := &judge{Result: r, quote: q, td: td, policy: p, root: root, endorsements: e}
	j.origin()
	return j.good
}

// judge is an appraisal in the making.
type judge struct {
	*attest.Result
	quote        *Quote
	td           *TD
	policy       *attest.IntelTCB
	root         *x509.Certificate
	endorsements attest.Endorsements
	certificates []*x509.Certificate // all that came, the quote's own first
	signers      []*x509.Certificate // of Intel's JSON
	good         Window
}

func (j *judge) add(ok bool, name, expected, found string) bool {
	return j.Add(ok, string(j.Type)+"."+name, expected, found)
}

func (j *judge) skip(name, found string) { j.Skip(string(j.Type)+"."+name, found) }

// within judges the time of the appraisal by w, and narrows the whole.
func (j *judge) within(name string, w Window) {
	j.add(w.contains(j.At), name, w.String(), j.At.UTC().Format(time.RFC3339))
	j.good = j.good.within(w.From, w.To)
}

// origin judges the signatures from Intel's root down to the quote.
func (j *judge) origin() {
	s := &j.quote.Signature
	own, all, err := certificatesOf(s, j.endorsements)
	var p *pck
	if err == nil {
		p, err = findPCK(s, own, all)
	}
	if !j.add(err == nil, "certificate", "the platform's certificate (PCK), in the quote or beside it", found(err, "one")) {
		return
	}
	j.certificates = all
	c, err := link(p, all, j.root)
	j.add(err == nil, "chain", fmt.Sprintf("a certificate issued under %s, which is pinned", j.root.Subject.CommonName), found(err, "one"))
	signed := s.qeSigned(p.certificate)
	j.add(signed, "signature.quoting_enclave", "by the platform's key over the quoting enclave's report", verdict(signed))
	err = s.keyBound()
	j.add(err == nil, "signature.key", "an attestation key that the quoting enclave's report is about", found(err, "one"))
	err = s.quoteSigned(j.quote.Signed)
	j.add(err == nil, "signature", "by the attestation key over header and body", found(err, "it"))
	j.platform(p)
	if c == nil {
		return // what follows has nothing to go by; refused it is
	}
	var w Window
	for _, x := range []*x509.Certificate{p.certificate, c.authority, j.root} {
		w = w.within(x.NotBefore, x.NotAfter)
	}
	j.within("dates", w)
	switch j.policy.Collateral {
	case attest.CheckNot:
		j.skip("collateral", "TCB status, advisories, evaluation number and revocation are not looked at")
		j.quotingEnclave(known[j.Type])
	case attest.CheckRequired:
		j.collateral(c)
	default:
		j.add(false, "collateral", `"required" or "unchecked" in the policy`, fmt.Sprintf("%q", j.policy.Collateral))
	}
}

// platform judges which platform it is.
func (j *judge) platform(p *pck) {
	for _, id := range []struct {
		name     string
		accepted []string
		got      string
	}{
		{"fmspc", j.policy.FMSPCs, hex.EncodeToString(p.fmspc[:])},
		{"ppid", j.policy.PPIDs, hex.EncodeToString(p.ppid[:])},
	} {
		ok := slices.Contains(id.accepted, id.got) || slices.Contains(id.accepted, attest.AnyID)
		j.add(ok, id.name, either(id.accepted), id.got)
	}
	if p.smt != nil {
		j.skip("platform.smt", onOff(*p.smt))
	}
	if p.dynamic != nil {
		j.skip("platform.dynamic", onOff(*p.dynamic))
	}
}

// collateral judges what Intel says of the platform and its quoting enclave.
func (j *judge) collateral(c *chain) {
	t := j.tcbInfo(c.pck)
	q := j.qeIdentity()
	j.revocation(c)
	if q != nil {
		j.quotingEnclave(q)
	}
	if t == nil || q == nil {
		return
	}
	if j.td != nil {
		j.module(t)
	}
	s, err := t.standingOf(c.pck, j.td, q, j.quote.Signature.QE.ISVSVN)
	j.add(err == nil && s.status&revoked == 0 && slices.Contains(j.policy.Status, s.status.String()),
		"tcb.status", either(j.policy.Status), foundOr(err, s))
	if err == nil {
		j.advisories(s.advisories)
	}
}

func (j *judge) advisories(got []string) {
	accepted := j.policy.Advisories
	ok := slices.Contains(accepted, attest.AnyID) ||
		!slices.ContainsFunc(got, func(a string) bool { return !slices.Contains(accepted, a) })
	expected := "none"
	if len(accepted) > 0 {
		expected = "none but " + strings.Join(accepted, ", ")
	}
	text := "none"
	if len(got) > 0 {
		text = strings.Join(got, ", ")
	}
	j.add(ok, "tcb.advisories", expected, text)
}

// revocation judges the platform's certificate by its authority's list, and
// whatever the root issued by the root's.
func (j *judge) revocation(c *chain) {
	ls, err := readLists(j.endorsements.CRLs)
	for _, l := range []struct {
		name   string
		issuer *x509.Certificate
		certs  []*x509.Certificate
	}{
		{"revocation.root", j.root, append([]*x509.Certificate{c.authority}, j.signers...)},
		{"revocation.pck", c.authority, []*x509.Certificate{c.pck.certificate}},
	} {
		var w Window
		listErr := err
		if err == nil {
			w, listErr = ls.clear(l.issuer, j.At, l.certs...)
		}
		expected := fmt.Sprintf("the revocation list of %s, good at that time, without the certificates gone by", l.issuer.Subject.CommonName)
		if j.add(listErr == nil, l.name, expected, found(listErr, w.String())) {
			j.good = j.good.within(w.From, w.To)
		}
	}
}

// signed reads JSON of Intel's and finds who signed it.
func (j *judge) signed(text, chain []byte, member string) ([]byte, *x509.Certificate, error) {
	s, err := readSigned(text, member)
	if err != nil {
		return nil, nil, err
	}
	signer, err := findSigner(chain, j.certificates, j.root)
	if err != nil {
		return nil, nil, err
	}
	if err := s.signedBy(signer); err != nil {
		return nil, nil, err
	}
	j.signers = append(j.signers, signer)
	return s.raw, signer, nil
}

// tcbInfo returns nil if nothing can be judged by it.
func (j *judge) tcbInfo(p *pck) *tcbInfo {
	var t *tcbInfo
	raw, signer, err := j.signed(j.endorsements.TCBInfo, j.endorsements.TCBInfoChain, "tcbInfo")
	if err == nil {
		t, err = parseTCBInfo(raw)
	}
	if !j.add(err == nil, "tcb_info", "Intel's, signed by "+nameSigner+" under the pinned root", found(err, "it")) {
		return nil
	}
	j.within("tcb_info.dates", Window{t.IssueDate, t.NextUpdate}.within(signer.NotBefore, signer.NotAfter))
	j.evaluation("tcb_info.evaluation", t.Evaluation)
	j.add(bytes.Equal(t.FMSPC, p.fmspc[:]), "tcb_info.fmspc", hex.EncodeToString(p.fmspc[:])+", which the platform's certificate states", hex.EncodeToString(t.FMSPC))
	j.add(bytes.Equal(t.PCEID, p.pceID[:]), "tcb_info.pce_id", hex.EncodeToString(p.pceID[:])+", which the platform's certificate states", hex.EncodeToString(t.PCEID))
	if !j.add(t.ID == idOf[j.Type], "tcb_info.id", idOf[j.Type], fmt.Sprintf("%q", t.ID)) {
		return nil
	}
	return t
}

func (j *judge) qeIdentity() *qeIdentity {
	var q *qeIdentity
	raw, signer, err := j.signed(j.endorsements.QEIdentity, j.endorsements.QEIdentityChain, "enclaveIdentity")
	if err == nil {
		q, err = parseQEIdentity(raw)
	}
	if !j.add(err == nil, "qe_identity", "Intel's, signed by "+nameSigner+" under the pinned root", found(err, "it")) {
		return nil
	}
	j.within("qe_identity.dates", Window{q.IssueDate, q.NextUpdate}.within(signer.NotBefore, signer.NotAfter))
	j.evaluation("qe_identity.evaluation", q.Evaluation)
	if !j.add(q.ID == qeIDOf[j.Type], "qe_identity.id", qeIDOf[j.Type], fmt.Sprintf("%q", q.ID)) {
		return nil
	}
	return q
}

func (j *judge) evaluation(name string, got int) {
	least := j.policy.MinimumEvaluation
	expected := fmt.Sprintf("at least %d", least)
	if least < 1 {
		expected = "a minimum of at least 1 in the policy"
	}
	j.add(least >= 1 && got >= least, name, expected, fmt.Sprint(got))
}

// module judges who signed the TDX module, by Intel's word on its version.
func (j *judge) module(t *tcbInfo) {
	m, _, err := t.module(j.td.TCBSVN)
	if err != nil {
		return // the status says it
	}
	j.add(bytes.Equal(m.MRSigner, j.td.MRSignerSEAM[:]), "module.mr_signer", hex.EncodeToString(m.MRSigner), hex.EncodeToString(j.td.MRSignerSEAM[:]))
	j.add(masked(j.td.SEAMAttributes[:], m.Mask, m.Attributes), "module.attributes",
		fmt.Sprintf("%x under the mask %x", []byte(m.Attributes), []byte(m.Mask)), hex.EncodeToString(j.td.SEAMAttributes[:]))
}

// quotingEnclave judges the enclave that made the quote.
func (j *judge) quotingEnclave(q *qeIdentity) {
	qe := &j.quote.Signature.QE
	j.add(bytes.Equal(qe.MRSigner[:], q.MRSigner), "qe.mr_signer", hex.EncodeToString(q.MRSigner), hex.EncodeToString(qe.MRSigner[:]))
	j.add(qe.ISVProdID == *q.ISVProdID, "qe.isv_prod_id", fmt.Sprint(*q.ISVProdID), fmt.Sprint(qe.ISVProdID))
	j.add(masked(qe.Attributes[:], q.AttributesMask, q.Attributes), "qe.attributes",
		fmt.Sprintf("%x under the mask %x", []byte(q.Attributes), []byte(q.AttributesMask)), hex.EncodeToString(qe.Attributes[:]))
	j.add(masked(qe.MiscSelect[:], q.MiscMask, q.MiscSelect), "qe.misc_select",
		fmt.Sprintf("%x under the mask %x", []byte(q.MiscSelect), []byte(q.MiscMask)), hex.EncodeToString(qe.MiscSelect[:]))
}

func masked(got, mask, want []byte) bool {
	for i := range got {
		if got[i]&mask[i] != want[i] {
			return false
		}
	}
	return len(got) == len(want) && len(got) == len(mask)
}

// known are Intel's quoting enclaves as it has signed them since they exist, for
// appraisals without its word of today: signer and product, not debuggable, no
// more attributes than theirs.
var known = map[attest.Type]*qeIdentity{
	attest.SGX: knownQE("8c4f5775d796503e96137f77c68a829a0056ac8ded70140b081b094490c57bff", 1),
	attest.TDX: knownQE("dc9e2a7c6f948f17474e34a7fc43ed030f7c1563f1babddf6340c82e0e54a8c5", 2),
}

func knownQE(signer string, product uint16) *qeIdentity {
	b, err := hex.DecodeString(signer)
	if err != nil {
		panic("intel: " + err.Error())
	}
	return &qeIdentity{
		MRSigner:       b,
		ISVProdID:      &product,
		Attributes:     append([]byte{0x11}, make([]byte, 15)...), // INIT, PROVISIONKEY
		AttributesMask: append([]byte{0xfb}, append(bytes.Repeat([]byte{0xff}, 7), make([]byte, 8)...)...),
		MiscSelect:     make([]byte, 4),
		MiscMask:       bytes.Repeat([]byte{0xff}, 4),
	}
}
