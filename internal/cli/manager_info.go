package cli

import (
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	controlv1 "github.com/ultravioletrs/cocos/api/control/v1"
)

// statusInfo is what manager status prints as JSON. Sizes are in bytes, times in seconds.
type statusInfo struct {
	Instance string      `json:"instance_id"`
	Version  string      `json:"version"`
	EOS      string      `json:"eos_version,omitempty"`
	OVMF     string      `json:"ovmf_version,omitempty"`
	Protocol uint32      `json:"protocol_version"`
	PID      uint32      `json:"pid"`
	Uptime   float64     `json:"uptime"`
	Draining bool        `json:"draining"`
	Server   serverInfo  `json:"server"`
	QEMU     qemuInfo    `json:"qemu"`
	TEE      string      `json:"tee,omitempty"`
	TEEs     []string    `json:"tees,omitempty"`
	Images   []imageInfo `json:"images"`
	Limits   []limitInfo `json:"limits"`
	StateDir string      `json:"state_dir"`
	DiskFree uint64      `json:"disk_free"`
	DiskSize uint64      `json:"disk_size"`
}

type serverInfo struct {
	Address   string     `json:"address"`
	Connected bool       `json:"connected"`
	Since     *time.Time `json:"since,omitempty"`
	LastError string     `json:"last_error,omitempty"`
}

type qemuInfo struct {
	Path        string `json:"path"`
	Version     string `json:"version,omitempty"`
	Accelerator string `json:"accelerator"`
}

type imageInfo struct {
	Role   string `json:"role"`
	Path   string `json:"path"`
	Size   uint64 `json:"size"`
	SHA256 string `json:"sha256,omitempty"`
}

type limitInfo struct {
	Name     string `json:"name"`
	Unit     string `json:"unit,omitempty"`
	Used     uint64 `json:"used"`
	Limit    uint64 `json:"limit"`
	Variable string `json:"variable"`
}

// runInfo is a run in the JSON of manager list and show.
type runInfo struct {
	Run            string     `json:"run_id"`
	State          string     `json:"state"`
	Over           bool       `json:"over"`
	Accepted       *time.Time `json:"accepted,omitempty"`
	Agent          string     `json:"agent_address"`
	VCPUs          uint32     `json:"vcpus"`
	Memory         uint64     `json:"memory"`
	QEMUPID        uint32     `json:"qemu_pid,omitempty"`
	ShimAnswers    bool       `json:"shim_answers"`
	ShimProblem    string     `json:"shim_problem,omitempty"`
	Unacknowledged uint64     `json:"unacknowledged"`
	LifeLeft       *float64   `json:"life_left,omitempty"`
	Manifest       string     `json:"manifest_digest"`
	Computation    string     `json:"computation_id,omitempty"`
	Name           string     `json:"computation_name,omitempty"`
}

// showInfo is what manager show prints as JSON.
type showInfo struct {
	Run        runInfo      `json:"run"`
	Folder     string       `json:"folder"`
	FolderSize uint64       `json:"folder_size"`
	Machine    *machineInfo `json:"machine,omitempty"`
	Events     []seenInfo   `json:"events"`
}

type machineInfo struct {
	Type        string      `json:"type"`
	CPU         string      `json:"cpu"`
	Accelerator string      `json:"accelerator"`
	VCPUs       uint32      `json:"vcpus"`
	MaxVCPUs    uint32      `json:"max_vcpus"`
	Memory      uint64      `json:"memory"`
	MaxMemory   uint64      `json:"max_memory,omitempty"`
	Scratch     uint64      `json:"scratch,omitempty"`
	QEMU        string      `json:"qemu"`
	Sudo        bool        `json:"sudo"`
	Images      []imageInfo `json:"images"`
	CommandLine string      `json:"command_line,omitempty"`
	Vsock       string      `json:"vsock"`
	GuestCID    uint32      `json:"guest_cid,omitempty"`
	Forward     string      `json:"forward"`
	AgentPort   uint32      `json:"agent_port"`
	Address     string      `json:"guest_address,omitempty"`
	Gateway     string      `json:"guest_gateway,omitempty"`
	LogLevel    string      `json:"agent_log_level"`
	ServerCert  string      `json:"server_cert_sha256,omitempty"`
	MutualTLS   bool        `json:"mutual_tls"`
	Approvals   uint32      `json:"approvals"`
	Trace       string      `json:"trace,omitempty"`
	TEE         string      `json:"tee,omitempty"`
	LaunchField string      `json:"launch_field,omitempty"`
	ReadyLimit  *float64    `json:"ready_limit,omitempty"`
	StopLimit   *float64    `json:"stop_limit,omitempty"`
	LifeLimit   *float64    `json:"life_limit,omitempty"`
}

