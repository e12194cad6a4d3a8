package attest

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
)

// What an SNP policy may name. The products are those whose keys attest/snp has.
var (
	snpProducts = []string{"Milan", "Genoa", "Turin"}
	snpSigners  = []string{"vcek", "vlek"}
	snpABI      = regexp.MustCompile(`^[0-9]{1,3}\.[0-9]{1,3}$`)
)

// maxVMPL is the least privileged level of a guest (56860, table 22).
const maxVMPL = 3

func (p *SNPPolicy) validate(f *faults, path string) {
	f.sized(path+"/measurements", p.Measurements, 48)
	f.sizedOrNone(path+"/host_data", p.HostData, 32)
	f.words(path+"/products", p.Products, snpProducts)
	f.ids(path+"/chip_ids", p.ChipIDs, 64)
	f.words(path+"/signers", p.Signers, snpSigners)
	for _, product := range p.Products {
		if _, ok := p.MinimumTCB[product]; !ok {
			f.add(path+"/minimum_tcb/"+product, "is not there: nothing of that product would be accepted")
		}
	}
	for _, product := range slices.Sorted(maps.Keys(p.MinimumTCB)) {
		switch {
		case !slices.Contains(p.Products, product):
			f.add(path+"/minimum_tcb/"+product, "is for a product that %s/products does not list", path)
		case product != "Turin" && p.MinimumTCB[product].FMC != 0:
			f.add(path+"/minimum_tcb/"+product+"/fmc", "is %d; only Turin has an FMC", p.MinimumTCB[product].FMC)
		}
	}
	f.check(path+"/revocation", p.Revocation)
	if abi := p.Guest.MinimumABI; abi != "" && !validABI(abi) {
		f.add(path+"/guest_policy/minimum_abi", "is %q; expected a version such as \"1.55\"", abi)
	}
	if p.VMPL > maxVMPL {
		f.add(path+"/vmpl", "is %d; expected 0 to %d", p.VMPL, maxVMPL)
	}
	f.sizedOrNone(path+"/id_key_digests", p.IDKeyDigests, 48)
	f.sizedOrNone(path+"/author_key_digests", p.AuthorKeyDigests, 48)
}

func validABI(s string) bool {
	var major, minor uint8
	if !snpABI.MatchString(s) {
		return false
	}
	_, err := fmt.Sscanf(s, "%d.%d", &major, &minor)
	return err == nil
}

func (p *SimPolicy) validate(f *faults, path string) {
	if p.Accept != SimConsent {
		f.add(path+"/accept", "is %q; whoever accepts simulation says %q", p.Accept, SimConsent)
	}
	f.sized(path+"/roots", p.Roots, 32)
	f.sized(path+"/measurements", p.Measurements, 48)
	f.sizedOrNone(path+"/host_data", p.HostData, 32)
}

// words wants at least one value, each of those that are known.
func (f *faults) words(path string, values, known []string) {
	if len(values) == 0 {
		f.add(path, "is empty: nothing would be accepted; list what you accept of %s", strings.Join(known, ", "))
	}
	for i, v := range values {
		if !slices.Contains(known, v) {
			f.add(fmt.Sprintf("%s/%d", path, i), "is %q; expected one of %s", v, strings.Join(known, ", "))
		}
	}
}
