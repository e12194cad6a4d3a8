// Package cocos_test holds the tests of the repository as a whole.
package cocos_test

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"strings"
	"testing"
)

const module = "github.com/ultravioletrs/cocos/"

// layer is a floor of the house. A package imports from its own floor (but an
// application from no other application) and from those below.
type layer int

const (
	core layer = iota
	contract
	mechanism
	application
	wiring // commands, and the tests that put several processes together
)

func (l layer) String() string {
	return [...]string{"core", "contract", "mechanism", "application", "wiring"}[l]
}

// floors names every package, or the root of a family of packages. One that is
// not here fails the test: decide where it lives before you write it.
var floors = map[string]layer{
	"manifest":         core,
	"keys":             core,
	"attest":           core,
	"internal/vm":      core,
	"internal/version": core,

	"api": contract,

	"atls":                            mechanism,
	"attest/appraisal":                mechanism,
	"attest/collateral":               mechanism,
	"attest/explain":                  mechanism,
	"attest/intel":                    mechanism,
	"attest/sgx":                      mechanism,
	"attest/sim":                      mechanism,
	"attest/snp":                      mechanism,
	"attest/tdx":                      mechanism,
	"attest/tsm":                      mechanism,
	"hal":                             mechanism,
	"internal/archive":                mechanism,
	"internal/bulk":                   mechanism,
	"internal/bytesize":               mechanism,
	"internal/callauth":               mechanism,
	"internal/computations":           mechanism,
	"internal/config":                 mechanism,
	"internal/dm":                     mechanism,
	"internal/erofs":                  mechanism,
	"internal/computations/authority": mechanism,
	"internal/egress":                 mechanism,
	"internal/hostcheck":              mechanism,
	"internal/keybroker":              mechanism,
	"internal/oci":                    mechanism,
	"internal/oidc":                   mechanism,
	"internal/qcow2":                  mechanism,
	"internal/qemu":                   mechanism,
	"internal/recent":                 mechanism,
	"internal/rpcerr":                 mechanism,
	"internal/runtime":                mechanism,
	"internal/scratch":                mechanism,
	"internal/sdnotify":               mechanism,
	"internal/source":                 mechanism,
	"internal/spool":                  mechanism,
	"internal/store":                  mechanism,
	"internal/telemetry":              mechanism,
	"internal/vsock":                  mechanism,
	"receipt":                         mechanism,

	"internal/agent":                application,
	"internal/cli":                  application,
	"internal/computations/fleet":   application,
	"internal/computations/userapi": application,
	"internal/console":              application,
	"internal/guest":                application,
	"internal/manager":              application,
	"internal/shim":                 application,

	"cmd":       wiring,
	"examples":  wiring,
	"packaging": wiring,
	"scripts":   wiring,
	"test":      wiring,
}

type goPackage struct {
	ImportPath string
	Name       string
	Doc        string
	Imports    []string
	GoFiles    []string
}

func TestArchitecture(t *testing.T) {
	for _, p := range packages(t) {
		path, ours := strings.CutPrefix(p.ImportPath, module)
		if !ours {
			continue // this file's own package
		}
		family, floor, ok := floorOf(path)
		if !ok {
			t.Errorf("%s has no floor: add it to the table in this test, in its place", path)
			continue
		}
		if len(p.GoFiles) > 0 && p.Doc == "" && floor != contract {
			t.Errorf("%s has no package comment", path)
		}
		for _, imp := range p.Imports {
			imp, ours := strings.CutPrefix(imp, module)
			if !ours {
				continue
			}
			otherFamily, other, ok := floorOf(imp)
			switch {
			case !ok:
				// Reported for the package itself.
			case other > floor:
				t.Errorf("%s (%s) imports %s (%s): imports go down only", path, floor, imp, other)
			case floor == application && other == application && family != otherFamily:
				t.Errorf("%s imports %s: applications meet through api, never directly", path, imp)
			case floor == mechanism && other == contract:
				t.Errorf("%s imports %s: generated types stop at the applications' handlers", path, imp)
			}
		}
	}
}

// TestUnsafeIsConfined: memory that a guest shares is the only reason for it,
// and system calls that the x/sys package does not wrap.
func TestUnsafeIsConfined(t *testing.T) {
	allowed := []string{"internal/vsock", "internal/dm", "internal/guest", "internal/runtime", "internal/hostcheck", "attest/tsm", "api/"}
	for _, p := range packages(t) {
		path := strings.TrimPrefix(p.ImportPath, module)
		for _, imp := range p.Imports {
			if imp != "unsafe" {
				continue
			}
			ok := false
			for _, a := range allowed {
				ok = ok || strings.HasPrefix(path, a)
			}
			if !ok {
				t.Errorf("%s imports unsafe", path)
			}
		}
	}
}

// floorOf finds the longest entry of floors that path lies in.
func floorOf(path string) (family string, floor layer, ok bool) {
	for name, l := range floors {
		if (path == name || strings.HasPrefix(path, name+"/")) && len(name) > len(family) {
			family, floor, ok = name, l, true
		}
	}
	return family, floor, ok
}

func packages(t *testing.T) []goPackage {
	t.Helper()
	cmd := exec.Command("go", "list", "-json=ImportPath,Name,Doc,Imports,GoFiles", "./...")
	out, err := cmd.Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			t.Fatalf("go list: %v\n%s", err, exit.Stderr)
		}
		t.Fatalf("go list: %v", err)
	}
	var ps []goPackage
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p goPackage
		if err := dec.Decode(&p); err == io.EOF {
			break
		} else if err != nil {
			t.Fatalf("reading go list: %v", err)
		}
		ps = append(ps, p)
	}
	if len(ps) < 5 {
		t.Fatalf("go list names %d packages only", len(ps))
	}
	return ps
}
