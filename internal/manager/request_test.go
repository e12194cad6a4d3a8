package manager

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ultravioletrs/cocos/internal/vm"
	"github.com/ultravioletrs/cocos/keys"
	"github.com/ultravioletrs/cocos/manifest"
)

const goodID = "0b9c7d3e-5a1f-4c2b-8e6d-7f0a1b2c3d4e"

var testNow = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

// pair is a certificate valid around testNow unless edit changes that, with its
// key, as PEM.
func pair(t *testing.T, edit func(*x509.Certificate)) (cert, key []byte) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"},
		NotBefore: testNow.Add(-time.Hour), NotAfter: testNow.Add(time.Hour), BasicConstraintsValid: true}
	if edit != nil {
		edit(c)
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, k.Public(), k)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})
}

// imageOf makes the algorithm a container with this unpacked_max.
func imageOf(m *manifest.Manifest, unpacked int64) {
	m.Algorithm.Type, m.Algorithm.Image = manifest.Container, manifest.Image{Config: manifest.Digest{1}, UnpackedMax: unpacked}
}

// TestJudge gives requests that are right in all but what the case changes.
func TestJudge(t *testing.T) {
	cert, key := pair(t, nil)
	otherCert, _ := pair(t, nil)
	oldCert, oldKey := pair(t, func(c *x509.Certificate) { c.NotAfter = testNow.Add(-time.Minute) })
	earlyCert, earlyKey := pair(t, func(c *x509.Certificate) { c.NotBefore = testNow.Add(time.Minute) })
	ca, _ := pair(t, func(c *x509.Certificate) { c.IsCA = true })
	stranger, err := keys.Generate(keys.Ed25519)
	if err != nil {
		t.Fatal(err)
	}
	approval := func(k keys.Private, f manifest.Frozen) Approval {
		a, err := f.Approve(k)
		if err != nil {
			t.Fatal(err)
		}
		return Approval{PublicKey: a.PublicKey.SPKI(), Signature: a.Signature}
	}
	with := func(edit func(*manifest.Manifest)) func(*RunRequest) {
		return func(r *RunRequest) {
			m := testManifest()
			edit(&m)
			f := freeze(t, m)
			r.Manifest = f.Raw
			if len(m.Approvals) > 0 {
				r.Approvals = []Approval{approval(testKey(), f)}
			}
		}
	}
	asksApproval := with(func(m *manifest.Manifest) { m.Approvals = []keys.Public{testKey().Public()} })

	for name, c := range map[string]struct {
		edit func(*RunRequest)
		// want lists reason and field of each fault; says a part of one message.
		want []string
		says string
	}{
		"good":                   {edit: func(*RunRequest) {}},
		"approved":               {edit: asksApproval},
		"own certificate":        {edit: func(r *RunRequest) { r.Agent.ServerCert, r.Agent.ServerKey = cert, key }},
		"mutual TLS":             {edit: func(r *RunRequest) { r.Agent.ClientCACerts = ca }},
		"two authorities":        {edit: func(r *RunRequest) { r.Agent.ClientCACerts = slices.Concat(ca, ca) }},
		"port and level":         {edit: func(r *RunRequest) { r.Agent.Port, r.Agent.LogLevel = 443, "debug" }},
		"no id":                  {func(r *RunRequest) { r.RunID = "" }, []string{"INVALID run_id"}, "not a UUID"},
		"id upper case":          {func(r *RunRequest) { r.RunID = strings.ToUpper(goodID) }, []string{"INVALID run_id"}, "canonical"},
		"id in braces":           {func(r *RunRequest) { r.RunID = "{" + goodID + "}" }, []string{"INVALID run_id"}, ""},
		"id as path":             {func(r *RunRequest) { r.RunID = "../" + goodID }, []string{"INVALID run_id"}, ""},
		"id of zeros":            {func(r *RunRequest) { r.RunID = "00000000-0000-0000-0000-000000000000" }, []string{"INVALID run_id"}, ""},
		"no manifest":            {func(r *RunRequest) { r.Manifest = nil }, []string{"INVALID manifest"}, ""},
		"manifest not canonical": {func(r *RunRequest) { r.Manifest = append(r.Manifest, ' ') }, []string{"INVALID manifest"}, "canonical"},
		"manifest field": {func(r *RunRequest) {
			r.Manifest = bytes.Replace(r.Manifest, []byte(`"size":20`), []byte(`"size":-1`), 1)
		},
			[]string{"INVALID manifest/datasets/0/size"}, ""},
		"unknown algorithm type": {func(r *RunRequest) {
			r.Manifest = bytes.Replace(r.Manifest, []byte(`"python"`), []byte(`"fortran"`), 1)
		},
			[]string{"INVALID manifest/algorithm/type"}, "fortran"},
		"tee":          {with(func(m *manifest.Manifest) { m.TEE = manifest.TEESNP }), []string{"UNSUPPORTED manifest/tee"}, "of this host are plain"},
		"simulated":    {with(func(m *manifest.Manifest) { m.TEE = manifest.TEESim }), []string{"UNSUPPORTED manifest/tee"}, "of this host are plain"},
		"attested tls": {with(func(m *manifest.Manifest) { m.TEE, m.AttestedTLS = manifest.TEETDX, true }), []string{"UNSUPPORTED manifest/tee"}, "plain"},
		"fits exactly": {edit: with(func(m *manifest.Manifest) { m.Datasets[0].Size = 1024<<20 - guestReserve - 10 })},
		"one byte too much": {with(func(m *manifest.Manifest) { m.Datasets[0].Size = 1024<<20 - guestReserve - 9 }),
			[]string{"NO_CAPACITY manifest/datasets"}, "has room for"},
		"a folder that unpacks to one byte too much": {with(func(m *manifest.Manifest) { m.Datasets[0].UnpackedMax = 1024<<20 - guestReserve - 29 }),
			[]string{"NO_CAPACITY manifest/datasets"}, "unpack to"},
		"an image fits exactly": {edit: with(func(m *manifest.Manifest) { imageOf(m, 1024<<20-guestReserve-30) })},
		"an image of one byte too much": {with(func(m *manifest.Manifest) { imageOf(m, 1024<<20-guestReserve-29) }),
			[]string{"NO_CAPACITY manifest/datasets"}, "unpack to"},
		"as large as can be": {with(func(m *manifest.Manifest) { m.Datasets[0].Size = manifest.MaxInputSize }),
			[]string{"NO_CAPACITY manifest/datasets"}, ""},
		"a file that does not fit": {with(func(m *manifest.Manifest) {
			m.Algorithm.Files = []manifest.File{{Name: "model", SHA256: m.Datasets[0].SHA256, Size: 1, UnpackedMax: 1024<<20 - guestReserve - 30}}
		}), []string{"NO_CAPACITY manifest/datasets"}, "has room for"},
		"inputs on a scratch disk": {edit: with(func(m *manifest.Manifest) {
			m.Datasets[0].Size, m.Datasets[0].UnpackedMax, m.ScratchBytes = 1<<39, 1<<39, 3<<39
		})},
		"a program beside a scratch disk": {with(func(m *manifest.Manifest) {
			m.Algorithm.Size, m.ScratchBytes = 1024<<20-guestReserve+1, 2<<30
		}), []string{"NO_CAPACITY manifest/algorithm"}, "can't be on the scratch disk"},
		"an image's archive on a scratch disk": {edit: with(func(m *manifest.Manifest) {
			imageOf(m, 1024<<20-guestReserve)
			m.Algorithm.Size, m.ScratchBytes = 1<<30, 4<<30
		})},
		"approval missing": {func(r *RunRequest) { asksApproval(r); r.Approvals = nil }, []string{"INVALID approvals"}, "lack"},
		"approval of another manifest": {func(r *RunRequest) {
			asksApproval(r)
			r.Approvals = []Approval{approval(testKey(), freeze(t, testManifest()))}
		}, []string{"INVALID approvals/0"}, "does not verify"},
		"approval by a stranger": {func(r *RunRequest) {
			asksApproval(r)
			f, _ := manifest.Parse(r.Manifest)
			r.Approvals = append(r.Approvals, approval(stranger, f))
		}, []string{"INVALID approvals/1"}, ""},
		"approval cut": {func(r *RunRequest) { asksApproval(r); r.Approvals[0].Signature = r.Approvals[0].Signature[1:] },
			[]string{"INVALID approvals/0"}, ""},
		"approval's key broken": {func(r *RunRequest) { asksApproval(r); r.Approvals[0].PublicKey = []byte("key") },
			[]string{"INVALID approvals/0/public_key"}, ""},
		"port too high":   {func(r *RunRequest) { r.Agent.Port = 65536 }, []string{"INVALID agent_config/port"}, "65536"},
		"level unknown":   {func(r *RunRequest) { r.Agent.LogLevel = "loud" }, []string{"INVALID agent_config/log_level"}, "loud"},
		"cert alone":      {func(r *RunRequest) { r.Agent.ServerCert = cert }, []string{"INVALID agent_config/server_key"}, "missing"},
		"key alone":       {func(r *RunRequest) { r.Agent.ServerKey = key }, []string{"INVALID agent_config/server_cert"}, "missing"},
		"cert not PEM":    {func(r *RunRequest) { r.Agent.ServerCert, r.Agent.ServerKey = []byte("x"), key }, []string{"INVALID agent_config/server_cert"}, "not PEM"},
		"cert is a key":   {func(r *RunRequest) { r.Agent.ServerCert, r.Agent.ServerKey = key, key }, []string{"INVALID agent_config/server_cert"}, "PRIVATE KEY"},
		"key not PEM":     {func(r *RunRequest) { r.Agent.ServerCert, r.Agent.ServerKey = cert, []byte("x") }, []string{"INVALID agent_config/server_key"}, ""},
		"pair of two":     {func(r *RunRequest) { r.Agent.ServerCert, r.Agent.ServerKey = otherCert, key }, []string{"INVALID agent_config/server_key"}, "does not go with"},
		"cert expired":    {func(r *RunRequest) { r.Agent.ServerCert, r.Agent.ServerKey = oldCert, oldKey }, []string{"INVALID agent_config/server_cert"}, "expired"},
		"cert too early":  {func(r *RunRequest) { r.Agent.ServerCert, r.Agent.ServerKey = earlyCert, earlyKey }, []string{"INVALID agent_config/server_cert"}, "valid only from"},
		"ca not PEM":      {func(r *RunRequest) { r.Agent.ClientCACerts = []byte("x") }, []string{"INVALID agent_config/client_ca_certs"}, "not PEM"},
		"ca with rubbish": {func(r *RunRequest) { r.Agent.ClientCACerts = slices.Concat(ca, []byte("x")) }, []string{"INVALID agent_config/client_ca_certs"}, "not PEM"},
		"ca is no ca":     {func(r *RunRequest) { r.Agent.ClientCACerts = cert }, []string{"INVALID agent_config/client_ca_certs"}, "not of an authority"},
		"ca too long":     {func(r *RunRequest) { r.Agent.ClientCACerts = make([]byte, maxPEM+1) }, []string{"INVALID agent_config/client_ca_certs"}, "at most"},
		"everything": {func(r *RunRequest) {
			r.RunID, r.Manifest = "x", []byte("{}")
			r.Approvals = []Approval{{PublicKey: []byte("key")}}
			r.Agent = AgentConfig{Port: 1 << 20, LogLevel: "loud", ServerCert: cert, ClientCACerts: cert}
		}, []string{"INVALID run_id", "INVALID manifest/version", "INVALID approvals/0/public_key", "INVALID agent_config/port",
			"INVALID agent_config/log_level", "INVALID agent_config/server_key", "INVALID agent_config/client_ca_certs"}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			r := RunRequest{RunID: goodID, Manifest: freeze(t, testManifest()).Raw}
			c.edit(&r)
			v, faults := judge(r, testHost("qemu", "kernel", "initrd"), testNow)
			var got []string
			for _, f := range faults {
				got = append(got, string(f.Reason)+" "+f.Field)
				if f.Message == "" || f.Hint == "" {
					t.Errorf("fault without a message or a hint: %+v", f)
				}
			}
			if name == "everything" {
				// The manifest alone has many.
				for _, w := range c.want {
					if !slices.Contains(got, w) {
						t.Errorf("%s is not among %q", w, got)
					}
				}
				return
			}
			if !slices.Equal(got, c.want) || !strings.Contains(FaultsError(faults), c.says) {
				t.Errorf("faults %q (%s)\nexpected %q with %q", got, FaultsError(faults), c.want, c.says)
			}
			if len(faults) == 0 && v.frozen.Digest != manifest.Sum(r.Manifest) {
				t.Error("the verdict is on another manifest")
			}
		})
	}
}

func TestJudgeFillsIn(t *testing.T) {
	r := RunRequest{RunID: goodID, Manifest: freeze(t, testManifest()).Raw}
	host := testHost("qemu", "kernel", "initrd")
	v, faults := judge(r, host, testNow)
	if len(faults) > 0 {
		t.Fatal(FaultsError(faults))
	}
	if v.agent.Port != vm.AgentPort || v.agent.LogLevel != "info" || v.agent.Address != host.GuestAddress || v.agent.Gateway != host.GuestGateway {
		t.Errorf("agent configuration %+v", v.agent)
	}
}
