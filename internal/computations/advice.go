package computations

import (
	"strings"

	"github.com/ultravioletrs/cocos/internal/vm"
)

// EventRefused is the service's own event of a host that refused a run.
const EventRefused = "run.refused"

// What can be done where a computation asks for more than a host or its VM has.
const (
	copyIt     = "copy the computation: a manifest never changes, and the copy needs new approvals"
	adviseDisk = "The manifest asks for a disk for inputs that the host does not give. Wait until other runs there have ended, or ask the host's operator for more room (MANAGER_SCRATCH_MAX). " +
		"Or " + copyIt + ". Let the copy have a smaller disk, or none if the inputs fit into memory."
	adviseOut = "The manifest has a dataset that the agent fetches from a server, and the host lets its VMs connect to nobody, or not there. Ask the host's operator to allow it (MANAGER_EGRESS, MANAGER_EGRESS_ALLOW). " +
		"Or " + copyIt + ". Let the dataset's owner register it without a source, and upload it."
	adviseMemory = "The inputs don't fit into the memory of the host's VMs. Ask the host's operator for larger ones (MANAGER_QEMU_MEMORY_SIZE). " +
		"Or " + copyIt + ". Let the copy keep its inputs on a disk."
	adviseDisks = "The VM did not have the disk for inputs that the manifest asks for. That is its host's doing: ask its operator why, or start another run, perhaps on another host."
)

// advice is what to do about words with which hosts and agents refuse; empty: there
// is nothing to say beyond them. Hosts choose the words, and nothing of them is in
// what is advised.
func advice(said string) string {
	for _, a := range []struct{ sign, do string }{
		{"MANAGER_SCRATCH_MAX", adviseDisk},
		{"manifest/scratch_bytes ", adviseDisk},
		{"MANAGER_EGRESS", adviseOut},
		{"/source", adviseOut},
		{"MANAGER_QEMU_MEMORY_SIZE", adviseMemory},
		{"manifest/datasets and the algorithm have ", adviseMemory},
		{vm.RefusedRoom.Text(), adviseMemory},
		{vm.Refusal("scratch").Text(), adviseDisks},
	} {
		if a.sign != "" && strings.Contains(said, a.sign) {
			return a.do
		}
	}
	return ""
}

// refused says what to do about what hosts have said of a run that still waits.
func (t *steps) refused(r Reader, run *Run) error {
	if run.State != RunQueued {
		return nil
	}
	said, err := r.Entries(run.ID, EntryFilter{Types: []EntryType{EntryEvent}, Sources: []string{"service"}, Kind: EventRefused, Backward: true, Limit: 1})
	if err != nil || len(said) == 0 {
		return err
	}
	if do := advice(said[0].Message); do != "" {
		t.add(RunShow, "The run waits because a host refused it. "+do, "")
	}
	return nil
}
