package cli

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"

	computationsv1 "github.com/ultravioletrs/cocos/api/computations/v1"
	"github.com/ultravioletrs/cocos/internal/bytesize"
)

// fleetHost is a host as the service knows it.
type fleetHost struct {
	ID        string     `json:"id"`
	Name      string     `json:"name"`
	State     string     `json:"state"`
	Connected bool       `json:"connected"`
	Contact   *time.Time `json:"contact,omitempty"`
	Address   string     `json:"address,omitempty"`
	Version   string     `json:"version,omitempty"`
	TEEs      []string   `json:"tees"`
	// Active counts runs of the service there, Capacity its VMs at most; 0: no
	// bound is known.
	Active      int32        `json:"active"`
	Capacity    int32        `json:"capacity,omitempty"`
	VMs         int32        `json:"vms"`
	CPUs        int32        `json:"cpus,omitempty"`
	MemoryFree  int64        `json:"memory_free,omitempty"`
	MemoryTotal int64        `json:"memory_total,omitempty"`
	Load        float64      `json:"load"`
	Images      []fleetImage `json:"images"`
	Serial      string       `json:"certificate_serial,omitempty"`
	Expires     *time.Time   `json:"certificate_expires,omitempty"`
	Enrolled    *time.Time   `json:"enrolled,omitempty"`
	Revoked     *time.Time   `json:"revoked,omitempty"`
	// Findings and runs are shown for one host alone.
	Findings []hostFinding `json:"findings,omitempty"`
	Runs     []hostRun     `json:"runs,omitempty"`
}

type fleetImage struct {
	Digest       string            `json:"digest"`
	Measurements map[string]string `json:"measurements,omitempty"`
}

type hostFinding struct {
	Name    string `json:"name"`
	Verdict string `json:"verdict"`
	Found   string `json:"found"`
	Needed  string `json:"needed,omitempty"`
	Mend    string `json:"mend,omitempty"`
}

type hostRun struct {
	Run     string     `json:"run_id"`
	State   string     `json:"state"`
	Created *time.Time `json:"created"`
}

func infoOfHost(h *computationsv1.Host) fleetHost {
	r := h.GetReport()
	i := fleetHost{
		ID: h.GetId(), Name: h.GetName(), Connected: h.GetConnected(), Contact: moment(h.GetContact()), Address: h.GetAddress(),
		Version: r.GetVersion(), TEEs: append([]string{}, r.GetTees()...), Active: h.GetActive(), Capacity: r.GetCapacity(), VMs: r.GetRunning(),
		CPUs: r.GetCpus(), MemoryFree: r.GetMemoryFree(), MemoryTotal: r.GetMemoryTotal(), Load: r.GetLoad(), Images: []fleetImage{},
		Serial: h.GetSerial(), Expires: moment(h.GetCertificateExpires()), Enrolled: moment(h.GetEnrolled()), Revoked: moment(h.GetRevoked()),
	}
	for _, m := range r.GetImages() {
		i.Images = append(i.Images, fleetImage{m.GetDigest(), m.GetMeasurements()})
	}
	switch {
	case i.Revoked != nil:
		i.State = "revoked"
	case h.GetDraining():
		i.State = "draining"
	case h.GetCordoned():
		i.State = "cordoned"
	case i.Connected:
		i.State = "ready"
	default:
		i.State = "away"
	}
	return i
}

// room is how many runs there are, of how many that fit.
func (i fleetHost) room() string {
	if i.Capacity == 0 {
		return fmt.Sprint(i.VMs)
	}
	return fmt.Sprintf("%d of %d", i.VMs, i.Capacity)
}

