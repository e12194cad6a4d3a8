package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/ultravioletrs/cocos/attest"
)

// demo is one run of it: what was started, and what was learnt on the way.
type demo struct {
	ctx     context.Context
	dir     string
	example example
	stages  int
	started []*process

	url, grpc, fingerprint  string // of the service
	link                    string // its first administrator's
	passwords               map[string]string
	service, manager, watch *process
	vms                     bool // there may be some
	run, agent              string
	seen                    int // lines of the watch that were looked at
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

// freeAddress is one of loopback that nobody has. Should another process take it
// before the service does, the service says so.
func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

var (
	linkLine        = regexp.MustCompile(`(?m)^ *(http://\S+/link/cl_\S+)$`)
	fingerprintLine = regexp.MustCompile(`(?m) (sha256:[0-9a-f]{64})$`)
)

func (d *demo) serve() error {
	web, err := freeAddress()
	if err != nil {
		return err
	}
	if d.grpc, err = freeAddress(); err != nil {
		return err
	}
	d.url = "http://" + web
	d.service, err = d.start("service", 30*time.Second, []string{
		"COMPUTATIONS_DATA_DIR=" + d.path("service"),
		"COMPUTATIONS_HTTP_ADDR=" + web,
		"COMPUTATIONS_GRPC_ADDR=" + d.grpc,
		"COMPUTATIONS_METRICS_ADDR=none",
	}, service)
	if err != nil {
		return err
	}
	if err := d.until(d.service, time.Minute, "the service to listen", func() (bool, error) {
		b, err := os.ReadFile(d.service.out)
		if err != nil {
			return false, err
		}
		link, print := linkLine.FindSubmatch(b), fingerprintLine.FindSubmatch(b)
		if link == nil || print == nil {
			return false, nil
		}
		d.link, d.fingerprint = string(link[1]), string(print[1])
		for line := range strings.Lines(strings.TrimSpace(string(b))) {
			fmt.Println(strings.TrimRight("      "+line, " \n"))
		}
		return true, nil
	}); err != nil {
		return err
	}
	return d.login("alice", d.link, "--email", email("alice"))
}

// host enrols this machine and starts its Manager, which is looked for again when
// the computation is run.
func (d *demo) host() error {
	token, err := d.ask("alice", "hosts", "enroll-token", "this-machine")
	if err != nil {
		return err
	}
	state := "MANAGER_STATE_DIR=" + d.path("state")
	if err := d.do([]string{state}, manager, "enroll", "--service", d.grpc, "--token", token, "--fingerprint", d.fingerprint); err != nil {
		return err
	}
	d.manager, err = d.start("manager", 30*time.Second, []string{
		state,
		"MANAGER_HTTP_ADDR=none",
		"MANAGER_QEMU_HOST_FWD_ADDR=127.0.0.1",
		"MANAGER_QEMU_HOST_FWD_RANGE=6100-6200",
		"MANAGER_QEMU_ENABLE_SIM=true",
		"MANAGER_QEMU_SMP_COUNT=1",
	}, manager)
	return err
}

func (d *demo) describe() error {
	create := []string{"computations", "create", d.example.name, "--tee", "sim", "--algorithm", email("alice"), "--consumer", email("alice")}
	for _, who := range d.providers() {
		for _, f := range d.brings(who) {
			create = append(create, "--dataset", filepath.Base(f))
		}
	}
	for _, a := range d.example.args {
		create = append(create, "--arg", a)
	}
	return d.each("alice", []string{"workspaces", "create", "Research"},
		[]string{"keys", "--out", d.path("alice")},
		[]string{"keys", "register", d.key("alice")},
		[]string{"assets", "add", d.example.algorithm, "--kind", "algorithm"},
		create,
		[]string{"computations", "supply", d.example.name, "--algorithm", filepath.Base(d.example.algorithm)})
}

func (d *demo) invite() error {
	for _, who := range d.providers() {
		link, err := d.ask("alice", "invitations", "create", email(who), "--computation", d.example.name, "--part", "dataset-provider")
		if err != nil {
			return err
		}
		if err := d.login(who, link); err != nil {
			return err
		}
		commands := [][]string{{"keys", "--out", d.path(who)}, {"keys", "register", d.key(who)}}
		supply := []string{"computations", "supply", d.example.name}
		for _, f := range d.brings(who) {
			commands = append(commands, []string{"assets", "add", f, "--kind", "dataset"})
			supply = append(supply, "--dataset", filepath.Base(f)+"="+filepath.Base(f))
		}
		if err := d.each(who, append(commands, supply)...); err != nil {
			return err
		}
	}
	return nil
}

func (d *demo) manifest(who string) string { return d.path(who + ".manifest.json") }

func (d *demo) approve() error {
	digest, err := d.ask("alice", "computations", "freeze", d.example.name)
	if err != nil {
		return err
	}
	for _, who := range d.people() {
		var commands [][]string
		for _, other := range d.people() {
			if other != who {
				commands = append(commands, []string{"contacts", "add", other, "--key", d.path(other + ".pub.pem")})
			}
		}
		approve := []string{"computations", "approve", d.example.name, "--key", d.key(who), "--digest", digest, "--out", d.manifest(who)}
		if err := d.each(who, append(commands, approve)...); err != nil {
			return err
		}
	}
	return nil
}

func (d *demo) boot() error {
	if err := d.until(d.manager, time.Minute, "the Manager to connect", func() (bool, error) {
		var fleet struct {
			Hosts []struct {
				Connected bool `json:"connected"`
			} `json:"hosts"`
		}
		err := d.query(d.ctx, "alice", &fleet, "hosts", "list")
		return len(fleet.Hosts) == 1 && fleet.Hosts[0].Connected, err
	}); err != nil {
		return err
	}
	if err := d.as("alice", "computations", "dry-run", d.example.name); err != nil {
		return err
	}
	var err error
	d.vms = true
	if d.run, err = d.ask("alice", "computations", "run", d.example.name); err != nil {
		return err
	}
	d.watch, err = d.start("watch", 10*time.Second, d.home("alice"), cli, "computations", "watch", d.run, "--json")
	if err != nil {
		return err
	}
	ready := false
	return d.follow(10*time.Minute, "the Agent to be ready", func(e entry) (bool, error) {
		if e.AgentAddress != "" {
			d.agent = e.AgentAddress
		}
		ready = ready || e.Kind == "agent.ready"
		return d.agent != "" && ready, nil
	})
}

// policy is made after the first VM of this host has made the host's root.
func (d *demo) policy() error {
	for _, who := range d.people() {
		err := d.into(who, d.path(who+".policy.json"), "policy", "init", "--tee", "sim",
			"--image", "cmd/manager/img", "--vcpus", "1", "--manifest", d.manifest(who),
			"--sim-root", d.path("state", "sim", "root.pem"), "--accept-simulation", attest.SimConsent)
		if err != nil {
			return err
		}
	}
	return nil
}

// call is one of the people's calls of the agent.
func (d *demo) call(who string, args ...string) error {
	return d.as(who, append(args, "--agent", d.agent, "--policy", d.path(who+".policy.json"),
		"--key", d.key(who), "--manifest", d.manifest(who))...)
}

func (d *demo) upload() error {
	if err := d.call("alice", "algo", d.example.algorithm); err != nil {
		return err
	}
	for _, who := range d.providers() {
		for _, f := range d.brings(who) {
			if err := d.call(who, "data", f); err != nil {
				return err
			}
		}
	}
	return nil
}

func (d *demo) wait() error {
	return d.follow(10*time.Minute, "the result", func(e entry) (bool, error) {
		if e.Kind == "agent.state" && e.Attributes["to"] == "Failed" {
			return false, fmt.Errorf("the computation failed: %s", e.Message)
		}
		return e.Kind == "agent.state" && e.Attributes["to"] == "ResultReady", nil
	})
}

func (d *demo) result() error {
	if err := d.call("alice", "result", "--out", d.path("result")); err != nil {
		return err
	}
	receipt := d.path("result.receipt.json")
	return d.each("alice", []string{"receipt", "verify", receipt, "--policy", d.path("alice.policy.json"),
		"--manifest", d.manifest("alice"), "--result", d.path("result")},
		[]string{"computations", "receipt", "submit", d.example.name, receipt})
}

// endRun spares the VM's host the time for which it would keep a result.
func (d *demo) endRun() error {
	if err := d.as("alice", "computations", "stop", d.example.name, "--yes"); err != nil {
		return err
	}
	return d.follow(time.Minute, "the end of the run", func(e entry) (bool, error) {
		if e.Type == "run" && e.State == "finished" {
			d.vms = false
			return true, nil
		}
		return false, nil
	})
}

// stopVMs ends those that run, and returns when nothing of them is left. A
// Manager that serves no control socket yet has none.
func (d *demo) stopVMs() error {
	socket := d.path("state", "control.sock")
	if _, err := os.Stat(socket); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(d.ctx), time.Minute)
	defer cancel()
	if out, err := silent(ctx, nil, cli, "manager", "stop", "--all", "--drain", "--wait", "--yes", "--grace", "5s", "--socket", socket).CombinedOutput(); err != nil {
		return fmt.Errorf("ending the VMs: %w\n%s", err, out)
	}
	return nil
}

// keep says how to go on, and waits for Ctrl-C.
func (d *demo) keep() error {
	fmt.Printf(`
The console is at %s
Sign in there as

`, d.url)
	for _, who := range d.people() {
		fmt.Printf("    %-20s password %s\n", email(who), d.passwords[who])
	}
	fmt.Printf(`
or use cocos-cli as one of them, such as

    COCOS_HOME=%s %s computations show %s

The Manager runs on, too. Ctrl-C stops and removes everything.
`, d.path("alice"), cli, d.example.name)
	ended := d.service
	select {
	case <-d.ctx.Done():
		return nil
	case <-d.service.done:
	case <-d.manager.done:
		ended = d.manager
	}
	return fmt.Errorf("the %s ended by itself: %v; the end of its log:\n%s", ended.name, ended.err, tail(ended.log))
}
