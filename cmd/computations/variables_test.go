package main

import (
	"net/netip"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"
)

const docs = "../../docs/computations.md"

func TestDocumentationHasTheTable(t *testing.T) {
	if err := table().Faults(); err != nil {
		t.Error(err)
	}
	b, err := os.ReadFile(docs)
	if err != nil {
		t.Fatal(err)
	}
	if want := table().Markdown(); !strings.Contains(string(b), want) {
		t.Errorf("%s does not have this table:\n\n%s", docs, want)
	}
}

func TestDefaults(t *testing.T) {
	t.Setenv("XDG_DATA_HOME", "/data")
	got, err := parse([]string{"HOME=/root"})
	if err != nil {
		t.Fatal(err)
	}
	want := settings{
		logLevel: "info", logFormat: "text", dataDir: "/data/cocos-computations",
		httpAddr: "127.0.0.1:7080", grpcAddr: "127.0.0.1:7001", metricsAddr: "127.0.0.1:9102",
		publicURL: "http://127.0.0.1:7080", grpcPublic: "127.0.0.1:7001", grace: 20 * time.Second, traceRatio: 1,
	}
	if os.Geteuid() == 0 {
		want.dataDir = "/var/lib/cocos-computations"
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

// TestEveryVariable gives each one good values and bad ones.
func TestEveryVariable(t *testing.T) {
	covered := map[string]bool{}
	for _, v := range table().Variables {
		covered[v.Name] = true
	}
	addr := struct{ good, bad []string }{[]string{"127.0.0.1:1", "[::1]:7080"}, []string{"localhost:7080", "7080", "127.0.0.1", ":7080"}}
	file := struct{ good, bad []string }{[]string{"a.pem"}, []string{"a\nb"}}
	text := struct{ good, bad []string }{[]string{"anything"}, []string{""}}
	for name, c := range map[string]struct{ good, bad []string }{
		"COMPUTATIONS_LOG_LEVEL":  {[]string{"debug", "error"}, []string{"DEBUG"}},
		"COMPUTATIONS_LOG_FORMAT": {[]string{"text", "json"}, []string{"xml"}},
		"COMPUTATIONS_DATA_DIR":   file,
		"COMPUTATIONS_DATABASE": {
			[]string{"postgres://u:p@h/d?sslmode=verify-full", "postgresql:///d?host=/run", "postgres://u@localhost/d", "postgres://u@[::1]/d?sslmode=disable"},
			[]string{"mysql://h/d", "cocos.db", "postgres://u:p@h/d", "postgres://u:p@h/d?sslmode=prefer", "postgres://u:p@h/d?sslmode=disable", "postgres://u@localhost,h/d", "postgres://u@h/d?sslmode=x"}},
		"COMPUTATIONS_HTTP_ADDR":       addr,
		"COMPUTATIONS_GRPC_ADDR":       addr,
		"COMPUTATIONS_METRICS_ADDR":    {append(addr.good, "none"), addr.bad},
		"COMPUTATIONS_PUBLIC_URL":      {[]string{"https://c.example.org", "http://localhost:7080/", "http://[::1]:80"}, []string{"http://c.example.org", "c.example.org", "https://c.example.org/x", "https://u:p@c.example.org", "ftp://localhost"}},
		"COMPUTATIONS_GRPC_PUBLIC":     {[]string{"c.example.org:7001"}, []string{"c.example.org", "https://c.example.org"}},
		"COMPUTATIONS_TLS_CERT":        file,
		"COMPUTATIONS_TLS_KEY":         file,
		"COMPUTATIONS_TRUSTED_PROXIES": {[]string{"10.0.0.0/8", "10.0.0.1, fd00::/8"}, []string{"proxy", "10.0.0.0/33", "10.0.0.1,"}},
		"COMPUTATIONS_OIDC_ISSUER":     text, "COMPUTATIONS_OIDC_CLIENT_ID": text, "COMPUTATIONS_OIDC_LABEL": text,
		"COMPUTATIONS_OIDC_CLIENT_SECRET_FILE": file,
		"COMPUTATIONS_SHUTDOWN_GRACE":          {[]string{"1s", "10m"}, []string{"0s", "11m", "5"}},
		"COCOS_JAEGER_URL":                     {[]string{"http://localhost:4318/v1/traces"}, []string{"localhost:4318", "http://u:p@h/"}},
		"COCOS_JAEGER_TRACE_RATIO":             {[]string{"0", "0.5"}, []string{"2", "-1", "NaN"}},
	} {
		if !covered[name] {
			t.Errorf("%s is not in the table", name)
		}
		delete(covered, name)
		for _, v := range c.good {
			var s settings
			if _, errs := table().Read([]string{name + "=" + v}, &s); len(errs) > 0 {
				t.Errorf("%s=%s: %v", name, v, errs)
			}
		}
		for _, v := range c.bad {
			var s settings
			if _, errs := table().Read([]string{name + "=" + v}, &s); len(errs) != 1 || !strings.Contains(errs[0].Error(), name) {
				t.Errorf("%s=%s: %v", name, v, errs)
			}
		}
	}
	for name := range covered {
		t.Errorf("%s is not tried", name)
	}
}

func TestWhatCannotGoTogether(t *testing.T) {
	t.Setenv("XDG_DATA_HOME", "/data")
	for name, c := range map[string]struct {
		environ []string
		says    string
	}{
		"certificate alone": {[]string{"COMPUTATIONS_TLS_CERT=a"}, "COMPUTATIONS_TLS_CERT and COMPUTATIONS_TLS_KEY go together"},
		"plain console":     {[]string{"COMPUTATIONS_HTTP_ADDR=0.0.0.0:7080"}, "the console has no certificate"},
		"plain metrics":     {[]string{"COMPUTATIONS_METRICS_ADDR=0.0.0.0:9102"}, "there is no certificate for it"},
		"plain traces":      {[]string{"COCOS_JAEGER_URL=http://traces.example.org:4318/v1/traces"}, "COCOS_JAEGER_URL is an http address of another machine"},
		"half a provider":   {[]string{"COMPUTATIONS_OIDC_ISSUER=https://id.example.org", "COMPUTATIONS_OIDC_CLIENT_ID=x"}, "COMPUTATIONS_OIDC_CLIENT_SECRET_FILE is unset"},
		"unknown":           {[]string{"COMPUTATIONS_HTTP_ADR=x"}, "did you mean COMPUTATIONS_HTTP_ADDR?"},
	} {
		if _, err := parse(c.environ); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, want %q", name, err, c.says)
		}
	}
	s, err := parse([]string{"COMPUTATIONS_HTTP_ADDR=0.0.0.0:443", "COMPUTATIONS_TLS_CERT=a", "COMPUTATIONS_TLS_KEY=b", "COMPUTATIONS_TRUSTED_PROXIES=10.0.0.1"})
	if err != nil || s.publicURL != "https://localhost:443" || !reflect.DeepEqual(s.proxies, []netip.Prefix{netip.MustParsePrefix("10.0.0.1/32")}) {
		t.Errorf("%+v, %v", s, err)
	}
}
