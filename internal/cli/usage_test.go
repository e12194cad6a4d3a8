package cli

import (
	"encoding/json"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ultravioletrs/cocos/keys"
	"github.com/ultravioletrs/cocos/manifest"
)

// Each line is wrong in one way, exits 2 and says which.
func TestWrongCommandLines(t *testing.T) {
	u := newUser(t)
	file := u.file("file", []byte("x"))
	var (
		target   = []string{"--agent", "127.0.0.1:1"}
		pin      = []string{"--agent-key", "sha256:" + strings.Repeat("0", 64)}
		approved = []string{"--manifest", u.manifest}
		byDigest = []string{"--manifest-digest", u.digest.String()}
		key      = []string{"--key", u.key}
	)
	line := func(command string, parts ...[]string) []string {
		args := strings.Fields(command)
		for _, p := range parts {
			args = append(args, p...)
		}
		return args
	}
	for _, tt := range []struct {
		args []string
		want string
	}{
		{line("uplaod"), `no command "uplaod"`},
		{line("resul"), `did you mean "result"?`},
		{line("manifest chek"), `did you mean "check"?`},
		{line("manifest foo bar"), `manifest has no command "foo"`},
		{line("completion tcsh"), `completion has no command "tcsh"`},
		{line("help nothing"), `no help on "nothing"`},
		{line("--nope"), "unknown flag: --nope"},
		{line("version now"), `unexpected argument "now"`},
		{line("keys extra"), `unexpected argument "extra"`},
		{line("keys --out"), "flag needs an argument"},
		{line("keys --type dsa"), `key type "dsa"`},
		{[]string{"keys", "--out", ""}, "not a prefix"},
		{line("keys --force=maybe"), "invalid argument"},
		{line("keys show"), "FILE is missing"},
		{line("checksum"), "PATH is missing"},
		{line("container"), "FILE is missing"},
		{line("manifest check"), "FILE is missing"},
		{line("manifest digest a b"), `unexpected argument "b"`},
		{line("manifest freeze"), "FILE is missing"},
		{line("manifest show"), "FILE is missing"},
		{line("contacts add"), "NAME is missing"},
		{line("contacts add x"), "give either --key or --fingerprint"},
		{line("contacts add x --key a --fingerprint b"), "give either --key or --fingerprint"},
		{line("contacts add x --fingerprint sha256:12"), "--fingerprint is"},
		{[]string{"contacts", "add", "b\u200bob", "--key", file}, "NAME is"},
		{line("contacts list x"), `unexpected argument "x"`},
		{line("contacts remove"), "NAME is missing"},
		{line("instances list x"), `unexpected argument "x"`},
		{line("instances forget"), "DIGEST is missing"},
		{line("instances forget 12"), "DIGEST has 2 characters"},
		{line("attestation get --manifest x"), "--agent is missing"},
		{line("attestation get", target), "--manifest or --manifest-digest is missing"},
		{line("attestation get --manifest-digest ab", target), "--manifest-digest has 2 characters"},
		{line("attestation get --key x"), "unknown flag: --key"},
		{line("state --new-instance", key, approved, target, pin), "--new-instance is of no use"},
		{line("state --accept-cached", key, approved, target, pin), "--accept-cached is of no use"},
		{line("state --image x", key, approved, target, pin), "--image is of no use"},
		{line("state --fetch", key, approved, target, pin), "--fetch is of no use"},
		{line("state --role consumer --policy p", key, byDigest, target, pin), "--manifest is missing, and --policy needs it"},
		{line("algo --accept-cached"), "unknown flag: --accept-cached"},
		{line("manifest approve x"), "--key is missing"},
		{line("measure sgx"), `measure has no command "sgx"`},
		{line("measure snp x"), `unexpected argument "x"`},
		{line("measure snp"), "--firmware is missing"},
		{line("measure tdx --page-order both --firmware x --kernel x --initrd x"), `--page-order "both" is not known`},
		{line("measure image"), "DIR is missing"},
		{line("measure image . --vcpus 0"), "--vcpus 0: expected 1 to 4096"},
		{line("measure image . --vcpus many"), "invalid argument"},
		{line("policy init"), "--tee is missing"},
		{line("policy init --tee sgx"), `--tee "sgx": expected one of sev-snp, tdx, sim`},
		{line("policy check"), "FILE is missing"},
		{line("policy from-evidence"), "FILE is missing"},
		{line("attestation explain"), "--evidence is missing"},
		{line("algo"), "FILE is missing"},
		{line("algo "+u.dir, key, approved), "an algorithm is one file"},
		{line("algo " + file), "--key is missing"},
		{line("algo "+file, key), "--manifest is missing"},
		{line("algo "+file, key, byDigest), "--manifest is missing"},
		{line("data "+file, key, byDigest), "--manifest is missing"},
		{line("result", key, byDigest), "--manifest is missing"},
		{line("state", key), "--manifest or --manifest-digest is missing"},
		{line("state", key, []string{"--manifest-digest", "abc"}), "has 3 characters"},
		{line("state", key, []string{"--manifest-digest", strings.Repeat("G", 64)}), "--manifest-digest"},
		{line("algo "+file, key, approved), "--agent is missing"},
		{line("algo "+file, key, approved, []string{"--agent", "localhost"}), "is not HOST:PORT"},
		{line("algo "+file, key, approved, []string{"--agent", ":7020"}), "is not HOST:PORT"},
		{line("algo "+file, key, approved, target), "neither --agent-key nor --agent-ca"},
		{line("algo "+file, key, approved, target), "the event agent.ready has the key"},
		{line("algo "+file, key, approved, target, pin, []string{"--agent-ca", file}), "exclude each other"},
		{line("algo "+file, key, approved, target, []string{"--agent-key", "sha256:12"}), "--agent-key"},
		{line("algo "+file, key, approved, target, []string{"--agent-key", strings.Repeat("0", 64)}), "--agent-key"},
		{line("algo "+file, key, approved, target, pin, []string{"--agent-name", "x"}), "--agent-name is of use with --agent-ca only"},
		{line("algo "+file, key, approved, target, pin, []string{"--client-cert", file}), "belong together"},
		{line("algo "+file, key, approved, target, pin, []string{"--timeout", "0s"}), "not a positive duration"},
		{line("algo "+file, key, approved, target, pin, []string{"--timeout", "soon"}), "invalid argument"},
		{line("data"), "PATH is missing"},
		{line("data "+file+" --skip-check", key, approved, target, pin), "--name is missing"},
		{line("state x"), `unexpected argument "x"`},
		{line("state", key, byDigest, target, pin), "--role is missing"},
		{line("state --role owner", key, approved, target, pin), `--role "owner" is not known`},
		{line("events --after -1"), "invalid argument"},
		{line("logs", key, byDigest, target, pin), "--role is missing"},
		{line("result --out a --archive b"), "exclude each other"},
		{line("manager lst"), `did you mean "list"?`},
		{line("manager status now"), `unexpected argument "now"`},
		{line("manager list x"), `unexpected argument "x"`},
		{line("manager show"), "RUN is missing"},
		{line("manager show a b"), `unexpected argument "b"`},
		{line("manager logs"), "RUN is missing"},
		{line("manager logs a --lines -1"), "--lines -1: expected 0 to 10000"},
		{line("manager logs a --lines 10001"), "--lines 10001: expected"},
		{line("manager logs a --lines many"), "invalid argument"},
		{line("manager logs a --source qemu"), `--source "qemu" is not known`},
		{line("manager stop"), "RUN is missing"},
		{line("manager stop a --all"), "--all and RUN exclude each other"},
		{line("manager stop a --drain"), "--drain is of use with --all only"},
		{line("manager stop a --grace 0s"), "--grace 0s: expected 1s to 1h0m0s"},
		{line("manager stop a --grace 2h"), "--grace 2h0m0s: expected"},
		{line("manager stop a --grace -5s"), "--grace -5s: expected"},
		{line("manager qemu-args a b"), `unexpected argument "b"`},
		{[]string{"manager", "qemu-args", ""}, "RUN is empty"},
		{line("login"), "URL is missing"},
		{line("login cocos.example.org"), "URL is"},
		{line("login ftp://cocos.example.org"), "begins with https://"},
		{line("login https://u:p@cocos.example.org"), "URL is"},
		{line("login https://cocos.example.org/c/1"), "URL is"},
		{line("login http://cocos.example.org"), "without TLS (https)"},
		{line("login https://cocos.example.org --grpc x"), `--grpc "x" is not HOST:PORT`},
		{line("login https://cocos.example.org --ca x --fingerprint y"), "exclude each other"},
		{line("login https://cocos.example.org --fingerprint sha256:12"), "--fingerprint is"},
		{line("login https://cocos.example.org --token-file x --email y"), "--token-file excludes"},
		{line("login https://cocos.example.org/link/cl_x --token-file x"), "--token-file excludes"},
		{line("login https://cocos.example.org --name x"), "--name is of use with a link only"},
		{line("logout x"), `unexpected argument "x"`},
		{line("whoami x"), `unexpected argument "x"`},
		{line("workspaces list"), `unexpected argument "list"`},
		{line("workspaces create"), "NAME is missing"},
		{line("workspaces rename a"), "NAME is missing"},
		{line("workspaces keep soon"), `DURATION "soon" is not a duration`},
		{line("members role a@example.org"), "ROLE is missing"},
		{line("members remove"), "EMAIL is missing"},
		{line("invitations create"), "EMAIL is missing"},
		{line("invitations accept"), "INVITATION is missing"},
		{line("invitations resend a b"), `unexpected argument "b"`},
		{line("keys register"), "FILE is missing"},
		{line("keys list x"), `unexpected argument "x"`},
		{line("keys revoke"), "KEY is missing"},
		{line("assets ad"), `did you mean "add"?`},
		{line("assets add " + file), "--kind is missing"},
		{line("assets add " + file + " --kind result"), `--kind "result" is not known`},
		{line("assets add " + file + " --kind algorithm"), "looks like none of them"},
		{line("assets add " + file + " --kind dataset --type python"), "--type is of algorithms only"},
		{line("assets add " + file + " --kind dataset --unpacked-max 7"), "--unpacked-max is of folders only"},
		{line("assets add " + u.dir + " --kind algorithm"), "an algorithm is one file"},
		{line("assets show"), "ASSET is missing"},
		{line("computations shw"), `did you mean "show"?`},
		{line("computations create"), "NAME is missing"},
		{line("computations create x"), "--tee is missing"},
		{line("computations list --limit 0"), "--limit 0: expected 1 to 10000"},
		{line("computations parts x"), "EMAIL is missing"},
		{line("computations supply x"), "there is nothing to supply"},
		{line("computations freeze"), "COMPUTATION is missing"},
		{line("computations approve x"), "--key is missing"},
		{line("computations approve x --digest 12", key), "--digest has 2 characters"},
		{line("computations watch"), "RUN is missing"},
		{line("computations watch x --after -1"), "--after -1: expected a position"},
		{line("computations runs x --limit 99999"), "--limit 99999: expected"},
		{line("computations entries x --from now"), `--from "now" is not a time of RFC 3339`},
		{line("computations entries x --limit -1"), "--limit -1: expected"},
		{line("computations receipt sbmit"), `did you mean "submit"?`},
		{line("computations receipt submit x"), "FILE is missing"},
		{line("computations import"), "FILE is missing"},
		{line("hosts lst"), `did you mean "list"?`},
		{line("hosts enroll-token"), "NAME is missing"},
		{line("hosts cordon"), "HOST is missing"},
		{line("users create"), "EMAIL is missing"},
		{line("users list --limit 0"), "--limit 0: expected"},
		{line("settings set sign-up"), "VALUE is missing"},
		{line("tokens create"), "NAME is missing"},
		{line("tokens revoke"), "TOKEN is missing"},
		{line("audit --to soon"), `--to "soon" is not a time`},
		{line("audit --limit 0"), "--limit 0: expected"},
		{line("audit --service --workspace x"), "exclude each other"},
		{line("result --out ."), "is not a place for a result"},
		{line("result --out /"), "is not a place for a result"},
		{line("result --archive .."), "is not a place for a result"},
	} {
		t.Run(strings.Join(tt.args, " "), func(t *testing.T) {
			o := u.run(t.Context(), tt.args...)
			o.wants(t, ExitUsage, tt.want, "next: ")
			if o.stdout != "" {
				t.Errorf("standard output: %q", o.stdout)
			}
			if slices.Contains(tt.args, "--out") && len(tt.args) == 2 {
				return // --json would be its value
			}
			o = u.run(t.Context(), append(slices.Clone(tt.args), "--json")...)
			o.wants(t, ExitUsage)
			if message, _, _, hint := o.failure(t); message == "" || hint == "" {
				t.Errorf("with --json: message %q, hint %q", message, hint)
			}
		})
	}
}

