package session

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"regexp"

	"google.golang.org/protobuf/reflect/protoreflect"

	guestv1 "github.com/ultravioletrs/cocos/api/guest/v1"
	"github.com/ultravioletrs/cocos/internal/vm"
	"github.com/ultravioletrs/cocos/keys"
	"github.com/ultravioletrs/cocos/manifest"
)

// Bounds of a Launch.
const (
	maxApprovals = 256
	maxPEM       = 256 << 10
	maxSignature = 2 << 10
)

// Launch is what the host wants this VM to compute. Its form was checked and
// the manifest is valid; the approvals were not verified, and nothing was
// compared with a report of a TEE.
type Launch struct {
	RunID     string
	Manifest  manifest.Frozen
	Approvals []manifest.Approval
	Config    vm.AgentConfig
}

// Private tells whether participants appraise the VM: then the host, which may
// not know what happens in it, gets enumerated words and no log lines.
func (l Launch) Private() bool { return l.Manifest.TEE != manifest.TEENone }

var uuidPattern = regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$`)

// parseLaunch takes every field as a hostile host's.
func parseLaunch(m *guestv1.Launch) (l Launch, err error) {
	for name, part := range map[string]unknown{
		"launch": {m}, "launch.config": {m.GetConfig()}, "launch.network": {m.GetNetwork()},
	} {
		if part.hasUnknown() {
			return Launch{}, unknownFields(name)
		}
	}
	if !uuidPattern.MatchString(m.GetRunId()) {
		return Launch{}, errors.New("launch.run_id is not a lower-case UUID")
	}
	l.RunID = m.GetRunId()
	if l.Manifest, err = manifest.Parse(m.GetManifest()); err != nil {
		return Launch{}, fmt.Errorf("launch.manifest: %w", err)
	}
	if n := len(m.GetApprovals()); n > maxApprovals {
		return Launch{}, fmt.Errorf("launch.approvals has %d entries; at most %d are allowed", n, maxApprovals)
	}
	for i, a := range m.GetApprovals() {
		if (unknown{a}).hasUnknown() {
			return Launch{}, unknownFields(fmt.Sprintf("launch.approvals[%d]", i))
		}
		key, err := keys.ParsePublic(a.GetPublicKey())
		if err != nil {
			return Launch{}, fmt.Errorf("launch.approvals[%d].public_key: %w", i, err)
		}
		if n := len(a.GetSignature()); n == 0 || n > maxSignature {
			return Launch{}, fmt.Errorf("launch.approvals[%d].signature has %d bytes; expected 1 to %d", i, n, maxSignature)
		}
		l.Approvals = append(l.Approvals, manifest.Approval{PublicKey: key, Signature: a.GetSignature()})
	}
	l.Config, err = parseConfig(m.GetConfig(), m.GetNetwork())
	return l, err
}

// unknown tells whether a message came with fields of another version.
type unknown struct{ m protoreflect.ProtoMessage }

func (u unknown) hasUnknown() bool { return len(u.m.ProtoReflect().GetUnknown()) > 0 }

func unknownFields(name string) error {
	return fmt.Errorf("%s has fields that this agent does not know; use a Manager of the image's version", name)
}

func parseConfig(c *guestv1.AgentConfig, n *guestv1.Network) (out vm.AgentConfig, err error) {
	if c.GetPort() == 0 || c.GetPort() > 65535 {
		return out, fmt.Errorf("launch.config.port is %d; expected 1 to 65535", c.GetPort())
	}
	if _, err := ParseLevel(c.GetLogLevel()); err != nil {
		return out, fmt.Errorf("launch.config.log_level: %w", err)
	}
	for name, pem := range map[string][]byte{
		"server_cert": c.GetServerCert(), "server_key": c.GetServerKey(), "client_ca_certs": c.GetClientCaCerts(),
	} {
		if len(pem) > maxPEM {
			return out, fmt.Errorf("launch.config.%s has %d bytes; at most %d are allowed", name, len(pem), maxPEM)
		}
	}
	if (len(c.GetServerCert()) == 0) != (len(c.GetServerKey()) == 0) {
		return out, errors.New("launch.config has one of server_cert and server_key; give both or none")
	}
	out = vm.AgentConfig{
		Port:          uint16(c.GetPort()),
		LogLevel:      c.GetLogLevel(),
		ServerCert:    c.GetServerCert(),
		ServerKey:     c.GetServerKey(),
		ClientCACerts: c.GetClientCaCerts(),
	}
	// A guest may be without a network (then a process outside a VM serves on
	// the host's); half of one is a fault.
	if n.GetAddress() == "" && n.GetGateway() == "" {
		return out, nil
	}
	if out.Address, err = netip.ParsePrefix(n.GetAddress()); err != nil {
		return out, fmt.Errorf("launch.network.address: %w", err)
	}
	if out.Gateway, err = netip.ParseAddr(n.GetGateway()); err != nil {
		return out, fmt.Errorf("launch.network.gateway: %w", err)
	}
	if !out.Address.Contains(out.Gateway) {
		return out, fmt.Errorf("launch.network.gateway %s is not in %s", out.Gateway, out.Address.Masked())
	}
	return out, nil
}

// ParseLevel takes "debug", "info", "warn" or "error".
func ParseLevel(s string) (slog.Level, error) {
	switch s {
	case "debug":
		return slog.LevelDebug, nil
	case "info":
		return slog.LevelInfo, nil
	case "warn":
		return slog.LevelWarn, nil
	case "error":
		return slog.LevelError, nil
	}
	return 0, fmt.Errorf("is %q; expected debug, info, warn or error", s)
}
