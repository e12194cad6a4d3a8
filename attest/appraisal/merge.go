package appraisal

import (
	"bytes"
	"slices"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/ultravioletrs/cocos/attest"
)

// maxStatement bounds a statement of Intel's whose dates are looked at, in bytes.
const maxStatement = 1 << 20

// merge puts the relying party's own endorsements before those that came with
// the evidence. Of TCB info and QE identity only one each is judged: its own,
// unless by its dates it is not good at the time while the other is, as when a
// receipt of long ago is checked.
func merge(own, enclosed attest.Endorsements, at time.Time) attest.Endorsements {
	m := attest.Endorsements{
		Certificates: union(own.Certificates, enclosed.Certificates),
		CRLs:         union(own.CRLs, enclosed.CRLs),
		TCBInfo:      own.TCBInfo, TCBInfoChain: own.TCBInfoChain,
		QEIdentity: own.QEIdentity, QEIdentityChain: own.QEIdentityChain,
	}
	if worse(own.TCBInfo, enclosed.TCBInfo, at) {
		m.TCBInfo, m.TCBInfoChain = enclosed.TCBInfo, enclosed.TCBInfoChain
	}
	if worse(own.QEIdentity, enclosed.QEIdentity, at) {
		m.QEIdentity, m.QEIdentityChain = enclosed.QEIdentity, enclosed.QEIdentityChain
	}
	return m
}

// union is a, then what b has beside it.
func union(a, b [][]byte) [][]byte {
	all := slices.Clone(a)
	for _, x := range b {
		if !slices.ContainsFunc(all, func(y []byte) bool { return bytes.Equal(x, y) }) {
			all = append(all, x)
		}
	}
	return all
}

// worse tells whether the enclosed statement is the one to judge.
func worse(own, enclosed []byte, at time.Time) bool {
	return len(own) == 0 || !goodAt(own, at) && goodAt(enclosed, at)
}

// goodAt goes by what a statement says of itself, which the appraisal holds
// against its signature.
func goodAt(statement []byte, at time.Time) bool {
	if len(statement) > maxStatement {
		return false
	}
	var members map[string]jsontext.Value
	if json.Unmarshal(statement, &members) != nil {
		return false
	}
	for _, name := range []string{"tcbInfo", "enclaveIdentity"} {
		var dates struct {
			IssueDate  time.Time `json:"issueDate"`
			NextUpdate time.Time `json:"nextUpdate"`
		}
		if members[name] != nil && json.Unmarshal(members[name], &dates) == nil {
			return !at.Before(dates.IssueDate) && !at.After(dates.NextUpdate)
		}
	}
	return false
}
