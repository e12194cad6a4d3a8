package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/spf13/cobra"

	agentv1 "github.com/ultravioletrs/cocos/api/agent/v1"
	"github.com/ultravioletrs/cocos/internal/source"
	"github.com/ultravioletrs/cocos/manifest"
)

// providing is a command line of data provide.
type providing struct {
	name, salt                   string
	secret, ageIdentity, private string // files
	fromEnv, noWait              bool
}

func (a *app) provideCmd() *cobra.Command {
	var o providing
	cmd := &cobra.Command{
		Use:   "provide",
		Short: "Hand over what it takes to have a dataset from its source",
		Long: `Hand over keys and credentials for a dataset that the agent takes from a source which
the manifest names: to the agent alone, after the same checks as before an upload. Then
wait until the agent has it.

--secret is a JSON object with what the source takes, and nothing else, of these members:
age (a list of identities), private_key (PEM or JWK), s3 (access_key, secret_key,
session_token), basic (username, password), bearer, token_server (HOST:PORT), salt.

Credentials come from files, or with --from-env from these variables: for s3://, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN;
for others COCOS_SOURCE_USERNAME and COCOS_SOURCE_PASSWORD, with COCOS_SOURCE_TOKEN_SERVER
(HOST:PORT) if a registry's token service is another server; or COCOS_SOURCE_TOKEN.

Without any of it the agent only tries again, and asks the key broker again, if the
source has one.`,
		Example: `  cocos-cli data provide --age-identity scans.key --agent 127.0.0.1:7020 \
    --policy policy.json --key bob.pem --manifest manifest.json
  cocos-cli data provide --name scans --secret scans.json --from-env \
    --agent 127.0.0.1:7020 --policy policy.json --key bob.pem --manifest manifest.json`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			id, err := a.identity()
			if err != nil {
				return err
			}
			if err := id.role(manifest.DatasetProvider); err != nil {
				return err
			}
			if err := a.unchanged(id); err != nil {
				return err
			}
			d, err := sourced(id, o.name)
			if err != nil {
				return err
			}
			req, err := a.provision(&d, &o)
			if err != nil {
				return err
			}
			p, err := a.connect(cmd, id, manifest.DatasetProvider)
			if err != nil {
				return err
			}
			defer p.close()
			return a.provide(cmd.Context(), p, &d, req, o.noWait)
		},
	}
	a.agentFlags(cmd)
	f := cmd.Flags()
	f.StringVar(&o.name, "name", "", "the dataset's `NAME` in the manifest (default: your only one with a source)")
	f.StringVar(&o.ageIdentity, "age-identity", "", "`FILE` with identities of age, as cocos-cli encrypt or age-keygen writes it")
	f.StringVar(&o.private, "private-key", "", "`FILE` with the private key of an image that ocicrypt has encrypted, in PEM or as JWK")
	f.StringVar(&o.secret, "secret", "", "`FILE` with a secret as a JSON object, to which the other flags add")
	f.BoolVar(&o.fromEnv, "from-env", false, "take credentials from the environment")
	f.BoolVar(&o.noWait, "no-wait", false, "don't wait until the agent has the dataset")
	saltFlag(f, &o.salt)
	complete(cmd, "name", func() []string {
		m, err := readManifest(a.conn.manifest)
		if err != nil {
			return nil
		}
		var s []string
		for _, d := range m.Datasets {
			if !d.Source.IsZero() {
				s = append(s, d.Name)
			}
		}
		return s
	})
	return cmd
}

// sourced finds the dataset of the caller's that has a source.
func sourced(id *identity, named string) (manifest.Dataset, error) {
	var have []manifest.Dataset
	for _, d := range own(id) {
		if !d.Source.IsZero() {
			have = append(have, d)
		}
	}
	if named != "" {
		for _, d := range have {
			if d.Name == named {
				return d, nil
			}
		}
		return manifest.Dataset{}, advise(fmt.Errorf("the manifest has no dataset %q with a source that is to come from your key", named),
			"it has: %s; others are uploaded with cocos-cli data PATH", orNone(names(have)))
	}
	switch len(have) {
	case 1:
		return have[0], nil
	case 0:
		return manifest.Dataset{}, advise(errors.New("the manifest has no dataset with a source that is to come from your key"), "upload yours: cocos-cli data PATH")
	}
	return manifest.Dataset{}, usagef("give one of them: "+names(have), "--name is missing: %d of your datasets have a source", len(have))
}

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}

