package runtime

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/ultravioletrs/cocos/manifest"
)

// A Python script's packages are installed before it starts, by a process that is
// as confined as the script and has the same limits: pip of the runtime disk, from
// the folder of wheels alone, into a folder of /tmp that is the script's user base.
// What the disk has already and the requirements take is not installed again; what
// they don't take is found before the disk's.

const (
	// pipPath is a folder that Python starts as a program (hal/build puts it there).
	pipPath      = "/usr/lib/cocos-pip"
	packagesPath = "/tmp/packages"
	userBase     = manifest.PythonUserBase + "=" + packagesPath
)

// command is a program that is started in the algorithm's root.
type command struct {
	// Exec is the file; Argv has its name first.
	Exec      string
	Argv, Env []string
	Dir       string
	// Stdout is where its standard output goes; its standard error goes to 2.
	Stdout uintptr
}

func (s *setup) algorithm() command {
	return command{Exec: s.Exec, Argv: s.Argv, Env: s.Env, Dir: s.WorkDir, Stdout: 1}
}

// setupPackages has pip started before the script.
func (r *Runner) setupPackages(s *setup, p manifest.Packages) error {
	if err := existsIn(r.Root, pipPath+"/__main__.py"); err != nil {
		return fmt.Errorf("the manifest has packages for the script (/algorithm/python), and the runtime disk has no pip; use an image that has: %w", err)
	}
	if p.Requirements == "" || p.Wheels == "" {
		return errors.New("the packages of the script (/algorithm/python) need both requirements and wheels")
	}
	in := workPath + "/" + filesDir + "/"
	// Nothing of the manifest's variables, nor of a configuration, changes what pip
	// does (-I, --isolated), and what a requirements file can say leads nowhere but
	// to the same folder: there is no network.
	s.Install = &command{
		Exec: pythonPath,
		Argv: []string{
			pythonPath, "-I", pipPath, "install", "--isolated", "--no-input", "--no-color", "--progress-bar", "off",
			"--disable-pip-version-check", "--use-deprecated", "legacy-certs", "--no-cache-dir", "--retries", "0", "--no-warn-script-location", "--no-compile",
			"--no-index", "--find-links", in + p.Wheels, "--only-binary", ":all:",
			"--user", "--break-system-packages", "-r", in + p.Requirements,
		},
		Env: append(environment(defaultPath, nil, nil), userBase),
		Dir: workPath,
		// Standard output is the script's alone.
		Stdout: 2,
	}
	s.Env = slices.DeleteFunc(s.Env, func(v string) bool { return strings.HasPrefix(v, manifest.PythonUserBase+"=") })
	s.Env = append(s.Env, userBase)
	return nil
}
