package inteltest

import (
	"crypto/x509"
	"crypto/x509/pkix"

	"github.com/ultravioletrs/cocos/attest"
)

// texts are about TCB info and QE identity as such.
func texts(typ attest.Type) map[string]Refusal {
	other, otherQE := attest.TDX, "TD_QE"
	if typ == attest.TDX {
		other, otherQE = attest.SGX, "QE"
	}
	expired := func(o Object) { o["issueDate"], o["nextUpdate"] = stamp(-40), stamp(-1) }
	return map[string]Refusal{
		"no TCB info":               {Change: func(f *Fake) { f.TCBInfo = nil }, Claims: "tcb_info"},
		"no QE identity":            {Change: func(f *Fake) { f.QEIdentity = nil }, Claims: "qe_identity"},
		"TCB info that is not JSON": {Forge: func(f *Fake, e *attest.Evidence) { e.Endorsements.TCBInfo = []byte("x") }, Claims: "tcb_info"},
		"TCB info with a member beside it": {Forge: func(f *Fake, e *attest.Evidence) {
			swap(&e.Endorsements.TCBInfo, `{"tcbInfo"`, `{"x":1,"tcbInfo"`)
		}, Claims: "tcb_info"},
		"TCB info twice": {Forge: func(f *Fake, e *attest.Evidence) {
			swap(&e.Endorsements.TCBInfo, `{"tcbInfo"`, `{"tcbInfo":{},"tcbInfo"`)
		}, Claims: "tcb_info"},
		"TCB info forged": {Forge: func(f *Fake, e *attest.Evidence) {
			swap(&e.Endorsements.TCBInfo, `"OutOfDate"`, `"UpToDate"`)
		}, Claims: "tcb_info", Says: "not signed by"},
		"TCB info with a space more": {Forge: func(f *Fake, e *attest.Evidence) {
			swap(&e.Endorsements.TCBInfo, `"version":3`, `"version": 3`)
		}, Claims: "tcb_info", Says: "not signed by"},
		"TCB info with the identity's signature": {Forge: func(f *Fake, e *attest.Evidence) {
			mine, theirs := e.Endorsements.TCBInfo, e.Endorsements.QEIdentity
			e.Endorsements.TCBInfo = append(mine[:len(mine)-130:len(mine)-130], theirs[len(theirs)-130:]...)
		}, Claims: "tcb_info", Says: "not signed by"},
		"QE identity forged": {Forge: func(f *Fake, e *attest.Evidence) {
			swap(&e.Endorsements.QEIdentity, `"OutOfDate"`, `"UpToDate"`)
		}, Claims: "qe_identity", Says: "not signed by"},
		"QE identity in place of TCB info": {Forge: func(f *Fake, e *attest.Evidence) {
			e.Endorsements.TCBInfo = SignJSON("tcbInfo", f.QEIdentity, f.Signer)
		}, Claims: "tcb_info"},
		"no chains": {Forge: func(f *Fake, e *attest.Evidence) {
			e.Endorsements.TCBInfoChain, e.Endorsements.QEIdentityChain = nil, nil
		}, Claims: "tcb_info qe_identity", Says: "no certificate of Intel SGX TCB Signing"},
		"a signer of its own root": {Change: func(f *Fake) {
			root := Issue(Template("Intel SGX Root CA", true), nil)
			f.JSONSigner = Issue(Template("Intel SGX TCB Signing", false), root)
		}, Claims: "tcb_info qe_identity", Says: "not signed by the key"},
		"the platform's key as signer": {Change: func(f *Fake) {
			f.Leaf = pckOf(f)
			f.JSONSigner = f.Leaf
		}, Claims: "tcb_info qe_identity"},
		"a signer below the authority": {Change: func(f *Fake) {
			f.JSONSigner = Issue(Template("Intel SGX TCB Signing", false), f.Authority)
		}, Claims: "tcb_info qe_identity"},
		"an authority as signer": {Change: func(f *Fake) {
			f.JSONSigner = Issue(Template("Intel SGX TCB Signing", true), f.Root)
		}, Claims: "tcb_info qe_identity"},
		"a signer of another name": {Change: func(f *Fake) {
			f.JSONSigner = Issue(Template("Intel SGX TCB", false), f.Root)
		}, Claims: "tcb_info qe_identity"},
		"a signer with an unknown extension": {Change: func(f *Fake) {
			c := Template("Intel SGX TCB Signing", false)
			c.ExtraExtensions = []pkix.Extension{critical}
			f.JSONSigner = Issue(c, f.Root)
		}, Claims: "tcb_info qe_identity"},
		"a signer that may not sign": {Change: func(f *Fake) {
			c := Template("Intel SGX TCB Signing", false)
			c.KeyUsage = x509.KeyUsageKeyAgreement
			f.JSONSigner = Issue(c, f.Root)
		}, Claims: "tcb_info qe_identity", Says: "not for signing"},
		"a signer expired": {Change: func(f *Fake) {
			c := Template("Intel SGX TCB Signing", false)
			c.NotAfter = Now.AddDate(0, 0, -1)
			f.JSONSigner = Issue(c, f.Root)
		}, Claims: "tcb_info.dates qe_identity.dates"},
		"TCB info expired":                 {Change: func(f *Fake) { expired(f.TCBInfo) }, Claims: "tcb_info.dates"},
		"TCB info of tomorrow":             {Change: func(f *Fake) { f.TCBInfo["issueDate"] = stamp(1) }, Claims: "tcb_info.dates"},
		"QE identity expired":              {Change: func(f *Fake) { expired(f.QEIdentity) }, Claims: "qe_identity.dates"},
		"TCB info without a date":          {Change: func(f *Fake) { delete(f.TCBInfo, "nextUpdate") }, Claims: "tcb_info"},
		"QE identity without one":          {Change: func(f *Fake) { delete(f.QEIdentity, "nextUpdate") }, Claims: "qe_identity"},
		"TCB info of version 2":            {Change: func(f *Fake) { f.TCBInfo["version"] = 2 }, Claims: "tcb_info", Says: "version 2"},
		"QE identity of version 1":         {Change: func(f *Fake) { f.QEIdentity["version"] = 1 }, Claims: "qe_identity", Says: "version 1"},
		"TCB info of another kind":         {Change: func(f *Fake) { f.TCBInfo["tcbType"] = 1 }, Claims: "tcb_info"},
		"TCB info without a kind":          {Change: func(f *Fake) { delete(f.TCBInfo, "tcbType") }, Claims: "tcb_info"},
		"TCB info without levels":          {Change: func(f *Fake) { f.TCBInfo["tcbLevels"] = []any{} }, Claims: "tcb_info"},
		"QE identity without levels":       {Change: func(f *Fake) { f.QEIdentity["tcbLevels"] = []any{} }, Claims: "qe_identity"},
		"TCB info for the other TEE":       {Change: func(f *Fake) { f.TCBInfo = tcbInfo(other) }, Claims: "tcb_info.id"},
		"another enclave's identity":       {Change: func(f *Fake) { f.QEIdentity["id"] = otherQE }, Claims: "qe_identity.id"},
		"the identity of Intel's verifier": {Change: func(f *Fake) { f.QEIdentity["id"] = "QVE" }, Claims: "qe_identity.id"},
		"another FMSPC":                    {Change: func(f *Fake) { f.TCBInfo["fmspc"] = "B0C06F000001" }, Claims: "tcb_info.fmspc"},
		"another PCEID":                    {Change: func(f *Fake) { f.TCBInfo["pceId"] = "0001" }, Claims: "tcb_info.pce_id"},
		"TCB info without FMSPC":           {Change: func(f *Fake) { delete(f.TCBInfo, "fmspc") }, Claims: "tcb_info"},
		"TCB info evaluated too early":     {Change: func(f *Fake) { f.TCBInfo["tcbEvaluationDataNumber"] = 16 }, Claims: "tcb_info.evaluation"},
		"QE identity evaluated too early":  {Change: func(f *Fake) { f.QEIdentity["tcbEvaluationDataNumber"] = 16 }, Claims: "qe_identity.evaluation"},
		"no minimum in the policy":         {Change: func(f *Fake) { f.Policy.MinimumEvaluation = 0 }, Claims: "tcb_info.evaluation qe_identity.evaluation"},
		"QE identity without a signer":     {Change: func(f *Fake) { delete(f.QEIdentity, "mrsigner") }, Claims: "qe_identity"},
		"QE identity without a product":    {Change: func(f *Fake) { delete(f.QEIdentity, "isvprodid") }, Claims: "qe_identity"},
		"a huge TCB info":                  {Forge: func(f *Fake, e *attest.Evidence) { e.Endorsements.TCBInfo = make([]byte, 2<<20) }, Claims: "tcb_info", Says: "at most"},
	}
}

