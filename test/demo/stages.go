package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/ultravioletrs/cocos/attest"
)

// demo is one run of it: what was started, and what was learnt on the way.
type demo struct {
	ctx     context.Context
	dir     string
	stages  int
	port    string // of the server
	started []*process
	agent   string // host:port
	ready   bool
	seen    int // lines of the journal that were looked at
}

var errInterrupted = errors.New("interrupted")

// process is a child that lives through several stages.
type process struct {
	name  string
	log   string // file
	cmd   *exec.Cmd
	done  chan struct{} // closed when it has ended
	err   error         // valid then
	grace time.Duration // what it may take to end by itself
}

func (d *demo) stage(title string, run func() error) error {
	d.stages++
	fmt.Printf("\n==> %d. %s\n", d.stages, title)
	began := time.Now()
	if err := run(); d.ctx.Err() != nil {
		return errInterrupted // what failed then failed because of it
	} else if err != nil {
		return err
	}
	fmt.Printf("    done in %s\n", time.Since(began).Round(100*time.Millisecond))
	return nil
}

// command prints a command as a user would type it and makes it.
func (d *demo) command(ctx context.Context, env []string, args ...string) *exec.Cmd {
	fmt.Printf("    $ %s\n", strings.Join(append(append([]string(nil), env...), args...), " "))
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Env = append(os.Environ(), env...)
	// A group of its own: Ctrl-C reaches the demo alone, which ends each child
	// and the child's children. `go run` cleans up after SIGINT only.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGINT) }
	cmd.WaitDelay = 10 * time.Second
	return cmd
}

// do runs a command to its end and shows its output.
func (d *demo) do(args ...string) error {
	cmd := d.command(d.ctx, nil, args...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w", strings.Join(args, " "), err)
	}
	return nil
}

