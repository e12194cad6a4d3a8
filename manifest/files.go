package manifest

import (
	"fmt"
	"slices"
)

// File is an input of the algorithm's provider beside the program: what the
// algorithm finds under Name in the folder that COCOS_FILES names.
type File struct {
	Name string `json:"name"`
	// SHA256 or Commitment names what is uploaded; the other is zero.
	SHA256     Digest     `json:"sha256,omitzero"`
	Commitment Commitment `json:"commitment,omitzero"`
	// Size in bytes of what is uploaded: the file, or the archive.
	Size int64 `json:"size"`
	// UnpackedMax set: the upload is a deterministic archive of a folder, and what
	// comes out of it is at most so many bytes.
	UnpackedMax int64 `json:"unpacked_max,omitzero"`
}

// Content of what is uploaded.
func (f *File) Content() Content { return Content{f.SHA256, f.Commitment} }

// Packages is what is installed for a Python script before it starts, without a
// network.
type Packages struct {
	// Requirements is the one of the files that is a requirements.txt.
	Requirements string `json:"requirements"`
	// Wheels is the one that is a folder of wheels (*.whl).
	Wheels string `json:"wheels"`
}

const maxFiles = 64

// PythonUserBase is the variable by which a script finds its packages.
const PythonUserBase = "PYTHONUSERBASE"

// packagesEnv are variables that an algorithm with packages can't set: they would
// hide these from it.
var packagesEnv = []string{PythonUserBase, "PYTHONNOUSERSITE"}

// File returns the algorithm's file of that name.
func (a *Algorithm) File(name string) (File, bool) {
	for _, f := range a.Files {
		if f.Name == name {
			return f, true
		}
	}
	return File{}, false
}

func (v *validator) files(a *Algorithm) {
	if len(a.Files) > maxFiles {
		v.add("/algorithm/files", "has %d entries; at most %d are allowed", len(a.Files), maxFiles)
	}
	seen := map[string]int{}
	for i, f := range a.Files {
		path := fmt.Sprintf("/algorithm/files/%d", i)
		v.name(path+"/name", f.Name)
		if first, dup := seen[f.Name]; dup {
			v.add(path+"/name", "is %q, as is that of /algorithm/files/%d", f.Name, first)
		} else {
			seen[f.Name] = i
		}
		v.content(path, f.Content())
		v.size(path+"/size", f.Size, 0)
		v.size(path+"/unpacked_max", f.UnpackedMax, 0)
	}
	v.python(a)
}

func (v *validator) python(a *Algorithm) {
	if a.Python == (Packages{}) {
		return
	}
	if a.Type != Python {
		if slices.Contains(AlgorithmTypes(), a.Type) {
			v.add("/algorithm/python", "is of algorithms of the type %q only", Python)
		}
		return
	}
	for _, name := range packagesEnv {
		if _, set := a.Env[name]; set {
			v.add("/algorithm/env/"+name, "would hide the packages of /algorithm/python; leave it out")
		}
	}
	for _, part := range []struct {
		path, name string
		folder     bool
		want       string
	}{
		{"/algorithm/python/requirements", a.Python.Requirements, false, "a file (no unpacked_max)"},
		{"/algorithm/python/wheels", a.Python.Wheels, true, "a folder of wheels (with unpacked_max)"},
	} {
		f, ok := a.File(part.name)
		switch {
		case part.name == "":
			v.add(part.path, "is missing or empty; name %s of /algorithm/files", part.want)
		case !ok:
			v.add(part.path, "is %q, and /algorithm/files has none of that name", part.name)
		case (f.UnpackedMax > 0) != part.folder:
			v.add(part.path, "is %q; expected %s", part.name, part.want)
		}
	}
}
