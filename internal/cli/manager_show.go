package cli

import (
	"context"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	controlv1 "github.com/ultravioletrs/cocos/api/control/v1"
	"github.com/ultravioletrs/cocos/internal/bytesize"
	"github.com/ultravioletrs/cocos/internal/vm"
)

func (a *app) managerStatusCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Show how the Manager and its host are",
		Args:  exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withHost(cmd, func(ctx context.Context, h *host) error {
				s, err := h.Status(ctx, &controlv1.StatusRequest{})
				if err != nil {
					return h.explain("asking for the status", err)
				}
				info := infoOfStatus(s)
				if err := a.out.result(info, "%s", info.text(a.out.now())); err != nil {
					return err
				}
				if info.Draining {
					a.out.hint("it takes no more runs until it is started again")
				}
				return nil
			})
		},
	}
}

func (a *app) managerListCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the runs of this Manager",
		Args:  exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withHost(cmd, func(ctx context.Context, h *host) error {
				list, err := h.List(ctx, &controlv1.ListRequest{})
				if err != nil {
					return h.explain("listing the runs", err)
				}
				runs := struct {
					Runs []runInfo `json:"runs"`
				}{[]runInfo{}}
				for _, r := range list.GetRuns() {
					runs.Runs = append(runs.Runs, infoOfRun(r))
				}
				if err := a.out.result(runs, "%s", table(runs.Runs, a.out.now())); err != nil {
					return err
				}
				if len(runs.Runs) == 0 {
					a.out.hint("there is no run")
				}
				return nil
			})
		},
	}
}

func (a *app) managerShowCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "show RUN",
		Short: "Show all that is known of a run, but for secrets",
		Long: `Show all that is known of a run, but for secrets: its VM, and the last events with
those that wait for the computations server.`,
		Args:              exactly("RUN"),
		ValidArgsFunction: a.completeRuns,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withHost(cmd, func(ctx context.Context, h *host) error {
				s, err := h.Show(ctx, &controlv1.ShowRequest{Run: args[0]})
				if err != nil {
					return h.explain("asking for the run", err)
				}
				info := infoOfShow(s)
				return a.out.result(info, "%s", info.text(a.out.now()))
			})
		},
	}
}

// rows are names with values, one line each.
type rows struct{ strings.Builder }

func (r *rows) add(name, format string, args ...any) {
	fmt.Fprintf(&r.Builder, "%-12s %s\n", name, clean(fmt.Sprintf(format, args...)))
}

func (r *rows) images(images []imageInfo) {
	for _, i := range images {
		what := fmt.Sprintf("%s %s", i.Role, i.Path)
		if i.Size > 0 {
			what += ", " + bytesize.Round(int64(i.Size))
		}
		if i.SHA256 != "" {
			what += ", sha256 " + i.SHA256
		}
		r.add("image", "%s", what)
	}
}

func (s *statusInfo) text(now time.Time) string {
	var r rows
	r.add("manager", "%s, version %s, process %d, up for %s", s.Instance, s.Version, s.PID, brief(time.Duration(s.Uptime*float64(time.Second))))
	if s.EOS != "" {
		r.add("image name", "%s", s.EOS)
	}
	if s.OVMF != "" {
		r.add("firmware name", "%s", s.OVMF)
	}
	server := s.Server.Address
	if s.Server.Connected {
		server += ", connected"
	} else {
		server += ", not connected"
	}
	if s.Server.Since != nil {
		server += " for " + brief(max(0, now.Sub(*s.Server.Since)))
	}
	if !s.Server.Connected && s.Server.LastError != "" {
		server += ": " + s.Server.LastError
	}
	r.add("server", "%s", server)
	qemu := s.QEMU.Path
	if s.QEMU.Version != "" {
		qemu += ", version " + s.QEMU.Version
	}
	r.add("qemu", "%s, accelerator %s", qemu, s.QEMU.Accelerator)
	r.add("tee", "%s", teeText(s.TEE))
	r.images(s.Images)
	for _, l := range s.Limits {
		r.add(l.Name, "%s", l.text())
	}
	r.add("state", "%s, %s free of %s", s.StateDir, bytesize.Round(int64(s.DiskFree)), bytesize.Round(int64(s.DiskSize)))
	if s.Draining {
		r.add("draining", "no run is accepted")
	}
	return r.String()
}

// teeText says what a TEE is worth, for operators.
func teeText(kind string) string {
	switch vm.TEEKind(kind) {
	case "":
		return "none: VMs are plain, and nothing vouches for them"
	case vm.Simulated:
		return "SIMULATED: it protects nothing from this host"
	case vm.SEV, vm.SEVES, vm.SGX:
		return kind + ": it vouches for no VM; they count as plain"
	}
	return kind
}

