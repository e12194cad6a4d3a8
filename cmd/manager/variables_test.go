package main

import (
	"errors"
	"fmt"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/ultravioletrs/cocos/internal/manager"
	"github.com/ultravioletrs/cocos/internal/vm"
)

const docs = "../../docs/manager.md"

func TestDocumentationHasTheTable(t *testing.T) {
	b, err := os.ReadFile(docs)
	if err != nil {
		t.Fatal(err)
	}
	if want := table().Markdown(); !strings.Contains(string(b), want) {
		t.Errorf("%s does not have this table:\n\n%s", docs, want)
	}
}

// known are the names that operators have in their files: they stay, whatever
// else the table gains.
const known = `
MANAGER_LOG_LEVEL MANAGER_INSTANCE_ID MANAGER_GRPC_URL MANAGER_GRPC_TIMEOUT
MANAGER_GRPC_CLIENT_CERT MANAGER_GRPC_CLIENT_KEY MANAGER_GRPC_SERVER_CA_CERTS
COCOS_JAEGER_URL COCOS_JAEGER_TRACE_RATIO MANAGER_EOS_VERSION
MANAGER_QEMU_BIN_PATH MANAGER_QEMU_USE_SUDO MANAGER_QEMU_ENABLE_KVM
MANAGER_QEMU_MACHINE MANAGER_QEMU_CPU MANAGER_QEMU_SMP_COUNT MANAGER_QEMU_SMP_MAXCPUS
MANAGER_QEMU_MEM_ID MANAGER_QEMU_MEMORY_SIZE MANAGER_QEMU_MEMORY_SLOTS
MANAGER_QEMU_MAX_MEMORY MANAGER_QEMU_KERNEL_HASH
MANAGER_QEMU_OVMF_CODE_IF MANAGER_QEMU_OVMF_CODE_FORMAT MANAGER_QEMU_OVMF_CODE_UNIT
MANAGER_QEMU_OVMF_CODE_FILE MANAGER_QEMU_OVMF_CODE_READONLY MANAGER_QEMU_OVMF_VERSION
MANAGER_QEMU_OVMF_VARS_IF MANAGER_QEMU_OVMF_VARS_FORMAT MANAGER_QEMU_OVMF_VARS_UNIT
MANAGER_QEMU_OVMF_VARS_FILE MANAGER_QEMU_NETDEV_ID MANAGER_QEMU_HOST_FWD_AGENT
MANAGER_QEMU_GUEST_FWD_AGENT MANAGER_QEMU_HOST_FWD_RANGE
MANAGER_QEMU_VIRTIO_NET_PCI_DISABLE_LEGACY MANAGER_QEMU_VIRTIO_NET_PCI_IOMMU_PLATFORM
MANAGER_QEMU_VIRTIO_NET_PCI_ADDR MANAGER_QEMU_VIRTIO_NET_PCI_ROMFILE
MANAGER_QEMU_DISK_IMG_KERNEL_FILE MANAGER_QEMU_DISK_IMG_ROOTFS_FILE
MANAGER_QEMU_DISK_IMG_FILE MANAGER_QEMU_DISK_IMG_IF MANAGER_QEMU_DISK_IMG_ID
MANAGER_QEMU_DISK_IMG_FORMAT
MANAGER_QEMU_ENABLE_SEV MANAGER_QEMU_ENABLE_SEV_SNP MANAGER_QEMU_ENABLE_TDX
MANAGER_QEMU_ENABLE_SGX MANAGER_QEMU_SEV_ID MANAGER_QEMU_SEV_CBITPOS
MANAGER_QEMU_SEV_REDUCED_PHYS_BITS MANAGER_QEMU_HOST_DATA MANAGER_QEMU_VSOCK_ID
MANAGER_QEMU_VSOCK_GUEST_CID MANAGER_QEMU_NO_GRAPHIC MANAGER_QEMU_MONITOR`

func TestKnownNamesStay(t *testing.T) {
	if err := table().Faults(); err != nil {
		t.Error(err)
	}
	have := map[string]bool{}
	for _, v := range variables() {
		have[v.Name] = true
	}
	for _, name := range strings.Fields(known) {
		if !have[name] {
			t.Errorf("%s is not in the table", name)
		}
	}
}