// Files that a flag names and that are not what they should be: exit status 1,
// the file's name, and nothing dialled.
func TestBadFiles(t *testing.T) {
	u := newUser(t)
	f := &fakeAgent{addr: "127.0.0.1:1", key: "sha256:" + strings.Repeat("0", 64)}
	rubbish := u.file("rubbish", []byte("rubbish"))
	big := u.file("big", nil)
	if err := os.Truncate(big, 2<<20); err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		args []string
		want string
	}{
		"no key file":       {[]string{"--key", "gone.pem"}, "gone.pem"},
		"key is rubbish":    {[]string{"--key", rubbish}, "rubbish: no PEM block"},
		"key is huge":       {[]string{"--key", big}, "larger than 64.0 KiB"},
		"manifest missing":  {[]string{"--manifest", "gone.json"}, "gone.json"},
		"manifest rubbish":  {[]string{"--manifest", rubbish}, "not a valid manifest"},
		"manifest is huge":  {[]string{"--manifest", big}, "larger than 1.0 MiB"},
		"no client cert":    {[]string{"--client-cert", "gone", "--client-key", rubbish}, "--client-cert: open gone"},
		"bad client cert":   {[]string{"--client-cert", rubbish, "--client-key", rubbish}, "--client-cert " + rubbish},
		"no algorithm file": {nil, "gone.py"},
	} {
		t.Run(name, func(t *testing.T) {
			algo := rubbish
			if tt.args == nil {
				algo = "gone.py"
			}
			u.run(t.Context(), append(u.flags(f, "algo", algo), tt.args...)...).wants(t, ExitFailure, tt.want)
		})
	}
}