type seenInfo struct {
	eventInfo
	Waiting bool `json:"waiting"`
}

func infoOfStatus(s *controlv1.StatusResponse) *statusInfo {
	info := &statusInfo{
		Instance: s.GetInstanceId(), Version: s.GetVersion(), EOS: s.GetEosVersion(), OVMF: s.GetOvmfVersion(), Protocol: s.GetProtocolVersion(), PID: s.GetPid(),
		Uptime: s.GetUptime().AsDuration().Seconds(), Draining: s.GetDraining(),
		Server: serverInfo{s.GetServer().GetAddress(), s.GetServer().GetConnected(), timeOf(s.GetServer().GetSince()), s.GetServer().GetLastError()},
		QEMU:   qemuInfo{s.GetQemu().GetPath(), s.GetQemu().GetVersion(), s.GetQemu().GetAccelerator()},
		TEE:    s.GetTee(), TEEs: s.GetTees(),
		Images: infoOfImages(s.GetImages()), Limits: []limitInfo{},
		StateDir: s.GetStateDir(), DiskFree: s.GetDiskFree(), DiskSize: s.GetDiskSize(),
	}
	for _, l := range s.GetLimits() {
		info.Limits = append(info.Limits, limitInfo{l.GetName(), l.GetUnit(), l.GetUsed(), l.GetLimit(), l.GetVariable()})
	}
	return info
}

func infoOfImages(in []*controlv1.Image) []imageInfo {
	out := []imageInfo{}
	for _, i := range in {
		out = append(out, imageInfo{i.GetRole(), i.GetPath(), i.GetSize(), i.GetSha256()})
	}
	return out
}

func infoOfRun(r *controlv1.Run) runInfo {
	return runInfo{
		Run: r.GetRunId(), State: r.GetState(), Over: r.GetOver(), Accepted: timeOf(r.GetAccepted()), Agent: r.GetAgentAddress(),
		VCPUs: r.GetVcpus(), Memory: r.GetMemory(), QEMUPID: r.GetQemuPid(), ShimAnswers: r.GetShimAnswers(), ShimProblem: r.GetShimProblem(),
		Unacknowledged: r.GetUnacknowledged(), LifeLeft: secondsOf(r.GetLifeLeft()), Manifest: r.GetManifestDigest(),
		Computation: r.GetComputationId(), Name: r.GetComputationName(),
	}
}

func infoOfShow(s *controlv1.ShowResponse) *showInfo {
	info := &showInfo{Run: infoOfRun(s.GetRun()), Folder: s.GetFolder(), FolderSize: s.GetFolderSize(), Events: []seenInfo{}}
	if m := s.GetMachine(); m != nil {
		info.Machine = &machineInfo{
			Type: m.GetType(), CPU: m.GetCpu(), Accelerator: m.GetAccelerator(), VCPUs: m.GetVcpus(), MaxVCPUs: m.GetMaxVcpus(),
			Memory: m.GetMemory(), Scratch: m.GetScratch(), MaxMemory: m.GetMaxMemory(), QEMU: m.GetQemu(), Sudo: m.GetSudo(), Images: infoOfImages(m.GetImages()),
			CommandLine: m.GetCommandLine(), Vsock: m.GetVsock(), GuestCID: m.GetGuestCid(), Forward: m.GetForward(), AgentPort: m.GetAgentPort(),
			Address: m.GetGuestAddress(), Gateway: m.GetGuestGateway(), LogLevel: m.GetAgentLogLevel(), ServerCert: m.GetServerCertSha256(),
			MutualTLS: m.GetMutualTls(), Approvals: m.GetApprovals(), Trace: m.GetTrace(), TEE: m.GetTee(), LaunchField: m.GetLaunchField(),
			ReadyLimit: secondsOf(m.GetReadyLimit()), StopLimit: secondsOf(m.GetStopLimit()), LifeLimit: secondsOf(m.GetLifeLimit()),
		}
	}
	for _, e := range s.GetEvents() {
		info.Events = append(info.Events, seenInfo{infoOfEvent(e.GetEvent()), e.GetWaiting()})
	}
	return info
}

func timeOf(t *timestamppb.Timestamp) *time.Time {
	if t == nil {
		return nil
	}
	out := t.AsTime()
	return &out
}

func secondsOf(d *durationpb.Duration) *float64 {
	if d == nil {
		return nil
	}
	out := d.AsDuration().Seconds()
	return &out
}