func TestDefaults(t *testing.T) {
	s, err := parse([]string{"HOME=/root", "COCOS_CACHE=x"})
	if err != nil {
		t.Fatal(err)
	}
	if s.serverAddress != "localhost:7001" || s.serverTimeout != time.Minute || s.guestPort != 7002 || s.kvm != "auto" || s.vsock != "auto" ||
		s.forward.Preferred != 7020 || s.forward.First != 6100 || s.forward.Last != 6200 || s.forward.Addr.String() != "0.0.0.0" ||
		s.bootTimeout != 5*time.Minute || s.stopGrace != 30*time.Second || s.logLevel != "info" || s.logFormat != "text" ||
		s.httpAddr != "127.0.0.1:9101" || s.traceURL != "" || s.traceRatio != 1 || !s.autoMemory ||
		s.limits != (manager.Limits{MaxVMs: 10, MinFreeDisk: 512 << 20}) {
		t.Errorf("%+v", s)
	}
	// As the documentation shows them.
	want := vm.Machine{Type: "q35", CPU: "EPYC", VCPUs: 4, MaxVCPUs: 64, NoGraphic: true, Monitor: "pty",
		Memory: vm.Memory{MiB: 4096, Slots: 5, MaxMiB: 30 << 10, ID: "ram1"},
		Net:    vm.Net{ID: "vmnic", DisableLegacy: true, IOMMUPlatform: true},
		Vsock:  vm.Vsock{ID: "vhost-vsock-pci0", GuestCID: 3}}
	if s.machine != want {
		t.Errorf("%+v", s.machine)
	}
	if s.code != (vm.Flash{Interface: "pflash", Format: "raw", Unit: 0, File: "auto", ReadOnly: true}) ||
		s.vars != (vm.Flash{Interface: "pflash", Format: "raw", Unit: 1, File: "auto"}) ||
		s.disk != (vm.Disk{Interface: "none", ID: "disk0", Format: "qcow2"}) {
		t.Errorf("%+v, %+v, %+v", s.code, s.vars, s.disk)
	}
	for _, set := range s.emulate {
		set(&s)
	}
	if m := s.machine; m.CPU != "max" || m.VCPUs != 1 || m.Memory.MiB != 2048 || s.code.File != "none" {
		t.Errorf("emulated: %+v, %+v", m, s.code)
	}
	if s, err = parse([]string{"MANAGER_QEMU_CPU=qemu64"}); err != nil || len(s.emulate) != 3 {
		t.Errorf("what is set holds where VMs are emulated, too: %v, %d", err, len(s.emulate))
	}
}

// TestEmulatedDefaultsAreValid: they are set without a look at the error.
func TestEmulatedDefaultsAreValid(t *testing.T) {
	for _, v := range variables() {
		if v.Otherwise == "" {
			continue
		}
		if err := v.Set(new(settings), v.Otherwise); err != nil {
			t.Errorf("%s: %v", v.Name, err)
		}
	}
}