// provision makes the request, and refuses here what the agent would refuse.
func (a *app) provision(d *manifest.Dataset, o *providing) (*agentv1.ProvideRequest, error) {
	const hint = "nothing was sent; cocos-cli data provide --help says what the source of a dataset takes"
	text, err := a.secretText(&d.Source, o)
	if err != nil {
		return nil, err
	}
	if d.Source.Broker != "" && text == nil && o.salt == "" {
		a.out.hint("nothing is handed over: the agent asks the key broker again")
		return &agentv1.ProvideRequest{Input: &agentv1.InputRef{Kind: agentv1.InputKind_INPUT_KIND_DATASET, Name: d.Name}}, nil
	}
	secret, err := source.ParseSecret(text)
	if err == nil {
		err = secret.Fits(d.Source)
	}
	if err != nil {
		return nil, advise(err, "%s", hint)
	}
	req := &agentv1.ProvideRequest{
		Input:  &agentv1.InputRef{Kind: agentv1.InputKind_INPUT_KIND_DATASET, Name: d.Name},
		Secret: text,
	}
	in := input{salt: secret.Salt}
	if o.salt != "" {
		if secret.Salt != nil {
			return nil, usagef("give it once", "--salt is given, and the secret has a salt, too")
		}
		if err := in.takeSalt(o.salt); err != nil {
			return nil, err
		}
		req.Salt = in.saltBytes()
	}
	return req, in.fitsSalt("the dataset "+d.Name, d.Content())
}

// secretText gathers a secret from files and the environment; nil: there is none.
func (a *app) secretText(s *manifest.Source, o *providing) ([]byte, error) {
	members := map[string]any{}
	if o.secret != "" {
		b, err := readSmall(o.secret, source.MaxSecret)
		if err != nil {
			return nil, fmt.Errorf("reading the secret: %w", err)
		}
		if b = bytes.TrimSpace(b); len(b) == 0 || b[0] != '{' {
			return nil, usagef("give a file of age-keygen with --age-identity, and a private key with --private-key", "--secret %s is not a JSON object", o.secret)
		}
		var there map[string]jsontext.Value
		if err := json.Unmarshal(b, &there); err != nil {
			return nil, usagef("write it as cocos-cli data provide --help says", "--secret %s is not a JSON object with each member once", o.secret)
		}
		for k, v := range there {
			members[k] = v
		}
	}
	add := func(flag, member string, value any) error {
		if _, twice := members[member]; twice {
			return usagef("give it once", "%s is given, and the secret has %s, too", flag, member)
		}
		members[member] = value
		return nil
	}
	if o.ageIdentity != "" {
		b, err := readSmall(o.ageIdentity, source.MaxSecret)
		if err != nil {
			return nil, fmt.Errorf("reading the identity: %w", err)
		}
		var ids []string
		for line := range strings.Lines(string(b)) {
			if line = strings.TrimSpace(line); line != "" && line[0] != '#' {
				ids = append(ids, line)
			}
		}
		if err := add("--age-identity", "age", ids); err != nil {
			return nil, err
		}
	}
	if o.private != "" {
		b, err := readSmall(o.private, source.MaxSecret)
		if err != nil {
			return nil, fmt.Errorf("reading the private key: %w", err)
		}
		if err := add("--private-key", "private_key", string(b)); err != nil {
			return nil, err
		}
	}
	if o.fromEnv {
		found := a.sourceCredentials(s)
		if len(found) == 0 {
			return nil, usagef("see cocos-cli data provide --help", "--from-env is given, and none of the variables for this source is set")
		}
		for member, value := range found {
			if err := add("--from-env", member, value); err != nil {
				return nil, err
			}
		}
	}
	if len(members) == 0 {
		return nil, nil
	}
	return json.Marshal(members, json.Deterministic(true))
}