func (i fleetHost) text() string {
	var r rows
	r.add("host", "%s (%s)", i.Name, i.ID)
	state := i.State
	if !i.Connected {
		state += ", not connected"
	}
	r.add("state", "%s, last heard of %s", state, when(i.Contact))
	r.add("manager", "version %s, from %s", i.Version, i.Address)
	r.add("tees", "%s", strings.Join(i.TEEs, ", "))
	r.add("vms", "%s; %d runs of this service", i.room(), i.Active)
	if i.MemoryTotal > 0 {
		r.add("memory", "%s free of %s", bytesize.Round(i.MemoryFree), bytesize.Round(i.MemoryTotal))
	}
	if i.CPUs > 0 {
		r.add("load", "%.2f on %d CPUs", i.Load, i.CPUs)
	}
	for _, m := range i.Images {
		r.add("image", "%s", m.Digest)
	}
	r.add("certificate", "serial %s, until %s", i.Serial, when(i.Expires))
	for _, f := range i.Findings {
		text := f.Verdict + ": " + f.Name + ": " + f.Found
		if f.Mend != "" {
			text += "; " + f.Mend
		}
		r.add("finding", "%s", text)
	}
	for _, run := range i.Runs {
		r.add("run", "%s %s, since %s", run.Run, run.State, when(run.Created))
	}
	return r.String()
}

func (a *app) hostsCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "hosts",
		Short: "Look after the hosts of a service, as its operator",
	}
	group(cmd, a.hostsListCmd(), a.hostsShowCmd(), a.hostsEnrollTokenCmd(), a.hostsTokensCmd(), a.hostsWithdrawTokenCmd(),
		a.hostsSwitchCmd("cordon HOST", "Keep new runs away from a host, or with --undo no longer", func(ctx context.Context, s *service, id string, on bool) error {
			_, err := s.hosts.CordonHost(ctx, &computationsv1.CordonHostRequest{HostId: id, Cordoned: on})
			return err
		}),
		a.hostsSwitchCmd("drain HOST", "Keep new runs away from a host until its own have ended, or with --undo no longer", func(ctx context.Context, s *service, id string, on bool) error {
			_, err := s.hosts.DrainHost(ctx, &computationsv1.DrainHostRequest{HostId: id, Draining: on})
			return err
		}),
		a.hostsRevokeCmd())
	return cmd
}

func (s *service) allHosts(ctx context.Context) ([]fleetHost, error) {
	r, err := s.hosts.ListHosts(ctx, &computationsv1.ListHostsRequest{})
	if err != nil {
		return nil, s.explain("listing the hosts", err)
	}
	return each(r.GetHosts(), infoOfHost), nil
}

// fleetHost finds one by its id or name. A revoked one is found by its id alone:
// another may have its name now.
func (s *service) fleetHost(ctx context.Context, named string) (fleetHost, error) {
	all, err := s.allHosts(ctx)
	if err != nil {
		return fleetHost{}, err
	}
	for _, h := range all {
		if h.ID == named {
			return h, nil
		}
	}
	return only(all, named, "host", "cocos-cli hosts list", func(h fleetHost) string {
		if h.Revoked != nil {
			return ""
		}
		return h.Name
	})
}

func (a *app) hostsListCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the hosts",
		Args:  exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withService(cmd, func(ctx context.Context, s *service) error {
				all, err := s.allHosts(ctx)
				if err != nil {
					return err
				}
				return listed(a, "hosts", all, []string{"NAME", "STATE", "TEES", "VMS", "LOAD", "VERSION", "LAST CONTACT", "ID"}, func(h fleetHost) []string {
					return []string{h.Name, h.State, strings.Join(h.TEEs, " "), h.room(), fmt.Sprintf("%.2f", h.Load), h.Version, when(h.Contact), h.ID}
				}, "none has joined yet: cocos-cli hosts enroll-token NAME")
			})
		},
	}
}