// TestEveryVariable gives each one good values and bad ones.
func TestEveryVariable(t *testing.T) {
	covered := map[string]bool{}
	for _, v := range variables() {
		covered[v.Name] = true
	}
	for name, c := range map[string]struct{ good, bad []string }{
		"MANAGER_LOG_LEVEL":                          {[]string{"debug", "error"}, []string{"DEBUG", "verbose"}},
		"MANAGER_INSTANCE_ID":                        {[]string{"host-1.example"}, []string{"a b", "-x", strings.Repeat("x", 129)}},
		"MANAGER_GRPC_URL":                           {[]string{"localhost:7001", "[::1]:7001", "h.example.org:443", "[fe80::1%eth0]:7001", "a_b:1"}, []string{"a b:7001", "h\n:7001", "localhost", "https://localhost:7001", ":7001", "localhost:0", "localhost:70000", "localhost:http"}},
		"MANAGER_GRPC_TIMEOUT":                       {[]string{"100ms", "60s", "10m"}, []string{"60", "-1s", "0s", "11m", "soon"}},
		"MANAGER_GRPC_CLIENT_CERT":                   {nil, []string{"a\nb"}},
		"MANAGER_GRPC_CLIENT_KEY":                    {nil, []string{"a\nb"}},
		"MANAGER_GRPC_SERVER_CA_CERTS":               {[]string{"ca.pem"}, []string{"a\nb"}},
		"MANAGER_STATE_DIR":                          {[]string{"/var/lib/cocos"}, []string{"a\nb"}},
		"MANAGER_IMAGE_DIR":                          {[]string{"img"}, []string{"a\nb"}},
		"MANAGER_BOOT_TIMEOUT":                       {[]string{"1s", "1h"}, []string{"5", "999ms", "2h"}},
		"MANAGER_QEMU_BIN_PATH":                      {[]string{"qemu-system-x86_64", "/usr/bin/q"}, []string{"a\nb"}},
		"MANAGER_QEMU_ENABLE_KVM":                    {[]string{"auto", "true", "false"}, []string{"yes", "1"}},
		"MANAGER_QEMU_CPU":                           {[]string{"max", "EPYC-v4", "host,+sgx"}, []string{"-cpu", "a b"}},
		"MANAGER_LOG_FORMAT":                         {[]string{"text", "json"}, []string{"xml"}},
		"MANAGER_EOS_VERSION":                        {[]string{"v1.2.3+eos~4"}, []string{"a b", "-x"}},
		"MANAGER_CONTROL_SOCKET":                     {[]string{"/run/cocos/manager.sock"}, []string{"a\nb"}},
		"MANAGER_CONTROL_GROUP":                      {[]string{"cocos", "_cocos", "999"}, []string{"a b", "a:b", "-x"}},
		"MANAGER_HTTP_ADDR":                          {[]string{"127.0.0.1:9101", "[::1]:0", "none"}, []string{"9101", ":9101", "localhost:9101", "127.0.0.1"}},
		"COCOS_JAEGER_URL":                           {[]string{"http://localhost:4318/v1/traces", "https://h"}, []string{"localhost:4318", "ftp://h/", "http://", "http://u:p@h/", "http://h/?q"}},
		"COCOS_JAEGER_TRACE_RATIO":                   {[]string{"0", "1", "0.25"}, []string{"-0.1", "1.1", "NaN", "all"}},
		"MANAGER_STOP_GRACE":                         {[]string{"1s", "1h"}, []string{"5", "0s", "2h"}},
		"MANAGER_MAX_TTL":                            {[]string{"none", "1s", "24h"}, []string{"1d", "0s", "10000h"}},
		"MANAGER_MAX_VMS":                            {[]string{"1", "10000"}, []string{"0", "10001", "none"}},
		"MANAGER_MAX_VCPUS":                          {[]string{"1", "none"}, []string{"0", "many"}},
		"MANAGER_MAX_VM_MEMORY":                      {[]string{"auto", "none", "64G"}, []string{"0", "64", "1M"}},
		"MANAGER_MIN_FREE_DISK":                      {[]string{"0M", "10G"}, []string{"10", "-1M"}},
		"MANAGER_SCRATCH_MAX":                        {[]string{"0", "0M", "auto", "none", "500G", "1048576G"}, []string{"10", "-1M", "1T", "1048577G", "all"}},
		"MANAGER_EGRESS":                             {[]string{"on", "off"}, []string{"true", "1", "yes"}},
		"MANAGER_EGRESS_ALLOW":                       {nil, []string{"10.0.0.1/8", "example.org", "10.0.0.0/8;10.1.0.0/16", "h:0", "http://h:1", "fe80::1%eth0:1", ","}},
		"MANAGER_QEMU_USE_SUDO":                      {[]string{"true", "false"}, []string{"yes"}},
		"MANAGER_QEMU_MACHINE":                       {[]string{"q35"}, []string{"pc", "microvm", "q35,x=y"}},
		"MANAGER_QEMU_SMP_MAXCPUS":                   {[]string{"64", "512"}, []string{"0", "513"}},
		"MANAGER_QEMU_MEM_ID":                        {[]string{"ram1"}, []string{"1ram", "a,b"}},
		"MANAGER_QEMU_MEMORY_SLOTS":                  {[]string{"0", "256"}, []string{"-1", "257"}},
		"MANAGER_QEMU_MAX_MEMORY":                    {[]string{"30G"}, []string{"30", "255M"}},
		"MANAGER_QEMU_NO_GRAPHIC":                    {[]string{"true", "false"}, []string{"on"}},
		"MANAGER_QEMU_MONITOR":                       {[]string{"pty", "none"}, []string{"stdio", "tcp:0:1"}},
		"MANAGER_QEMU_VSOCK_ID":                      {[]string{"vhost-vsock-pci0"}, []string{"a b"}},
		"MANAGER_QEMU_OVMF_CODE_IF":                  {[]string{"pflash"}, []string{"none"}},
		"MANAGER_QEMU_OVMF_CODE_FORMAT":              {[]string{"raw", "qcow2"}, []string{"vmdk"}},
		"MANAGER_QEMU_OVMF_CODE_UNIT":                {[]string{"0"}, []string{"1", "-1"}},
		"MANAGER_QEMU_OVMF_CODE_FILE":                {[]string{"auto", "none", "/f"}, []string{"a\nb"}},
		"MANAGER_QEMU_OVMF_CODE_READONLY":            {[]string{"on"}, []string{"off", "true"}},
		"MANAGER_QEMU_OVMF_VERSION":                  {[]string{"edk2-stable202502"}, []string{"a b"}},
		"MANAGER_QEMU_OVMF_VARS_IF":                  {[]string{"pflash"}, []string{"ide"}},
		"MANAGER_QEMU_OVMF_VARS_FORMAT":              {[]string{"raw", "qcow2"}, []string{"vmdk"}},
		"MANAGER_QEMU_OVMF_VARS_UNIT":                {[]string{"1"}, []string{"0", "x"}},
		"MANAGER_QEMU_OVMF_VARS_FILE":                {[]string{"auto", "none", "/f"}, []string{"a\nb"}},
		"MANAGER_QEMU_DISK_IMG_FILE":                 {[]string{"disk.qcow2"}, []string{"a\nb"}},
		"MANAGER_QEMU_DISK_IMG_IF":                   {[]string{"none"}, []string{"virtio"}},
		"MANAGER_QEMU_DISK_IMG_ID":                   {[]string{"disk0"}, []string{"0"}},
		"MANAGER_QEMU_DISK_IMG_FORMAT":               {[]string{"qcow2", "raw"}, []string{"vdi"}},
		"MANAGER_QEMU_NETDEV_ID":                     {[]string{"vmnic"}, []string{"vm,nic"}},
		"MANAGER_QEMU_VIRTIO_NET_PCI_DISABLE_LEGACY": {[]string{"on", "off"}, []string{"auto"}},
		"MANAGER_QEMU_VIRTIO_NET_PCI_IOMMU_PLATFORM": {[]string{"true", "false"}, []string{"on"}},
		"MANAGER_QEMU_VIRTIO_NET_PCI_ADDR":           {[]string{"0x2", "1f.7"}, []string{"2.8", "zz", "0x123"}},
		"MANAGER_QEMU_VIRTIO_NET_PCI_ROMFILE":        {[]string{"", "/rom"}, []string{"a\nb"}},
		"MANAGER_QEMU_ENABLE_SEV":                    {[]string{"false"}, []string{"1"}},
		"MANAGER_QEMU_ENABLE_SEV_ES":                 {[]string{"false"}, []string{"1"}},
		"MANAGER_QEMU_ENABLE_SEV_SNP":                {[]string{"false"}, []string{"1"}},
		"MANAGER_QEMU_ENABLE_TDX":                    {[]string{"false"}, []string{"on"}},
		"MANAGER_QEMU_ENABLE_SGX":                    {[]string{"true", "false"}, []string{"yes"}},
		"MANAGER_QEMU_ENABLE_SIM":                    {[]string{"true", "false"}, []string{"sim"}},
		"MANAGER_QEMU_SEV_ID":                        {[]string{"sev0"}, []string{"a,b"}},
		"MANAGER_QEMU_SEV_CBITPOS":                   {[]string{"51", "47", "auto"}, []string{"0", "64"}},
		"MANAGER_QEMU_SEV_REDUCED_PHYS_BITS":         {[]string{"1", "5"}, []string{"0", "64"}},
		"MANAGER_QEMU_SEV_POLICY":                    {[]string{"0x1", "5"}, []string{"-1", "debug", "0x1g"}},
		"MANAGER_QEMU_SNP_POLICY":                    {[]string{"0x30000", "196608"}, []string{"-1", "smt"}},
		"MANAGER_QEMU_TDX_ID":                        {[]string{"tdx0"}, []string{"0"}},
		"MANAGER_QEMU_TDX_QUOTE_SERVICE":             {[]string{"none", "unix:/run/q.sock", "vsock:2:4050"}, []string{"/run/q.sock", "unix:q.sock", "vsock:2", "vsock:2:", "vsock:2:4050x", "tcp:1:2"}},
		"MANAGER_QEMU_SGX_EPC_SIZE":                  {[]string{"1M", "64M", "2G"}, []string{"64", "0M"}},
		"MANAGER_QEMU_KERNEL_HASH":                   {[]string{"auto", "false"}, []string{"on"}},
		"MANAGER_QEMU_HOST_DATA":                     {nil, []string{"AAAA", "x"}},
		"MANAGER_QEMU_BIOS_FILE":                     {nil, []string{"a\nb"}},
		"MANAGER_QEMU_SMP_COUNT":                     {[]string{"1", "512"}, []string{"0", "513", "-1", "1.5", "four"}},
		"MANAGER_QEMU_MEMORY_SIZE":                   {[]string{"256M", "2G", "16384G"}, []string{"255M", "2048", "2T", "M", "-1G", "-18014398509481983G", "16385G", "1.5G", "9223372036854775807G", "18014398509481985G", "99999999999999999999G"}},
		"MANAGER_QEMU_DISK_IMG_KERNEL_FILE":          {[]string{"k"}, []string{"a\nb"}},
		"MANAGER_QEMU_DISK_IMG_ROOTFS_FILE":          {[]string{"r"}, []string{"a\nb"}},
		"MANAGER_QEMU_HOST_FWD_AGENT":                {[]string{"0", "65535"}, []string{"65536", "-1", "http"}},
		"MANAGER_QEMU_HOST_FWD_RANGE":                {[]string{"6100-6200", "1-1", "none"}, []string{"6100", "6200-6100", "0-10", "1-65536", "a-b", "1-2-3"}},
		"MANAGER_QEMU_HOST_FWD_ADDR":                 {[]string{"127.0.0.1"}, []string{"localhost", "::1", "1.2.3"}},
		"MANAGER_QEMU_GUEST_FWD_AGENT":               {[]string{"1", "65535"}, []string{"0", "65536"}},
		"MANAGER_QEMU_VSOCK":                         {[]string{"auto", "kernel", "user"}, []string{"vhost"}},
		"MANAGER_QEMU_VSOCK_GUEST_CID":               {[]string{"3", "65534"}, []string{"2", "65535", "-3", "x"}},
	} {
		for _, v := range c.good {
			if _, err := parse([]string{name + "=" + v}); err != nil {
				t.Errorf("%s=%s: %v", name, v, err)
			}
		}
		if name != "MANAGER_QEMU_VIRTIO_NET_PCI_ROMFILE" {
			c.bad = append(c.bad, "")
		}
		for _, v := range c.bad {
			_, err := parse([]string{name + "=" + v})
			if err == nil {
				t.Errorf("%s=%q is accepted", name, v)
				continue
			}
			shown := v != "" && name != "COCOS_JAEGER_URL"
			if text := err.Error(); !strings.Contains(text, name) || (shown && !strings.Contains(text, fmt.Sprintf("%q", v))) ||
				!(strings.Contains(text, "expected ") || strings.Contains(text, "is empty")) {
				t.Errorf("%s=%q: %v", name, v, err)
			}
		}
		delete(covered, name)
	}
	for name := range covered {
		t.Errorf("%s has no case in this test", name)
	}
}

