// Command run is started by systemd in the VM of test/e2e/installed. It tells
// what happens on the second serial port and switches the machine off.
package main

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/ultravioletrs/cocos/test/e2e/installed/inside"
)

func main() {
	port, err := os.OpenFile("/dev/ttyS1", os.O_WRONLY|unix.O_NOCTTY, 0)
	if err != nil {
		fmt.Fprintln(os.Stderr, "opening the port to the host:", err)
	} else {
		inside.Run(port)
		_ = port.Close() // waits until all was sent
	}
	unix.Sync()
	fmt.Fprintln(os.Stderr, "powering off:", unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF))
}
