package console

import (
	"errors"
	"fmt"
	"io"
	"path"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/ultravioletrs/cocos/internal/computations"
	"github.com/ultravioletrs/cocos/manifest"
)

// describedFile is what cocos-cli checksum --json prints of a file or folder; or a
// file as assets show --json and manifests have it.
type describedFile struct {
	Path        string              `json:"path"`
	Name        string              `json:"name"`
	Kind        string              `json:"kind"`
	SHA256      manifest.Digest     `json:"sha256"`
	Commitment  manifest.Commitment `json:"commitment"`
	Size        int64               `json:"size"`
	UnpackedMax int64               `json:"unpacked_max"`
}

// file takes the end of the path for its name, and the archive's size for what is
// in it.
func (d *describedFile) file() manifest.File {
	f := manifest.File{Name: d.Name, SHA256: d.SHA256, Commitment: d.Commitment, Size: d.Size, UnpackedMax: d.UnpackedMax}
	if f.Name == "" && d.Path != "" {
		f.Name = path.Base(strings.ReplaceAll(d.Path, `\`, "/"))
	}
	if f.UnpackedMax == 0 && d.Kind == "archive" {
		f.UnpackedMax = d.Size
	}
	return f
}

// maxFiles is more than a manifest takes, which the use cases refuse.
const maxFiles = 100

// filesOf reads JSON objects one after the other, or in a list.
func filesOf(field, text string) (files []manifest.File, err error) {
	text = strings.TrimSpace(text)
	if list, ok := strings.CutPrefix(text, "["); ok {
		var all []describedFile
		if err := json.Unmarshal([]byte("["+list), &all, json.RejectUnknownMembers(true)); err != nil {
			return nil, unreadable(field, -1, err)
		}
		for i := range all {
			files = append(files, all[i].file())
		}
		return files, nil
	}
	d := jsontext.NewDecoder(strings.NewReader(text), json.RejectUnknownMembers(true))
	for len(files) < maxFiles {
		var one describedFile
		err := json.UnmarshalDecode(d, &one)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, unreadable(field, len(files), err)
		}
		files = append(files, one.file())
	}
	return files, nil
}

// unreadable says which of the files can't be read, n of them before it; -1: its
// place says so.
func unreadable(field string, n int, err error) error {
	where := ""
	if n >= 0 {
		where = "file " + strconv.Itoa(n+1) + ", "
	}
	var semantic *json.SemanticError
	what := "is not JSON as the command prints it"
	if errors.As(err, &semantic) {
		if p := plainField(string(semantic.JSONPointer)); p != "" {
			where += p + " "
		}
		switch {
		case errors.Is(err, json.ErrUnknownName):
			what = "is not known"
		case semantic.Err != nil:
			what = semantic.Err.Error()
		default:
			what = "is not of the type that belongs there"
		}
	}
	return invalid(field, "can't be read: "+strings.TrimRight(where, ", ")+" "+what, "put in what cocos-cli checksum --json prints, one line for each file or folder")
}

// rows are the lines of a text that say something.
func rows(text string) (all []string) {
	for line := range strings.SplitSeq(lines(text), "\n") {
		if line = strings.TrimSpace(line); line != "" {
			all = append(all, line)
		}
	}
	return all
}

// takeInputs reads what a form says of files, packages and a source.
func (q *call) takeInputs(a *computations.Asset, bad *faults) {
	var err error
	if a.Files, err = filesOf("files", q.post("files")); err != nil {
		bad.add(err)
	}
	a.Python = manifest.Packages{Requirements: q.post("python/requirements"), Wheels: q.post("python/wheels")}
	a.Source = manifest.Source{
		URL: q.post("source/url"), Endpoint: q.post("source/endpoint"), Region: q.post("source/region"),
		Encryption: manifest.Encryption(q.post("source/encryption")), Broker: q.post("source/broker"), Resource: q.post("source/resource"),
		Redirects: rows(q.post("source/redirects")), Authorities: lines(q.post("source/authorities")),
	}
}

// onFields says faults of single files and lines of the fields that they stand in.
func onFields(err error) error {
	for _, e := range refusals(err) {
		for _, field := range []string{"files", "source/redirects"} {
			if rest, ok := strings.CutPrefix(e.Field, field+"/"); ok {
				last := field[strings.LastIndex(field, "/")+1:]
				e.Field, e.Message = field, plainField(last+"/"+rest)+" "+e.Message
			}
		}
		if e.Field == "python" {
			e.Field = "python/requirements"
		}
	}
	return err
}

// encryptionChoices are those of a dataset at its source.
func encryptionChoices() []choice {
	return []choice{
		{Value: "", Text: "Not at all", Hint: "Whoever can read the server can read it."},
		{Value: string(manifest.Age), Text: "age", Hint: "A file that age (age-encryption.org) encrypted to a key of yours."},
		{Value: string(manifest.OCICrypt), Text: "ocicrypt", Hint: "An encrypted layer of an image, for oci:// alone."},
	}
}

// scratchChoices are those of a disk for inputs.
func scratchChoices() []choice {
	return []choice{
		{Value: "auto", Text: "If the inputs need more than " + sizeText(computations.ScratchFrom)},
		{Value: string(computations.ScratchAlways), Text: "Always"},
		{Value: string(computations.ScratchNever), Text: "Never: inputs are held in the VM’s memory"},
	}
}

// scratchForm shows a draft's choice, scratchOf reads it.
func scratchForm(f *form, d *computations.Draft) {
	f.set("scratch", "auto").set("scratch_bytes", sizeText(d.ScratchBytes))
	if d.Scratch != computations.ScratchAuto {
		f.set("scratch", string(d.Scratch))
	}
}

// scratchOf: a size means a disk, so that always says nothing beside it.
func scratchOf(choice string, bytes int64) (computations.Scratch, int64) {
	s := computations.Scratch(choice)
	if s == "auto" || s == computations.ScratchAlways && bytes > 0 {
		s = computations.ScratchAuto
	}
	return s, bytes
}

// disk says in words where inputs lie.
func disk(bytes int64) string {
	if bytes == 0 {
		return "In the VM’s memory."
	}
	return fmt.Sprintf("On a disk of %s that the VM encrypts. Its key never leaves the VM.", size(bytes))
}

// inClearText is of a source that comes in the clear.
const inClearText = "over plain http, not encrypted: the host and everyone on the way read it."

// reach says before freezing what the VM connects to and where inputs lie, where
// that isn't as in most computations.
func reach(m *manifest.Manifest) (all []string) {
	for _, server := range m.Servers() {
		all = append(all, "The agent will connect to "+server+", to fetch a dataset or its key.")
	}
	for _, d := range m.Datasets {
		if d.Source.InClear() {
			all = append(all, "The dataset "+d.Name+" comes "+inClearText)
		}
	}
	if m.ScratchBytes > 0 {
		all = append(all, "Inputs lie on a disk of "+size(m.ScratchBytes)+" that the VM encrypts.")
	}
	return all
}