func TestUnknownVariablesAndSeveralFaults(t *testing.T) {
	_, err := parse([]string{"MANAGER_GRPC_ULR=x:1", "MANAGER_QEMU_SMP_COUNT=many", "MANAGER_COMPLETELY_DIFFERENT_THING=1", "MANAGER_GRPC_CLIENT_CERT=c"})
	if err == nil {
		t.Fatal("accepted")
	}
	for _, want := range []string{
		`MANAGER_GRPC_ULR="x:1" is not a variable of this version; did you mean MANAGER_GRPC_URL?`,
		`MANAGER_QEMU_SMP_COUNT="many" is not valid; expected a whole number from 1 to 512`,
		`MANAGER_COMPLETELY_DIFFERENT_THING="1" is not a variable of this version; docs/manager.md lists them all`,
		"MANAGER_GRPC_CLIENT_CERT and MANAGER_GRPC_CLIENT_KEY go together",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%v\nlacks %q", err, want)
		}
	}
}

// TestPasswordsAreNotShown: what is wrong may stand in a log for ever.
func TestPasswordsAreNotShown(t *testing.T) {
	for _, entry := range []string{
		"COCOS_JAEGER_URL=http://user:geheim@collector:4318/v1/traces",
		"COCOS_JAEGER_URL=http://collector:4318/v1/traces?token=geheim",
		"COCOS_JAEGER_URL=user:geheim@collector:4318",
		"MANAGER_GRPC_URL=https://user:geheim@server.example.org:7001",
		"MANAGER_GRPC_URL=https://us@er:geh/geheim@server.example.org:7001",
		"MANAGER_GRPC_URL=geheim@server.example.org:7001",
		"MANAGER_GRPC_URI=user:geheim@server.example.org:7001",
	} {
		name, _, _ := strings.Cut(entry, "=")
		_, err := parse([]string{entry})
		if err == nil || strings.Contains(err.Error(), "geheim") || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", entry, err)
		}
	}
	_, err := parse([]string{"MANAGER_GRPC_URL=https://user:geheim@server.example.org:7001"})
	if err == nil || !strings.Contains(err.Error(), `MANAGER_GRPC_URL="https://...@server.example.org:7001"`) {
		t.Errorf("what is left does not help: %v", err)
	}
}

