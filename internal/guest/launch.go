package guest

import (
	"bytes"
	"context"

	"github.com/ultravioletrs/cocos/attest"
	"github.com/ultravioletrs/cocos/internal/vm"
	"github.com/ultravioletrs/cocos/manifest"
)

// VerifyLaunch compares what the host handed in with what the TEE says that the
// VM was launched for. A nil attester is a plain VM, whose word for the manifest
// is the host's: it runs only manifests that ask for nothing else. In a TEE the
// launch field must name this manifest even where that asks for no TEE.
func VerifyLaunch(ctx context.Context, m *manifest.Frozen, attester attest.Attester) error {
	switch {
	case attester == nil && m.TEE != manifest.TEENone:
		return vm.Refuse(vm.RefusedTEE, "manifest field /tee is %q, and this is a plain VM: nothing vouches for it", m.TEE)
	case attester == nil && m.AttestedTLS:
		return vm.Refuse(vm.RefusedTEE, "manifest field /attested_tls is true, and this is a plain VM: nothing vouches for it")
	case attester == nil:
		return nil
	}
	kind := attester.Type()
	if m.TEE != manifest.TEENone && attest.Type(m.TEE) != kind {
		return vm.Refuse(vm.RefusedTEE, "manifest field /tee is %q, and this VM's TEE is %q", m.TEE, kind)
	}
	if kind == attest.SGX {
		// An enclave is not launched for anything: its reports bind the manifest.
		return nil
	}
	want := attest.LaunchDigestsOf(m.Raw).Field(kind)
	if len(want) == 0 {
		return vm.Refuse(vm.RefusedTEE, "a TEE of type %q has no launch field that this agent knows", kind)
	}
	got, err := attester.LaunchField(ctx)
	if err != nil {
		return vm.Refuse(vm.RefusedReport, "reading the launch field of the VM's own report: %w", err)
	}
	if !bytes.Equal(got, want) {
		return vm.Refuse(vm.RefusedManifest, "the VM was launched for %x; the manifest that the host handed in (digest %s) needs %x there", got, m.Digest, want)
	}
	return nil
}

// CheckGuest wants an attested guest for a manifest that asks for a TEE: with
// another command line there would be a console, at least.
func (m *Machine) CheckGuest(f *manifest.Frozen) error {
	if f.TEE != manifest.TEENone && !m.CommandLine.Attested {
		return vm.Refuse(vm.RefusedGuest, "manifest field /tee is %q, and the kernel command line is not that of an attested guest: it lacks %s", f.TEE, noConsole)
	}
	return nil
}

// CheckApprovals wants the signature of everyone whom the manifest asks, and no
// other.
func CheckApprovals(m *manifest.Frozen, approvals []manifest.Approval) error {
	if err := m.CheckApprovals(approvals); err != nil {
		return vm.Refuse(vm.RefusedApprovals, "%w", err)
	}
	return nil
}