// levels are about how platform and quoting enclave stand.
func levels() map[string]Refusal {
	status := func(s string) func(f *Fake) { return func(f *Fake) { level(f.TCBInfo)["tcbStatus"] = s } }
	return map[string]Refusal{
		"a status not listed":       {Change: status("SWHardeningNeeded"), Claims: "tcb.status", Says: "SWHardeningNeeded"},
		"a status not known":        {Change: status("Fine"), Claims: "tcb.status", Says: `"Fine"`},
		"no status":                 {Change: status(""), Claims: "tcb.status"},
		"revoked":                   {Change: func(f *Fake) { status("Revoked")(f); f.Policy.Status = []string{"UpToDate", "Revoked"} }, Claims: "tcb.status", Says: "Revoked"},
		"no status in the policy":   {Change: func(f *Fake) { f.Policy.Status = nil }, Claims: "tcb.status"},
		"an old component":          {Change: func(f *Fake) { f.PCK.Components[7] = 4 }, Claims: "tcb.status", Says: "older than each level"},
		"an older component":        {Change: func(f *Fake) { f.PCK.Components[0] = 2 }, Claims: "tcb.status tcb.advisories", Says: "platform OutOfDate"},
		"an older PCE":              {Change: func(f *Fake) { f.PCK.PCESVN = 10 }, Claims: "tcb.status tcb.advisories", Says: "platform OutOfDate"},
		"a PCE that is too old":     {Change: func(f *Fake) { f.PCK.PCESVN = 4 }, Claims: "tcb.status", Says: "older than each level"},
		"a level without a version": {Change: func(f *Fake) { delete(level(f.TCBInfo)["tcb"].(Object), "pcesvn") }, Claims: "tcb_info"},
		"a level without a component": {Change: func(f *Fake) {
			tcb := level(f.TCBInfo)["tcb"].(Object)
			tcb["sgxtcbcomponents"] = tcb["sgxtcbcomponents"].([]any)[:15]
		}, Claims: "tcb_info"},
		"a component without a version": {Change: func(f *Fake) {
			delete(level(f.TCBInfo)["tcb"].(Object)["sgxtcbcomponents"].([]any)[3].(Object), "svn")
		}, Claims: "tcb_info"},
		"an advisory not listed": {Change: func(f *Fake) {
			level(f.TCBInfo)["advisoryIDs"] = []string{"INTEL-SA-00001", "INTEL-SA-00002"}
			f.Policy.Advisories = []string{"INTEL-SA-00001"}
		}, Claims: "tcb.advisories", Says: "INTEL-SA-00002"},
		"an older quoting enclave":                     {Change: func(f *Fake) { f.QE[258] = QESVN - 1 }, Claims: "tcb.status tcb.advisories", Says: "quoting enclave OutOfDate"},
		"a quoting enclave that is too old":            {Change: func(f *Fake) { f.QE[258] = 1 }, Claims: "tcb.status"},
		"a quoting enclave's level without a version":  {Change: func(f *Fake) { delete(level(f.QEIdentity)["tcb"].(Object), "isvsvn") }, Claims: "qe_identity"},
		"another signer's quoting enclave":             {Change: func(f *Fake) { f.QE[128] ^= 1 }, Claims: "qe.mr_signer"},
		"another product's quoting enclave":            {Change: func(f *Fake) { f.QE[256] ^= 4 }, Claims: "qe.isv_prod_id"},
		"a quoting enclave that can be debugged":       {Change: func(f *Fake) { f.QE[48] |= 2 }, Claims: "qe.attributes"},
		"a quoting enclave with an attribute more":     {Change: func(f *Fake) { f.QE[49] = 1 }, Claims: "qe.attributes"},
		"a quoting enclave without the platform's key": {Change: func(f *Fake) { f.QE[48] &^= 0x10 }, Claims: "qe.attributes"},
		"a quoting enclave that reports more":          {Change: func(f *Fake) { f.QE[16] = 1 }, Claims: "qe.misc_select"},
		"another signer's, unchecked": {Change: func(f *Fake) {
			f.Policy.Collateral = attest.CheckNot
			f.QE[128] ^= 1
		}, Claims: "qe.mr_signer"},
		"another product's, unchecked": {Change: func(f *Fake) { f.Policy.Collateral = attest.CheckNot; f.QE[256] ^= 4 }, Claims: "qe.isv_prod_id"},
		"debugged, unchecked":          {Change: func(f *Fake) { f.Policy.Collateral = attest.CheckNot; f.QE[48] |= 2 }, Claims: "qe.attributes"},
		"reports more, unchecked":      {Change: func(f *Fake) { f.Policy.Collateral = attest.CheckNot; f.QE[16] = 1 }, Claims: "qe.misc_select"},
		"its own root, unchecked": {Change: func(f *Fake) {
			f.Policy.Collateral = attest.CheckNot
			root := Issue(Template("Intel SGX Root CA", true), nil)
			f.Authority = Issue(Template("Intel SGX PCK Platform CA", true), root)
		}, Claims: "chain"},
		"another attestation key, unchecked": {Change: func(f *Fake) {
			f.Policy.Collateral = attest.CheckNot
			f.KeyDigest = fill(32, 7)
		}, Claims: "signature.key"},
	}
}