// TestWhatCannotGoTogether: each value is right in itself.
func TestWhatCannotGoTogether(t *testing.T) {
	for name, c := range map[string]struct {
		environ []string
		says    string
	}{
		"no ports":         {[]string{"MANAGER_QEMU_HOST_FWD_AGENT=0", "MANAGER_QEMU_HOST_FWD_RANGE=none"}, "leave no port"},
		"key without cert": {[]string{"MANAGER_GRPC_CLIENT_KEY=k"}, "go together"},
		"disk and kernel":  {[]string{"MANAGER_QEMU_DISK_IMG_FILE=d", "MANAGER_QEMU_DISK_IMG_KERNEL_FILE=k"}, "MANAGER_QEMU_DISK_IMG_KERNEL_FILE"},
		"disk and rootfs":  {[]string{"MANAGER_QEMU_DISK_IMG_FILE=d", "MANAGER_QEMU_DISK_IMG_ROOTFS_FILE=r"}, "MANAGER_QEMU_DISK_IMG_ROOTFS_FILE"},
	} {
		if _, err := parse(c.environ); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, c := range map[string]struct {
		environ []string
		says    string
	}{
		"more CPUs than room":   {[]string{"MANAGER_QEMU_SMP_COUNT=8", "MANAGER_QEMU_SMP_MAXCPUS=4"}, "MANAGER_QEMU_SMP_MAXCPUS"},
		"more memory than room": {[]string{"MANAGER_QEMU_MEMORY_SIZE=31G"}, "MANAGER_QEMU_MAX_MEMORY"},
		"no room beside memory": {[]string{"MANAGER_QEMU_MEMORY_SIZE=30G"}, "MANAGER_QEMU_MEMORY_SLOTS=0"},
	} {
		s, err := parse(c.environ)
		if err = errors.Join(append(s.sized(), err)...); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", name, err)
		}
	}
	s, err := parse([]string{"MANAGER_QEMU_MEMORY_SIZE=31G", "MANAGER_QEMU_MEMORY_SLOTS=0"})
	if err = errors.Join(append(s.sized(), err)...); err != nil {
		t.Errorf("no room is wanted: %v", err)
	}
}