// start runs a command until stopAll; its output goes to a file.
func (d *demo) start(name string, grace time.Duration, env []string, args ...string) (*process, error) {
	log, err := os.Create(d.path(name + ".log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	// Not bound to d.ctx: an interrupted demo stops it in good order too.
	cmd := d.command(context.WithoutCancel(d.ctx), env, args...)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting the %s: %w", name, err)
	}
	p := &process{name: name, log: log.Name(), cmd: cmd, done: make(chan struct{}), grace: grace}
	go func() {
		p.err = cmd.Wait()
		close(p.done)
	}()
	d.started = append(d.started, p)
	return p, nil
}

// stop asks p to end and insists after its grace period.
func (p *process) stop() error {
	select {
	case <-p.done:
		return nil
	default:
	}
	if err := syscall.Kill(p.cmd.Process.Pid, syscall.SIGTERM); err != nil {
		return fmt.Errorf("stopping the %s: %w", p.name, err)
	}
	select {
	case <-p.done:
		if p.err != nil {
			return fmt.Errorf("stopping the %s: %w; the end of its log:\n%s", p.name, p.err, tail(p.log))
		}
		return nil
	case <-time.After(p.grace):
		err := syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
		<-p.done
		return errors.Join(fmt.Errorf("the %s did not end within %s and was killed", p.name, p.grace), err)
	}
}

// stopAll stops what was started, the server first: it ends the VM through the
// Manager. It may be called again.
func (d *demo) stopAll() error {
	var errs []error
	for _, p := range d.started {
		errs = append(errs, p.stop())
	}
	d.started = nil
	return errors.Join(errs...)
}

func (d *demo) data() error {
	return d.do("go", "run", "./cmd/hal", "extract", irisFile, d.path("iris.csv"))
}

// people of the demo. Each has a folder that stands for a machine of their own.
var people = []string{"alice", "bob"}

// as runs cocos-cli for one of the people.
func (d *demo) as(who string, args ...string) *exec.Cmd {
	return d.command(d.ctx, []string{"COCOS_HOME=" + d.path(who)}, append([]string{cli}, args...)...)
}

// asDo is as, to its end; the standard output goes to a file where one is named.
func (d *demo) asDo(who, out string, args ...string) error {
	cmd := d.as(who, args...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if out != "" {
		fmt.Printf("        > %s\n", out)
		// Nobody reads half of it: it gets its name when it is whole.
		part, err := os.Create(out + ".part")
		if err != nil {
			return err
		}
		defer part.Close()
		cmd.Stdout = part
	}
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: cocos-cli %s: %w", who, strings.Join(args, " "), err)
	}
	if out != "" {
		return os.Rename(out+".part", out)
	}
	return nil
}

func (d *demo) keys() error {
	for _, who := range people {
		if err := d.asDo(who, "", "keys", "--out", d.path(who+"-key")); err != nil {
			return err
		}
	}
	for i, who := range people {
		other := people[1-i]
		if err := d.asDo(who, "", "contacts", "add", other, "--key", d.path(other+"-key.pub.pem")); err != nil {
			return err
		}
	}
	return nil
}

func (d *demo) approval(who string) string { return d.path(who + ".approval.json") }

func (d *demo) approve() error {
	for _, who := range people {
		if err := d.asDo(who, d.approval(who), "manifest", "approve", d.path("manifest.json"), "--key", d.path(who+"-key.pem")); err != nil {
			return err
		}
	}
	return nil
}

// policy is made after the first VM of this host has made the host's root.
func (d *demo) policy() error {
	for _, who := range people {
		err := d.asDo(who, d.path(who+".policy.json"), "policy", "init", "--tee", "sim",
			"--image", "cmd/manager/img", "--vcpus", "1", "--manifest", d.path("manifest.json"),
			"--sim-root", d.path("state", "sim", "root.pem"), "--accept-simulation", attest.SimConsent)
		if err != nil {
			return err
		}
	}
	return nil
}

func (d *demo) server() error {
	// The listener that finds a free port is closed before the server opens it;
	// should another process take it in between, the server says so.
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	_, d.port, err = net.SplitHostPort(l.Addr().String())
	if err := errors.Join(err, l.Close()); err != nil {
		return err
	}
	server := d.path("computations-server")
	if err := d.do("go", "build", "-o", server, "./test/computations"); err != nil {
		return err
	}
	p, err := d.start("server", 90*time.Second, []string{
		"HOST=127.0.0.1", "PORT=" + d.port,
		"CA_FILE=" + d.path("ca.pem"),
		"EVENTS_FILE=" + d.path("events.jsonl"),
		"MANIFEST_FILE=" + d.path("manifest.json"),
		"TEE=sim",
		"DATA_PUBLIC_KEY=" + d.path("bob-key.pub.pem"),
		"APPROVAL_FILES=" + d.approval("alice") + "," + d.approval("bob"),
	}, server, algorithm, d.path("alice-key.pub.pem"), "true", d.path("iris.csv"))
	if err != nil {
		return err
	}
	return d.until(p, time.Minute, "the server to listen", func() (bool, error) {
		c, err := net.DialTimeout("tcp", net.JoinHostPort("127.0.0.1", d.port), time.Second)
		if err != nil {
			return false, nil
		}
		return true, c.Close()
	})
}

func (d *demo) boot() error {
	state := d.path("state")
	p, err := d.start("manager", 30*time.Second, []string{
		"MANAGER_GRPC_URL=127.0.0.1:" + d.port,
		"MANAGER_GRPC_SERVER_CA_CERTS=" + d.path("ca.pem"),
		"MANAGER_STATE_DIR=" + state,
		"MANAGER_HTTP_ADDR=none",
		"MANAGER_QEMU_HOST_FWD_ADDR=127.0.0.1",
		"MANAGER_QEMU_HOST_FWD_RANGE=6100-6200",
		"MANAGER_QEMU_ENABLE_SIM=true",
		"MANAGER_QEMU_SMP_COUNT=1",
	}, manager)
	if err != nil {
		return err
	}
	return d.follow(p, 10*time.Minute, "the Agent to be ready", func(e entry) (bool, error) {
		if e.Type == "run_reply" {
			d.agent = e.AgentAddress
		}
		d.ready = d.ready || e.Kind == "agent.ready"
		return d.agent != "" && d.ready, nil
	})
}

// call is one of the people's calls of the agent.
func (d *demo) call(who string, args ...string) error {
	return d.asDo(who, "", append(args, "--agent", d.agent, "--policy", d.path(who+".policy.json"),
		"--key", d.path(who+"-key.pem"), "--manifest", d.path("manifest.json"))...)
}

func (d *demo) upload() error {
	if err := d.call("alice", "algo", algorithm); err != nil {
		return err
	}
	return d.call("bob", "data", d.path("iris.csv"))
}

func (d *demo) wait() error {
	return d.follow(d.started[0], 10*time.Minute, "the result", func(e entry) (bool, error) {
		if e.Kind == "agent.state" && e.Attributes["to"] == "Failed" {
			return false, fmt.Errorf("the computation failed: %s", e.Message)
		}
		return e.Kind == "agent.state" && e.Attributes["to"] == "ResultReady", nil
	})
}

func (d *demo) result() error {
	return d.call("alice", "result", "--out", d.path("result"))
}

// entry is a line of the server's journal.
type entry struct {
	Type         string            `json:"type"`
	Kind         string            `json:"kind"`
	Message      string            `json:"message"`
	Attributes   map[string]string `json:"attributes"`
	AgentAddress string            `json:"agent_address"`
}

// follow reads the server's journal from where it stopped, prints the events,
// and returns when done says so.
func (d *demo) follow(p *process, limit time.Duration, what string, done func(entry) (bool, error)) error {
	return d.until(p, limit, what, func() (bool, error) {
		f, err := os.Open(d.path("events.jsonl"))
		if errors.Is(err, os.ErrNotExist) {
			return false, nil
		} else if err != nil {
			return false, err
		}
		defer f.Close()
		r := bufio.NewReader(f)
		for n := 0; ; n++ {
			line, err := r.ReadString('\n')
			if err == io.EOF {
				return false, nil // a line without its end is not written whole yet
			} else if err != nil {
				return false, err
			}
			if n < d.seen {
				continue
			}
			d.seen++
			var e entry
			if err := json.Unmarshal([]byte(line), &e); err != nil {
				return false, fmt.Errorf("reading the server's journal: %w", err)
			}
			if e.Type == "event" {
				fmt.Printf("    %-16s %s\n", e.Kind, e.Message)
			}
			if ok, err := done(e); ok || err != nil {
				return ok, err
			}
			if e.Kind == "vm.exited" || e.Kind == "vm.lost" {
				return false, fmt.Errorf("the VM ended while the demo waited for %s; the last lines of its console:\n%s", what, e.Attributes["console"])
			}
		}
	})
}

// until asks again and again, as long as p lives.
func (d *demo) until(p *process, limit time.Duration, what string, done func() (bool, error)) error {
	deadline := time.NewTimer(limit)
	defer deadline.Stop()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		if ok, err := done(); ok || err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-p.done:
			return fmt.Errorf("the %s ended while the demo waited for %s: %v; the end of its log:\n%s", p.name, what, p.err, tail(p.log))
		case <-deadline.C:
			return fmt.Errorf("waited %s for %s; see the logs", limit, what)
		case <-d.ctx.Done():
			return errInterrupted
		}
	}
}
