package manifest

import (
	"fmt"
	"slices"
	"strings"

	"github.com/ultravioletrs/cocos/keys"
)

// Role is what a key may do in a computation.
type Role string

// The roles.
const (
	AlgorithmProvider Role = "algorithm-provider"
	DatasetProvider   Role = "dataset-provider"
	Consumer          Role = "consumer"
	Approver          Role = "approver"
)

// Roles lists them in the order in which texts show them.
func Roles() []Role { return []Role{AlgorithmProvider, DatasetProvider, Consumer, Approver} }

// HasRole tells whether the manifest gives key the role.
func (m *Manifest) HasRole(key keys.Public, role Role) bool {
	switch role {
	case AlgorithmProvider:
		return m.Algorithm.Provider.Equal(key)
	case DatasetProvider:
		return slices.ContainsFunc(m.Datasets, func(d Dataset) bool { return d.Provider.Equal(key) })
	case Consumer:
		return slices.ContainsFunc(m.Consumers, key.Equal)
	case Approver:
		return slices.ContainsFunc(m.Approvals, key.Equal)
	}
	return false
}

// RolesOf lists what key may do.
func (m *Manifest) RolesOf(key keys.Public) []Role {
	return slices.DeleteFunc(Roles(), func(r Role) bool { return !m.HasRole(key, r) })
}

// Dataset returns the dataset of that name.
func (m *Manifest) Dataset(name string) (Dataset, bool) {
	i := slices.IndexFunc(m.Datasets, func(d Dataset) bool { return d.Name == name })
	if i < 0 {
		return Dataset{}, false
	}
	return m.Datasets[i], true
}

// CallText is what a caller of the agent signs: that it, the holder of key,
// speaks in this role for the computation of this digest, to the VM with this
// instance key (DER SubjectPublicKeyInfo; empty where no evidence vouches for
// one), on the TLS connection whose exporter value (RFC 9266) is exporter. On
// another connection it proves nothing.
func CallText(digest Digest, role Role, key keys.Public, instance, exporter []byte) keys.Text {
	return keys.Text{Purpose: keys.PurposeCall, Fields: [][]byte{digest[:], []byte(role), key.SPKI(), instance, exporter}}
}

// Approval is a participant's signature over a manifest digest.
type Approval struct {
	PublicKey keys.Public `json:"public_key"`
	Signature []byte      `json:"signature"`
}

// approvalText has the roles, too, so that nobody can say later that a key was
// meant for another part: those that the manifest gives the key, in the order of
// Roles, with commas between them.
func (f *Frozen) approvalText(key keys.Public) keys.Text {
	roles := make([]string, 0, len(Roles()))
	for _, r := range f.RolesOf(key) {
		roles = append(roles, string(r))
	}
	return keys.Text{Purpose: keys.PurposeApproval, Fields: [][]byte{f.Digest[:], []byte(strings.Join(roles, ",")), key.SPKI()}}
}

// Approve signs the digest, for the roles that the manifest gives to key.
func (f *Frozen) Approve(key keys.Private) (Approval, error) {
	sig, err := key.Sign(f.approvalText(key.Public()))
	if err != nil {
		return Approval{}, fmt.Errorf("approving manifest %s: %w", f.Digest, err)
	}
	return Approval{PublicKey: key.Public(), Signature: sig}, nil
}

// CheckApproval returns Faults unless a is a valid signature by a key that the
// manifest wants to approve.
func (f *Frozen) CheckApproval(a Approval) error {
	var v validator
	v.approval("/approval", f, a)
	if len(v.faults) == 0 {
		return nil
	}
	return v.faults
}

func (v *validator) approval(path string, f *Frozen, a Approval) {
	switch {
	case !slices.ContainsFunc(f.Approvals, a.PublicKey.Equal):
		v.add(path, "is by a key that the manifest does not ask: %s", a.PublicKey.Fingerprint())
	case a.PublicKey.Verify(f.approvalText(a.PublicKey), a.Signature) != nil:
		v.add(path, "does not verify: it is not a signature of %s by %s", f.Digest, a.PublicKey.Fingerprint())
	}
}

// CheckApprovals returns Faults unless each key that the manifest wants to
// approve has one valid signature, and no other signature is there.
func (f *Frozen) CheckApprovals(approvals []Approval) error {
	var v validator
	for i, a := range approvals {
		path := fmt.Sprintf("/approvals/%d", i)
		if slices.ContainsFunc(approvals[:i], func(b Approval) bool { return b.PublicKey.Equal(a.PublicKey) }) {
			v.add(path, "is a second one by the same key: %s", a.PublicKey.Fingerprint())
			continue
		}
		v.approval(path, f, a)
	}
	for _, k := range f.Approvals {
		if !slices.ContainsFunc(approvals, func(a Approval) bool { return a.PublicKey.Equal(k) }) {
			v.add("/approvals", "lack the one of %s", k.Fingerprint())
		}
	}
	if len(v.faults) == 0 {
		return nil
	}
	return v.faults
}
