package hostcheck

// cpuidAsm executes CPUID.
func cpuidAsm(function, subfunction uint32) (eax, ebx, ecx, edx uint32)

// runCPUID asks the CPU that runs this.
func runCPUID(function, subfunction uint32) leaf {
	var l leaf
	l.eax, l.ebx, l.ecx, l.edx = cpuidAsm(function, subfunction)
	return l
}
