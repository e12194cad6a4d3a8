package main

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
)

const docs = "../../docs/manager.md"

// table is the documentation's table of the variables.
func table() string {
	var b strings.Builder
	b.WriteString("| Variable | Type | Unit or range | Default | Effect |\n|---|---|---|---|---|\n")
	orDash := func(s string) string {
		if s == "" {
			return "–"
		}
		return s
	}
	for _, v := range variables() {
		fallback := v.fallback
		if fallback != "" {
			fallback = "`" + fallback + "`"
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s | %s |\n", v.name, v.kind, orDash(v.unit), orDash(fallback), v.effect)
	}
	return b.String()
}

func TestDocumentationHasTheTable(t *testing.T) {
	b, err := os.ReadFile(docs)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(b), table()) {
		t.Errorf("%s does not have this table:\n\n%s", docs, table())
	}
}

func TestDefaults(t *testing.T) {
	s, err := parse([]string{"HOME=/root", "COCOS_CACHE=x"})
	if err != nil {
		t.Fatal(err)
	}
	if s.serverAddress != "localhost:7001" || s.serverTimeout != time.Minute || s.memoryMiB != 2048 || s.vcpus != 1 ||
		s.forward.Preferred != 7020 || s.forward.First != 6100 || s.forward.Last != 6200 || s.forward.Addr.String() != "0.0.0.0" ||
		s.guestPort != 7002 || s.kvm != "auto" || s.vsock != "auto" || s.guestCID != 3 || s.bootTimeout != 5*time.Minute || s.logLevel != "info" {
		t.Errorf("%+v", s)
	}
}

// TestEveryVariable gives each one good values and bad ones.
func TestEveryVariable(t *testing.T) {
	covered := map[string]bool{}
	for _, v := range variables() {
		covered[v.name] = true
	}
	for name, c := range map[string]struct{ good, bad []string }{
		"MANAGER_LOG_LEVEL":                 {[]string{"debug", "error"}, []string{"DEBUG", "verbose"}},
		"MANAGER_INSTANCE_ID":               {[]string{"host-1.example"}, []string{"a b", "-x", strings.Repeat("x", 129)}},
		"MANAGER_GRPC_URL":                  {[]string{"localhost:7001", "[::1]:7001", "h.example.org:443"}, []string{"localhost", "https://localhost:7001", ":7001", "localhost:0", "localhost:70000", "localhost:http"}},
		"MANAGER_GRPC_TIMEOUT":              {[]string{"100ms", "60s", "10m"}, []string{"60", "-1s", "0s", "11m", "soon"}},
		"MANAGER_GRPC_CLIENT_CERT":          {nil, []string{"a\nb"}},
		"MANAGER_GRPC_CLIENT_KEY":           {nil, []string{"a\nb"}},
		"MANAGER_GRPC_SERVER_CA_CERTS":      {[]string{"ca.pem"}, []string{"a\nb"}},
		"MANAGER_STATE_DIR":                 {[]string{"/var/lib/cocos"}, []string{"a\nb"}},
		"MANAGER_IMAGE_DIR":                 {[]string{"img"}, []string{"a\nb"}},
		"MANAGER_BOOT_TIMEOUT":              {[]string{"1s", "1h"}, []string{"5", "999ms", "2h"}},
		"MANAGER_QEMU_BIN_PATH":             {[]string{"qemu-system-x86_64", "/usr/bin/q"}, []string{"a\nb"}},
		"MANAGER_QEMU_ENABLE_KVM":           {[]string{"auto", "true", "false"}, []string{"yes", "1"}},
		"MANAGER_QEMU_CPU":                  {[]string{"max", "EPYC-v4", "host,+sgx"}, []string{"-cpu", "a b"}},
		"MANAGER_QEMU_SMP_COUNT":            {[]string{"1", "512"}, []string{"0", "513", "-1", "1.5", "four"}},
		"MANAGER_QEMU_MEMORY_SIZE":          {[]string{"256M", "2G", "16384G"}, []string{"255M", "2048", "2T", "M", "-1G", "16385G", "1.5G", "9223372036854775807G", "18014398509481985G", "99999999999999999999G"}},
		"MANAGER_QEMU_DISK_IMG_KERNEL_FILE": {[]string{"k"}, []string{"a\nb"}},
		"MANAGER_QEMU_DISK_IMG_ROOTFS_FILE": {[]string{"r"}, []string{"a\nb"}},
		"MANAGER_QEMU_HOST_FWD_AGENT":       {[]string{"0", "65535"}, []string{"65536", "-1", "http"}},
		"MANAGER_QEMU_HOST_FWD_RANGE":       {[]string{"6100-6200", "1-1", "none"}, []string{"6100", "6200-6100", "0-10", "1-65536", "a-b", "1-2-3"}},
		"MANAGER_QEMU_HOST_FWD_ADDR":        {[]string{"127.0.0.1"}, []string{"localhost", "::1", "1.2.3"}},
		"MANAGER_QEMU_GUEST_FWD_AGENT":      {[]string{"1", "65535"}, []string{"0", "65536"}},
		"MANAGER_QEMU_VSOCK":                {[]string{"auto", "kernel", "user"}, []string{"vhost"}},
		"MANAGER_QEMU_VSOCK_GUEST_CID":      {[]string{"3", "65534"}, []string{"2", "65535", "-3", "x"}},
	} {
		for _, v := range c.good {
			if _, err := parse([]string{name + "=" + v}); err != nil {
				t.Errorf("%s=%s: %v", name, v, err)
			}
		}
		for _, v := range append(c.bad, "") {
			_, err := parse([]string{name + "=" + v})
			if err == nil {
				t.Errorf("%s=%q is accepted", name, v)
				continue
			}
			if text := err.Error(); !strings.Contains(text, name) || (v != "" && !strings.Contains(text, fmt.Sprintf("%q", v))) ||
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
	if _, err := parse([]string{"MANAGER_QEMU_HOST_FWD_AGENT=0", "MANAGER_QEMU_HOST_FWD_RANGE=none"}); err == nil || !strings.Contains(err.Error(), "leave no port") {
		t.Errorf("%v", err)
	}
}

func TestDistance(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want int
	}{{"", "", 0}, {"a", "", 1}, {"abc", "abc", 0}, {"abc", "acb", 2}, {"kitten", "sitting", 3}} {
		if got := distance(c.a, c.b); got != c.want {
			t.Errorf("%q, %q: %d", c.a, c.b, got)
		}
	}
}
