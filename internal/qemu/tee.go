package qemu

import (
	"encoding/base64"
	"fmt"
	"strings"

	"github.com/go-json-experiment/json"

	"github.com/ultravioletrs/cocos/internal/vm"
)

// epcID is QEMU's name of the virtual enclave page cache.
const epcID = "epc0"

// machineOptions are what a TEE wants of the machine.
func machineOptions(m vm.Machine) string {
	if m.TEE == nil {
		return ""
	}
	guard := ",confidential-guest-support=" + escape(m.TEE.ID)
	switch m.TEE.Kind {
	case vm.SEV, vm.SEVES:
		return guard + ",smm=off"
	case vm.SEVSNP:
		return ",kernel-irqchip=split" + guard + ",smm=off,vmport=off,hpet=off"
	case vm.TDX:
		return ",kernel-irqchip=split" + guard + ",hpet=off"
	case vm.SGX:
		return ",sgx-epc.0.memdev=" + epcID + ",sgx-epc.0.node=0"
	}
	return ""
}

// cpuFeatures are what a TEE adds to the CPU's model.
func cpuFeatures(m vm.Machine) string {
	if m.TEE != nil && m.TEE.Kind == vm.SGX {
		return ",+sgx-provisionkey"
	}
	return ""
}

// ownBackend tells whether the guest's memory is an object of its own: the
// vhost-user device maps it, and SEV-SNP and TDX keep what is shared with the
// host in it, beside the private memory that KVM holds.
func ownBackend(m vm.Machine) bool {
	if m.TEE != nil && (m.TEE.Kind == vm.SEVSNP || m.TEE.Kind == vm.TDX) {
		return true
	}
	return m.Vsock.Way == vm.VsockUser
}

// tee adds the object that the TEE is for QEMU. The simulated one is none.
func (a *arguments) tee(m vm.Machine) {
	t := m.TEE
	if t == nil {
		return
	}
	switch t.Kind {
	case vm.SEV, vm.SEVES:
		// Which kind of VM KVM makes is stated, for the measurement depends on it.
		a.add("-object", fmt.Sprintf("sev-guest,id=%s,cbitpos=%d,reduced-phys-bits=%d,policy=%#x,kernel-hashes=on,legacy-vm-type=off",
			escape(t.ID), t.CBitPos, t.ReducedPhysBits, t.Policy))
	case vm.SEVSNP:
		a.add("-object", fmt.Sprintf("sev-snp-guest,id=%s,cbitpos=%d,reduced-phys-bits=%d,policy=%#x,kernel-hashes=on,host-data=%s",
			escape(t.ID), t.CBitPos, t.ReducedPhysBits, t.Policy, base64.StdEncoding.EncodeToString(t.LaunchField)))
	case vm.TDX:
		a.add("-object", tdxObject(t))
	case vm.SGX:
		a.add("-object", fmt.Sprintf("memory-backend-epc,id=%s,size=%dM,prealloc=on", epcID, t.EPCMiB))
	}
}

// tdxObject is in JSON, the one form that takes the quote service's address. Its
// numbers are strings there.
func tdxObject(t *vm.TEE) string {
	type address struct {
		Type string `json:"type"`
		Path string `json:"path,omitzero"`
		CID  string `json:"cid,omitzero"`
		Port string `json:"port,omitzero"`
	}
	object := struct {
		QOM    string   `json:"qom-type"`
		ID     string   `json:"id"`
		Config string   `json:"mrconfigid"`
		Quotes *address `json:"quote-generation-socket,omitzero"`
	}{QOM: "tdx-guest", ID: t.ID, Config: base64.StdEncoding.EncodeToString(t.LaunchField)}
	if t.QuoteService != "" {
		q, err := ParseQuoteService(t.QuoteService)
		if err == nil { // Validate has judged it
			object.Quotes = &address{Type: q.Network, Path: q.Path, CID: q.CID, Port: q.Port}
		}
	}
	b, err := json.Marshal(object, json.Deterministic(true))
	if err != nil { // strings alone: invalid UTF-8, which Validate refuses
		return ""
	}
	return string(b)
}

// QuoteService is where Intel's quote service is reached.
type QuoteService struct {
	Network         string // "unix" or "vsock"
	Path, CID, Port string
}

// ParseQuoteService reads "unix:PATH" or "vsock:CID:PORT".
func ParseQuoteService(s string) (QuoteService, error) {
	wrong := fmt.Errorf("is %q; expected unix:/PATH or vsock:CID:PORT, such as unix:/var/run/tdx-qgs/qgs.socket or vsock:2:4050", s)
	network, rest, _ := strings.Cut(s, ":")
	switch network {
	case "unix":
		if !strings.HasPrefix(rest, "/") || strings.ContainsAny(rest, "\x00\n\r") || len(rest) > 107 {
			return QuoteService{}, wrong
		}
		return QuoteService{Network: network, Path: rest}, nil
	case "vsock":
		cid, port, ok := strings.Cut(rest, ":")
		if !ok || !isNumber(cid) || !isNumber(port) {
			return QuoteService{}, wrong
		}
		return QuoteService{Network: network, CID: cid, Port: port}, nil
	}
	return QuoteService{}, wrong
}

// isNumber tells whether s is the plain decimal of 32 bits that are not 0.
func isNumber(s string) bool {
	var n uint32
	_, err := fmt.Sscanf(s, "%d", &n)
	return err == nil && n > 0 && s == fmt.Sprint(n)
}

// Launches tells whether this version of QEMU has what the kind needs. Older
// ones have sev-guest, too, but leave open which kind of VM KVM makes of it.
func (v Version) Launches(kind vm.TEEKind) error {
	major, minor, object := 7, 2, ""
	switch kind {
	case vm.SEV, vm.SEVES:
		major, minor, object = 9, 1, "sev-guest with legacy-vm-type"
	case vm.SEVSNP:
		major, minor, object = 9, 1, "sev-snp-guest"
	case vm.TDX:
		major, minor, object = 10, 1, "tdx-guest"
	}
	if v.AtLeast(major, minor) {
		return nil
	}
	return fmt.Errorf("QEMU %s has no %s, which %s needs; set %s to QEMU %d.%d or later", v, object, kind, Variable, major, minor)
}