func TestHelpAndCompletion(t *testing.T) {
	u := newUser(t)
	for _, args := range [][]string{{}, {"--help"}, {"help"}, {"help", "data"}, {"manifest"}, {"completion"}, {"data", "--help"}} {
		o := u.run(t.Context(), args...)
		if o.code != ExitOK || !strings.Contains(o.stdout, "Usage:") || o.stderr != "" {
			t.Errorf("%q: exit status %d, stderr %q", args, o.code, o.stderr)
		}
	}
	for _, shell := range []string{"bash", "zsh", "fish", "powershell"} {
		u.run(t.Context(), "completion", shell).wants(t, ExitOK, "cocos-cli")
	}
	f, err := manifest.Freeze(manifest.Manifest{
		Version: manifest.Version, ID: "x", Name: "x", Nonce: manifest.Nonce{1}, TEE: manifest.TEENone, Consumers: []keys.Public{u.pub},
		Algorithm: manifest.Algorithm{Type: manifest.Binary, SHA256: manifest.Digest{1}, Size: 1, Provider: u.pub},
		Datasets:  []manifest.Dataset{{Name: "iris.csv", Provider: u.pub, SHA256: manifest.Digest{2}, Size: 1}},
	})
	if err != nil {
		t.Fatal(err)
	}
	for want, args := range map[string][]string{
		"iris.csv\n":         {"data", "--manifest", u.file("m.json", f.Raw), "--name", ""},
		"ecdsa-p384\n":       {"keys", "--type", ""},
		"dataset-provider\n": {"state", "--role", ""},
		"approve\t":          {"manifest", ""},
	} {
		u.run(t.Context(), append([]string{"__complete"}, args...)...).wants(t, ExitOK, want)
	}
}

func TestVersion(t *testing.T) {
	u := newUser(t)
	u.run(t.Context(), "version").wants(t, ExitOK, "cocos-cli test (go")
	o := u.run(t.Context(), "version", "--json")
	var v struct{ Version, Go, Platform string }
	if err := json.Unmarshal([]byte(o.stdout), &v); err != nil || v.Version != "test" || v.Go == "" || v.Platform == "" {
		t.Errorf("printed %q (%v)", o.stdout, err)
	}
}

type brokenPipe struct{}

func (brokenPipe) Write([]byte) (int, error) { return 0, os.ErrClosed }

func TestOutputThatCannotBeWrittenIsAFailure(t *testing.T) {
	u := newUser(t)
	var stderr strings.Builder
	code := run(t.Context(), Env{Args: []string{"checksum", u.key}, Stdout: brokenPipe{}, Stderr: &stderr,
		Getenv: func(string) string { return "" }, Columns: columns(0)}, timing{time.Now, sleep})
	outcome{code, "", stderr.String()}.wants(t, ExitFailure, "writing to standard output")
}
