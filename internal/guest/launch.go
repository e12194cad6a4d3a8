package guest

import (
	"errors"
	"fmt"

	"github.com/ultravioletrs/cocos/attest"
	"github.com/ultravioletrs/cocos/manifest"
)

// ErrRefused says that this VM must not run what the host handed in.
var ErrRefused = errors.New("refused")

// VerifyLaunch compares what the host handed in with what the TEE says that the
// VM was launched for. A nil attester is a plain VM, whose word for the manifest
// is the host's: it runs only manifests that ask for nothing else.
func VerifyLaunch(m *manifest.Frozen, attester attest.Attester) error {
	switch {
	case attester != nil:
		// Until the launch field can be read there is nothing to compare with.
		return fmt.Errorf("%w: this agent can't read the launch field of a TEE, so nothing shows that the VM was launched for manifest %s", ErrRefused, m.Digest)
	case m.TEE != manifest.TEENone:
		return fmt.Errorf("%w: manifest field /tee is %q, and this is a plain VM: nothing vouches for it", ErrRefused, m.TEE)
	case m.AttestedTLS:
		return fmt.Errorf("%w: manifest field /attested_tls is true, and this is a plain VM: nothing vouches for it", ErrRefused)
	}
	return nil
}

// CheckApprovals wants the signature of everyone whom the manifest asks, and no
// other.
func CheckApprovals(m *manifest.Frozen, approvals []manifest.Approval) error {
	if err := m.CheckApprovals(approvals); err != nil {
		return fmt.Errorf("%w: %w", ErrRefused, err)
	}
	return nil
}