// sourceCredentials are those of the environment, for the kind of source.
func (a *app) sourceCredentials(s *manifest.Source) map[string]any {
	take := func(names map[string]string) map[string]string {
		got := map[string]string{}
		for member, variable := range names {
			if v := a.env.Getenv(variable); v != "" {
				got[member] = v
			}
		}
		return got
	}
	members := map[string]any{}
	if strings.HasPrefix(s.URL, "s3:") {
		keys := take(map[string]string{"access_key": "AWS_ACCESS_KEY_ID", "secret_key": "AWS_SECRET_ACCESS_KEY", "session_token": "AWS_SESSION_TOKEN"})
		if len(keys) > 0 {
			members["s3"] = keys
		}
		return members
	}
	if basic := take(map[string]string{"username": "COCOS_SOURCE_USERNAME", "password": "COCOS_SOURCE_PASSWORD"}); len(basic) > 0 {
		members["basic"] = basic
	}
	for member, v := range take(map[string]string{"bearer": "COCOS_SOURCE_TOKEN", "token_server": "COCOS_SOURCE_TOKEN_SERVER"}) {
		members[member] = v
	}
	return members
}

// pollEvery is the time between two questions of how far the agent is.
const pollEvery = time.Second

// provided is what a script learns.
type provided struct {
	Input    string `json:"input"`
	Size     int64  `json:"size"`
	Received int64  `json:"received"`
	Complete bool   `json:"complete"`
}

func (a *app) provide(ctx context.Context, p *peer, d *manifest.Dataset, req *agentv1.ProvideRequest, noWait bool) error {
	what := "dataset " + d.Name
	doing := "handing over what the " + what + " takes"
	call, cancel := p.call(ctx)
	r, err := p.Provide(call, req)
	cancel()
	clear(req.Secret)
	if err != nil {
		return p.explain(doing, err)
	}
	st := r.GetState()
	u := &upload{ref: req.GetInput(), name: what, peer: p, try: retry{sleep: a.sleep, resume: "the agent goes on by itself; cocos-cli state shows how far it is"}}
	u.try.reached = true
	if !noWait {
		u.show = a.out.progress(what, d.Size)
		if st, err = u.follow(ctx, st); err != nil {
			u.show.stop()
			return err
		}
		u.show.done = d.Size
		u.show.finish("taken from its source:")
	}
	if a.out.json {
		return a.out.object(provided{what, d.Size, int64(st.GetReceived()), st.GetComplete()})
	}
	if st.GetComplete() {
		a.out.hint("the agent has verified the %s", what)
	} else {
		a.out.hint("the agent takes the %s from its source; cocos-cli state shows how far it is", what)
	}
	return nil
}

// follow waits until the agent has all of what it pulls, or ends with a problem.
func (u *upload) follow(ctx context.Context, st *agentv1.InputState) (*agentv1.InputState, error) {
	told := ""
	for {
		if p := st.GetProblem(); p != told && p != "" && st.GetPulling() {
			u.show.note("%s", p)
		}
		told = st.GetProblem()
		switch {
		case st.GetComplete():
			return st, nil
		case !st.GetPulling() && told == "":
			return nil, advise(fmt.Errorf("the agent no longer takes the %s with what was handed over: an upload of it, or another cocos-cli data provide, took its place", u.name),
				"cocos-cli state shows how far it is")
		case !st.GetPulling():
			return nil, advise(fmt.Errorf("the agent can't take the %s from its source: %s", u.name, clean(told)),
				"nothing of it is kept. Mend the cause and run the same command again, or upload it: cocos-cli data PATH")
		}
		u.show.set(int64(st.GetReceived()))
		if err := u.try.sleep(ctx, pollEvery); err != nil {
			return nil, err
		}
		for {
			next, err := u.status(ctx)
			if err == nil {
				u.try.progress(int64(next.GetReceived()) + 1)
				st = next
				break
			}
			if err := u.try.next(ctx, u.peer, u.show, "asking for the "+u.name, err); err != nil {
				return nil, err
			}
		}
	}
}
