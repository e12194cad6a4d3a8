// Command emptyinit is the reference of the boot benchmark: a first process that
// says on the console that it is up, and waits for the VM's end.
package main

import (
	"fmt"
	"os"
	"syscall"
)

// The text is what the benchmark waits for.
const text = "cocos-bench: init is up"

func main() {
	// The kernel has opened /dev/console as standard output.
	fmt.Fprintln(os.Stdout, text)
	for {
		syscall.Pause()
	}
}
