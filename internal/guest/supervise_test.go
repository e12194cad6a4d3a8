package guest

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// roleVar makes the test's binary play a part: a first process that reaps, or
// the agent under it.
const roleVar = "COCOS_TEST_ROLE"

func TestMain(m *testing.M) {
	role, arg, _ := strings.Cut(os.Getenv(roleVar), ":")
	switch role {
	case "reaper":
		// What the kernel does for process 1: orphans become its children.
		if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		pid, err := start("agent:" + arg)
		if err == nil {
			err = reap(pid)
		}
		fmt.Println(err)
	case "agent":
		// An orphan that ends at once, and one that outlives.
		for _, role := range []string{"exit:9", "sleep:"} {
			if _, err := start("parent:" + role); err != nil {
				fmt.Println(err)
			}
		}
		if arg == "killed" {
			_ = unix.Kill(os.Getpid(), unix.SIGKILL)
		}
		os.Exit(len(arg))
	case "parent":
		if _, err := start(arg); err != nil {
			fmt.Println(err)
		}
	case "exit":
		os.Exit(9)
	case "sleep":
		time.Sleep(time.Second) // ends by itself when the test is over
	default:
		os.Exit(m.Run())
	}
}

func start(role string) (int, error) {
	return syscall.ForkExec("/proc/self/exe", []string{"test"}, &syscall.ProcAttr{
		Env: []string{roleVar + "=" + role}, Files: []uintptr{0, 1, 2},
	})
}

func TestReap(t *testing.T) {
	for arg, want := range map[string]string{
		"":       "<nil>\n",
		"123":    "the agent ended with status 3\n",
		"killed": "the agent was killed: killed\n",
	} {
		t.Run(want, func(t *testing.T) {
			cmd := exec.Command("/proc/self/exe")
			cmd.Env = []string{roleVar + "=reaper:" + arg}
			out, err := cmd.Output()
			if err != nil || string(out) != want {
				t.Errorf("reap says %q, %v; want %q", out, err, want)
			}
		})
	}
}

func TestWithinGoesOn(t *testing.T) {
	block := make(chan struct{})
	defer close(block)
	within(time.Millisecond, func() { <-block })
	ran := false
	within(time.Minute, func() { ran = true })
	if !ran {
		t.Error("within did not wait")
	}
}