func (l limitInfo) text() string {
	show := func(n uint64) string {
		switch l.Unit {
		case "bytes":
			return bytesize.Round(int64(n))
		case "seconds":
			return brief(time.Duration(n) * time.Second)
		}
		return fmt.Sprint(n)
	}
	bound := "no limit"
	switch {
	case l.Limit == 0:
	case l.Name == "free disk":
		bound = "at least " + show(l.Limit)
	default:
		bound = "at most " + show(l.Limit)
	}
	if l.Name == "life" {
		return fmt.Sprintf("%s (%s)", bound, l.Variable)
	}
	return fmt.Sprintf("%s, %s (%s)", show(l.Used), bound, l.Variable)
}

// stateText is a run's state with what is wrong.
func (r runInfo) stateText() string {
	if r.ShimProblem != "" {
		return r.State + " (no answer)"
	}
	return r.State
}

func (r runInfo) life() string {
	if r.LifeLeft == nil {
		return "-"
	}
	return brief(time.Duration(*r.LifeLeft * float64(time.Second)))
}

func (r runInfo) age(now time.Time) string {
	if r.Accepted == nil {
		return "-"
	}
	return brief(max(0, now.Sub(*r.Accepted)))
}

// table is the list for people.
func table(runs []runInfo, now time.Time) string {
	if len(runs) == 0 {
		return ""
	}
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "RUN\tSTATE\tAGE\tAGENT\tVCPUS\tMEMORY\tQEMU\tUNSENT\tTIME LEFT\tCOMPUTATION")
	for _, r := range runs {
		pid := "-"
		if r.QEMUPID > 0 {
			pid = fmt.Sprint(r.QEMUPID)
		}
		cells := []string{r.Run, r.stateText(), r.age(now), r.Agent, fmt.Sprint(r.VCPUs), bytesize.Round(int64(r.Memory)), pid, fmt.Sprint(r.Unacknowledged), r.life(), r.Name}
		for i := range cells {
			cells[i] = clean(cells[i])
		}
		fmt.Fprintln(w, strings.Join(cells, "\t"))
	}
	w.Flush() //nolint:errcheck // into memory
	return b.String()
}

func (s *showInfo) text(now time.Time) string {
	var r rows
	r.add("run", "%s", s.Run.Run)
	r.add("state", "%s, for %s since it was accepted", s.Run.State, s.Run.age(now))
	if s.Run.ShimProblem != "" {
		r.add("shim", "does not answer: %s", s.Run.ShimProblem)
	}
	r.add("computation", "%s (%s)", s.Run.Name, s.Run.Computation)
	r.add("manifest", "%s", s.Run.Manifest)
	r.add("agent", "%s", s.Run.Agent)
	if s.Run.QEMUPID > 0 {
		r.add("qemu", "process %d", s.Run.QEMUPID)
	}
	if s.Run.LifeLeft != nil {
		r.add("time left", "%s", s.Run.life())
	}
	r.add("unsent", "%d events wait for the computations server", s.Run.Unacknowledged)
	r.add("folder", "%s, %s", s.Folder, bytesize.Round(int64(s.FolderSize)))
	if m := s.Machine; m != nil {
		m.rows(&r)
	}
	for _, e := range s.Events {
		name := "event"
		if e.Waiting {
			name = "event waits"
		}
		r.add(name, "%s", e.text())
	}
	return r.String()
}

func (m *machineInfo) rows(r *rows) {
	sudo := ""
	if m.Sudo {
		sudo = ", through sudo"
	}
	r.add("machine", "%s, cpu %s, %d of at most %d vCPUs, %s of memory, accelerator %s", m.Type, m.CPU, m.VCPUs, m.MaxVCPUs, bytesize.Round(int64(m.Memory)), m.Accelerator)
	r.add("program", "%s%s", m.QEMU, sudo)
	r.add("tee", "%s", teeText(m.TEE))
	if m.LaunchField != "" {
		r.add("launch field", "%s", m.LaunchField)
	}
	r.images(m.Images)
	if m.Scratch > 0 {
		r.add("scratch disk", "%s", bytesize.Round(int64(m.Scratch)))
	}
	if m.CommandLine != "" {
		r.add("command line", "%s", m.CommandLine)
	}
	r.add("network", "%s to port %d of the guest, %s", m.Forward, m.AgentPort, m.Address)
	vsock := m.Vsock
	if m.Vsock == "kernel" {
		vsock = fmt.Sprintf("kernel, guest CID %d", m.GuestCID)
	}
	r.add("vsock", "%s", vsock)
	tls := "the agent's own key"
	if m.ServerCert != "" {
		tls = "the creator's certificate, sha256 " + m.ServerCert
	}
	if m.MutualTLS {
		tls += "; clients show one, too"
	}
	r.add("tls", "%s", tls)
	if m.Trace != "" {
		r.add("trace", "%s", m.Trace)
	}
}
