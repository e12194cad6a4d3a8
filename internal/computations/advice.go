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
	adviseProgram = "The program, and what an image unpacks to, stay in memory where inputs have a disk, too, and are too large for the host's VMs. " +
		"Ask the host's operator for larger ones (MANAGER_QEMU_MEMORY_SIZE). Or " + copyIt + ". Let the copy have a smaller program."
	adviseRoom = "What goes into the VM's memory does not fit there, or what goes onto its disk for inputs not there. Ask the host's operator for VMs with more memory (MANAGER_QEMU_MEMORY_SIZE). " +
		"Or " + copyIt + ". Let the copy keep its inputs on a disk if it has none, or else on a larger one."
	adviseDisks = "The VM did not have the disk for inputs that the manifest asks for. That is its host's doing: ask its operator why, or start another run, perhaps on another host."
)

// Advice is what to do about words with which hosts and agents refuse; empty: there
// is nothing to say beyond them. Hosts choose the words, and nothing of them is in
// what is advised. The signs are in the faults of package manager, which tests them.
func Advice(said string) string {
	for _, a := range []struct{ sign, do string }{
		{"MANAGER_SCRATCH_MAX", adviseDisk},
		{"MANAGER_EGRESS", adviseOut},
		{"manifest/datasets and the algorithm have ", adviseMemory},
		{"manifest/algorithm has ", adviseProgram},
		{vm.RefusedRoom.Text(), adviseRoom},
		{vm.RefusedScratch.Text(), adviseDisks},
	} {
		if strings.Contains(said, a.sign) {
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
	if do := Advice(said[0].Message); do != "" {
		t.add(RunShow, "The run waits because a host refused it. "+do, "")
	}
	return nil
}
