package console_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/ultravioletrs/cocos/internal/computations"
	"github.com/ultravioletrs/cocos/internal/console"
	"github.com/ultravioletrs/cocos/manifest"
)

// TestCheckCommand: what a host says of its VM gets into a command only if it is an
// address and a key.
func TestCheckCommand(t *testing.T) {
	key := "sha256:" + strings.Repeat("ab", 32)
	for name, tc := range map[string]struct {
		attested     bool
		address, key string
		state        computations.RunState
		want         string
	}{
		"attested":        {true, "host.example:7020", "", computations.RunRunning, "cocos-cli state --agent host.example:7020 --manifest manifest-3c4d5e6f.json --key dora.pem --policy policy.json"},
		"pinned":          {false, "[::1]:7020", key, computations.RunRunning, "cocos-cli state --agent '[::1]:7020' --agent-key " + key + " --manifest manifest-3c4d5e6f.json --key dora.pem"},
		"no address yet":  {true, "", key, computations.RunRunning, ""},
		"ended":           {true, "host.example:7020", key, computations.RunFinished, ""},
		"address injects": {true, "host;reboot:7020", key, computations.RunRunning, ""},
		"port injects":    {true, "host.example:7020;reboot", key, computations.RunRunning, ""},
		"key injects":     {false, "host.example:7020", key + ";reboot", computations.RunRunning, ""},
		"key adds a flag": {false, "host.example:7020", "--agent-key=x", computations.RunRunning, ""},
		"no key":          {false, "host.example:7020", "", computations.RunRunning, ""},
	} {
		v := &computations.View{Frozen: &manifest.Frozen{}, KeyFile: "dora.pem"}
		v.ID, v.Frozen.AttestedTLS = "01990000-0000-7000-8000-00003c4d5e6f", tc.attested
		if got := console.CheckCommand(v, &computations.Run{AgentAddress: tc.address, AgentKey: tc.key, State: tc.state}); got != tc.want {
			t.Errorf("%s: %q, want %q", name, got, tc.want)
		}
	}
}

// TestKeysAreCalledAlike: the page of keys and the steps of a computation name the
// same files.
func TestKeysAreCalledAlike(t *testing.T) {
	w := newWorld(t)
	w.change("nemo", func(u *computations.User) { u.Email = "-né.mo+x@example.org" })
	w.check(w.svc.SetParts(t.Context(), w.who["carl"], w.things["draft"], w.users["nemo"], []computations.Part{computations.PartConsumer}))
	const command = "cocos-cli keys register n-.mo-x.pem"
	for _, path := range []string{"/keys", "/c/{draft}"} {
		if r := w.browse("nemo").get(w.path(path, false)); !slices.Contains(commands(r.body), command) {
			t.Errorf("%s has no %s, but %q", path, command, commands(r.body))
		}
	}
}

// TestCommandsHaveTheirValues: what the service knows nobody has to put in, and what
// one page calls a thing others call it, too.
func TestCommandsHaveTheirValues(t *testing.T) {
	w := newWorld(t)
	frozen, done := w.things["frozen"].Short(), w.things["done"].Short()
	for _, tc := range []struct{ who, path, command string }{
		{"rita", "/c/{frozen}", "cocos-cli manifest show manifest-" + frozen + ".json --key rita.pem"},
		{"vera", "/c/{frozen}", "cocos-cli manifest show manifest-" + frozen + ".json"},
		{"rita", "/c/{frozen}/approve", "cocos-cli manifest approve manifest-" + frozen + ".json --key rita.pem > approval.json"},
		{"rita", "/r/{done run}", "cocos-cli receipt verify run-" + done + "-1.receipt.json --manifest manifest-" + done + ".json --policy policy.json --result run-" + done + "-1"},
	} {
		r := w.browse(tc.who).get(w.path(tc.path, false))
		if !slices.Contains(commands(r.body), tc.command) {
			t.Errorf("%s has no %s, but %q", tc.path, tc.command, commands(r.body))
		}
	}
	for path, name := range map[string]string{"/c/{done}/manifest.json": "manifest-" + done + ".json", "/r/{done run}/receipt.json": "run-" + done + "-1.receipt.json"} {
		if got := w.browse("rita").get(w.path(path, false)).header.Get("Content-Disposition"); got != `attachment; filename="`+name+`"` {
			t.Errorf("%s is offered as %s, want %s", path, got, name)
		}
	}
	// The way by a file is one that a person finds.
	for who, may := range map[string]bool{"rita": true, "vera": false} {
		link := w.path("/c/{frozen}/approve", false)
		if got := strings.Contains(w.browse(who).get(w.path("/c/{frozen}", false)).body, `href="`+link+`"`); got != may {
			t.Errorf("%s finds %s: %v", who, link, got)
		}
	}
}

// TestWithoutPassword: who signs in elsewhere is asked for no password, by no form
// and by no command.
func TestWithoutPassword(t *testing.T) {
	w := newWorld(t, func(c *console.Config) { c.External = &console.External{Label: "Fjord ID"} })
	for _, password := range []bool{false, true} {
		if password {
			w.change("stan", func(u *computations.User) { u.PasswordHash = "of a password" })
		}
		settings, keys := w.browse("stan").get("/settings").body, w.browse("stan").get("/keys").body
		if got := strings.Contains(settings, `action="/settings/password"`); got != password {
			t.Errorf("password %v: the form is there: %v", password, got)
		}
		if got := strings.Contains(text(settings), "you sign in with Fjord ID"); got == password {
			t.Errorf("password %v: the way in is told: %v", password, got)
		}
		command := "cocos-cli login " + publicURL
		if !password {
			command += " --token-file -"
		}
		if !slices.Contains(commands(keys), command) || strings.Contains(keys, `href="/settings">Make a token`) == password {
			t.Errorf("password %v: %q\n%s", password, commands(keys), text(keys))
		}
	}
}
