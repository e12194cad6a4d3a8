package hal

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// description is what a JSON file beside an artefact says of it.
type description interface{ Validate() error }

// encode returns the text of the file called name. Nothing is written that
// decode would refuse.
func encode(name string, d description) ([]byte, error) {
	if err := d.Validate(); err != nil {
		return nil, err
	}
	b, err := json.MarshalIndent(d, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("writing %s: %w", name, err)
	}
	return append(b, '\n'), nil
}

// decode reads that text. Unknown fields, text behind the end and what is not
// valid are errors.
func decode[D description](name string, b []byte) (D, error) {
	var d, none D
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&d); err != nil {
		return none, fmt.Errorf("parsing %s: %w", name, err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return none, fmt.Errorf("parsing %s: text after the end", name)
	}
	if err := d.Validate(); err != nil {
		return none, err
	}
	return d, nil
}