func (a *app) hostsShowCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "show HOST",
		Short: "Show a host, by its name or id, with its runs",
		Args:  exactly("HOST"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withService(cmd, func(ctx context.Context, s *service) error {
				h, err := s.fleetHost(ctx, args[0])
				if err != nil {
					return err
				}
				r, err := s.hosts.GetHost(ctx, &computationsv1.GetHostRequest{HostId: h.ID})
				if err != nil {
					return s.explain("asking for the host", err)
				}
				info := infoOfHost(r.GetHost())
				for _, f := range r.GetHost().GetReport().GetFindings() {
					info.Findings = append(info.Findings, hostFinding{f.GetName(), f.GetVerdict(), f.GetFound(), f.GetNeeded(), f.GetMend()})
				}
				for _, run := range r.GetRuns() {
					info.Runs = append(info.Runs, hostRun{run.GetRunId(), run.GetState(), moment(run.GetCreated())})
				}
				return a.out.result(info, "%s", info.text())
			})
		},
	}
}

func (a *app) hostsEnrollTokenCmd() *cobra.Command {
	var ttl time.Duration
	cmd := &cobra.Command{
		Use:   "enroll-token NAME",
		Short: "Make a token that lets one host join, once, and print it",
		Example: `  cocos-cli hosts enroll-token rack-7
  # and on that host:
  sudo -u cocos cocos-manager enroll --service HOST:7001 --token - --fingerprint sha256:…`,
		Args: exactly("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withService(cmd, func(ctx context.Context, s *service) error {
				r, err := s.hosts.CreateEnrolToken(ctx, &computationsv1.CreateEnrolTokenRequest{Name: args[0], Ttl: durationpb.New(ttl)})
				if err != nil {
					return s.explain("making the token", err)
				}
				t := r.GetToken()
				expires := moment(t.GetExpires())
				if err := a.out.result(struct {
					ID      string     `json:"id"`
					Name    string     `json:"name"`
					Expires *time.Time `json:"expires"`
					Token   string     `json:"token"`
				}{t.GetId(), t.GetName(), expires, r.GetSecret()}, "%s\n", clean(r.GetSecret())); err != nil {
					return err
				}
				line := "sudo -u cocos cocos-manager enroll --service " + s.Address + " --token -"
				if s.Fingerprint != "" {
					line += " --fingerprint " + s.Fingerprint
				}
				a.out.hint("shown this once, and good until %s. On the host, which then reads it: %s", when(expires), line)
				return nil
			})
		},
	}
	cmd.Flags().DurationVar(&ttl, "ttl", time.Hour, "how long it is good, a `DURATION`")
	return cmd
}

// hostsSwitchCmd is for what can be turned on and off.
func (a *app) hostsSwitchCmd(use, short string, set func(context.Context, *service, string, bool) error) *cobra.Command {
	var undo bool
	verb, _, _ := strings.Cut(use, " ")
	cmd := &cobra.Command{
		Use:   use,
		Short: short,
		Args:  exactly("HOST"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withService(cmd, func(ctx context.Context, s *service) error {
				h, err := s.fleetHost(ctx, args[0])
				if err != nil {
					return err
				}
				if err := set(ctx, s, h.ID, !undo); err != nil {
					return s.explain("changing the host", err)
				}
				return a.out.result(map[string]any{"id": h.ID, "name": h.Name, verb: !undo}, "%s\n", clean(h.Name))
			})
		},
	}
	cmd.Flags().BoolVar(&undo, "undo", false, "take it back")
	return cmd
}

func (a *app) hostsRevokeCmd() *cobra.Command {
	var sure bool
	cmd := &cobra.Command{
		Use:   "revoke HOST",
		Short: "Accept a host's certificate no more, for good",
		Args:  exactly("HOST"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withService(cmd, func(ctx context.Context, s *service) error {
				h, err := s.fleetHost(ctx, args[0])
				if err != nil {
					return err
				}
				if !sure {
					if err := a.agree(ctx, "Revoke %s for good? It has %d runs.", h.Name, h.Active); err != nil {
						return err
					}
				}
				if _, err := s.hosts.RevokeHost(ctx, &computationsv1.RevokeHostRequest{HostId: h.ID}); err != nil {
					return s.explain("revoking the host", err)
				}
				return a.out.result(map[string]string{"id": h.ID, "name": h.Name}, "%s\n", clean(h.Name))
			})
		},
	}
	yesFlag(cmd, &sure)
	return cmd
}
