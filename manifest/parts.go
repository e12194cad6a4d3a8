package manifest

import "strings"

// ValidateFiles returns everything that is wrong with the files and packages of an
// algorithm, with paths from the algorithm on, such as "/files/0/name".
func (a *Algorithm) ValidateFiles() Faults {
	var v validator
	v.files(a)
	for i := range v.faults {
		v.faults[i].Path = strings.TrimPrefix(v.faults[i].Path, "/algorithm")
	}
	return v.faults
}

// Folders are the inputs of m that travel as archives, each by its size in bytes.
func (m *Manifest) Folders() (sizes []int64) {
	for _, f := range m.Algorithm.Files {
		if f.UnpackedMax > 0 {
			sizes = append(sizes, f.Size)
		}
	}
	for _, d := range m.Datasets {
		if d.UnpackedMax > 0 {
			sizes = append(sizes, d.Size)
		}
	}
	return sizes
}