// TestEnvFile: as it is it changes nothing, and with every '#' before a name
// removed it says what holds anyway.
func TestEnvFile(t *testing.T) {
	var b strings.Builder
	if err := writeEnvFile(&b); err != nil {
		t.Fatal(err)
	}
	var environ []string
	for line := range strings.Lines(b.String()) {
		line = strings.TrimSuffix(line, "\n")
		if len(line) > 80 && !strings.Contains(line, "=") {
			t.Errorf("%d bytes: %s", len(line), line)
		}
		if line != "" && line[0] != '#' {
			t.Errorf("%q sets something", line)
		}
		if entry, ok := strings.CutPrefix(line, "#"); ok && !strings.HasPrefix(entry, " ") {
			if _, value, _ := strings.Cut(entry, "="); value != "" {
				environ = append(environ, entry)
			}
		}
	}
	given, err := parse(environ)
	if err != nil {
		t.Fatal(err)
	}
	unset, err := parse(nil)
	if err != nil {
		t.Fatal(err)
	}
	given.emulate, unset.emulate, given.given, unset.given = nil, nil, nil, nil
	if !reflect.DeepEqual(given, unset) {
		t.Errorf("%+v\nis not\n%+v", given, unset)
	}
	if len(variables()) < 70 || strings.Count(b.String(), "\n#MANAGER_")+strings.Count(b.String(), "\n#COCOS_") != len(variables()) {
		t.Errorf("%d variables, in the file: %s", len(variables()), b.String())
	}
}
