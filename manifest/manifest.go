// Package manifest is the Computation Manifest: what a computation is, who
// brings what, who must agree and who gets the result.
//
// A frozen manifest is its canonical JSON (RFC 8785) of at most MaxSize bytes,
// and its name is the SHA-256 of these bytes, the manifest digest. Bytes that
// come from elsewhere are hashed as they are and parsed afterwards; a form that
// is not canonical, an unknown key and a key given twice are refused, so that
// no two readers can understand the same bytes differently.
//
// There is one Go type from the service to the agent's runtime. Validate finds
// every fault and names each with its JSON path. Approvals travel beside the
// manifest, never inside it: they sign its digest.
package manifest

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"github.com/ultravioletrs/cocos/keys"
)

const (
	// Version is the manifest version that this package reads.
	Version = 1
	// MaxSize bounds a frozen manifest, in bytes.
	MaxSize = 1 << 20
)

// Manifest says everything that a computation depends on.
type Manifest struct {
	Version     int    `json:"version"`
	ID          string `json:"id"`
	Name        string `json:"name"`
	Description string `json:"description,omitzero"`
	// Nonce makes a copy a computation of its own, which needs new approvals.
	Nonce Nonce `json:"nonce"`
	TEE   TEE   `json:"tee"`
	// AttestedTLS: participants talk to the agent over attested TLS only.
	AttestedTLS bool `json:"attested_tls"`
	// Approvals lists the keys that must sign the digest before it runs.
	Approvals []keys.Public `json:"approvals,omitzero"`
	Algorithm Algorithm     `json:"algorithm"`
	Datasets  []Dataset     `json:"datasets,omitzero"`
	Consumers []keys.Public `json:"consumers"`
	Outputs   Outputs       `json:"outputs,omitzero"`
	// ScratchBytes is the size of the disk that the Manager attaches for inputs,
	// which the agent encrypts; 0: inputs are held in memory.
	ScratchBytes int64 `json:"scratch_bytes,omitzero"`
}

// Algorithm is the program and how it is run.
type Algorithm struct {
	Type AlgorithmType `json:"type"`
	// Args follow the program's name.
	Args []string `json:"args,omitzero"`
	// Env is all that the program finds beside what its runtime sets.
	Env    map[string]string `json:"env,omitzero"`
	Limits Limits            `json:"limits,omitzero"`
	// SHA256 or Commitment names the content; the other is zero.
	SHA256     Digest     `json:"sha256,omitzero"`
	Commitment Commitment `json:"commitment,omitzero"`
	// Size in bytes.
	Size     int64       `json:"size"`
	Provider keys.Public `json:"provider"`
	// Image is set for a container, and for nothing else.
	Image Image `json:"image,omitzero"`
	// Files come beside the program, from its provider.
	Files []File `json:"files,omitzero"`
	// Python may be set for a script in Python, and for nothing else.
	Python Packages `json:"python,omitzero"`
}

// Image is the container image in the algorithm's archive.
type Image struct {
	// Name is one of the names that the archive has for the image; it may be empty
	// if the archive has one image under at most one name.
	Name string `json:"name,omitzero"`
	// Config is the digest of the image's config, which names all that is in it.
	Config Digest `json:"config"`
	// UnpackedMax bounds what all layers hold together, in bytes: 4 KiB for each
	// file, folder and link, and the content of files in whole blocks of 4 KiB.
	UnpackedMax int64 `json:"unpacked_max"`
}

// Limits bound a run; zero means the agent's default.
type Limits struct {
	MemoryBytes int64 `json:"memory_bytes,omitzero"`
	Processes   int64 `json:"processes,omitzero"`
	// Seconds of wall-clock time.
	Seconds int64 `json:"seconds,omitzero"`
	// OutputBytes bounds results, standard output and error together.
	OutputBytes int64 `json:"output_bytes,omitzero"`
	// CPUMilli bounds the share of processors, in thousandths of one.
	CPUMilli int64 `json:"cpu_milli,omitzero"`
}

// Dataset is one input.
type Dataset struct {
	// Name is the entry in the algorithm's datasets folder.
	Name     string      `json:"name"`
	Provider keys.Public `json:"provider"`
	// SHA256 or Commitment names what is uploaded; the other is zero.
	SHA256     Digest     `json:"sha256,omitzero"`
	Commitment Commitment `json:"commitment,omitzero"`
	// Size in bytes of what is uploaded: the file, or the archive.
	Size int64 `json:"size"`
	// UnpackedMax set: the upload is a deterministic archive of a folder, and
	// what comes out of it is at most so many bytes.
	UnpackedMax int64 `json:"unpacked_max,omitzero"`
	// Source set: the agent itself takes it from there.
	Source Source `json:"source,omitzero"`
}

// Outputs says what may leave the VM. Its zero value: the result archive, with
// standard output and error in it, to consumers only.
type Outputs struct {
	// ResultMax bounds the result archive in bytes; zero means the agent's default.
	ResultMax int64 `json:"result_max,omitzero"`
	// Pad: the archive is padded to ResultMax, so that its size says nothing.
	Pad bool `json:"pad,omitzero"`
	// Release says which consumer gets what; empty: each gets everything.
	Release []Release `json:"release,omitzero"`
	// OperatorOutput: what the algorithm prints goes to the host's operator, too.
	OperatorOutput bool `json:"operator_output,omitzero"`
}

// TEE names the kind of trusted execution environment a computation asks for.
type TEE string

// The kinds of TEE. TEENone is a plain VM: nothing vouches for it.
const (
	TEENone TEE = "none"
	TEESNP  TEE = "sev-snp"
	TEETDX  TEE = "tdx"
	TEESGX  TEE = "sgx"
	TEESim  TEE = "sim"
)

// TEEs lists them in the order in which texts show them.
func TEEs() []TEE { return []TEE{TEENone, TEESNP, TEETDX, TEESGX, TEESim} }

// AlgorithmType says how an algorithm is started.
type AlgorithmType string

// The types of algorithm.
const (
	// Binary is one ELF file, static or dynamic.
	Binary AlgorithmType = "binary"
	// Python is one script.
	Python AlgorithmType = "python"
	// Wasm is one WebAssembly module, a command for WASI preview 1.
	Wasm AlgorithmType = "wasm"
	// Container is an archive with a container image.
	Container AlgorithmType = "container"
)

// AlgorithmTypes lists them in the order in which texts show them.
func AlgorithmTypes() []AlgorithmType { return []AlgorithmType{Binary, Python, Wasm, Container} }

// Digest is a SHA-256; as text, 64 lower-case hexadecimal digits, the way
// sha256sum prints it.
type Digest [sha256.Size]byte

// Sum returns the digest of b.
func Sum(b []byte) Digest { return sha256.Sum256(b) }

// ParseDigest takes 64 lower-case hexadecimal digits, with or without
// "sha256:" before them.
func ParseDigest(s string) (d Digest, err error) {
	return d, d.UnmarshalText([]byte(strings.TrimPrefix(s, "sha256:")))
}

func (d Digest) String() string { return hex.EncodeToString(d[:]) }

// MarshalText is String.
func (d Digest) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText takes 64 lower-case hexadecimal digits.
func (d *Digest) UnmarshalText(b []byte) error { return unhex(d[:], b) }

// Nonce is 32 random bytes; as text, 64 lower-case hexadecimal digits.
type Nonce [32]byte

func (n Nonce) String() string { return hex.EncodeToString(n[:]) }

// MarshalText is String.
func (n Nonce) MarshalText() ([]byte, error) { return []byte(n.String()), nil }

// UnmarshalText takes 64 lower-case hexadecimal digits.
func (n *Nonce) UnmarshalText(b []byte) error { return unhex(n[:], b) }

func unhex(dst, text []byte) error {
	if len(text) != hex.EncodedLen(len(dst)) {
		return fmt.Errorf("has %d characters; expected %d hexadecimal digits", len(text), hex.EncodedLen(len(dst)))
	}
	if !bytes.Equal(text, bytes.ToLower(text)) {
		return errors.New("has upper-case digits; expected lower case")
	}
	if _, err := hex.Decode(dst, text); err != nil {
		return errors.New("is not hexadecimal")
	}
	return nil
}

// Frozen is a manifest with the bytes that name it.
type Frozen struct {
	Manifest
	// Raw is the canonical JSON; it must not be changed.
	Raw []byte
	// Digest is the SHA-256 of Raw.
	Digest Digest
}

// Freeze validates m and gives it its canonical bytes.
func Freeze(m Manifest) (Frozen, error) {
	if err := m.Validate(); err != nil {
		return Frozen{}, err
	}
	b, err := m.canonical()
	if err != nil {
		return Frozen{}, err
	}
	// Read back, so that what is frozen is known to be readable.
	return Parse(b)
}

// Parse takes a frozen manifest: canonical bytes of a valid manifest. The
// result keeps a copy of raw.
func Parse(raw []byte) (Frozen, error) {
	if len(raw) > MaxSize {
		return Frozen{}, Faults{{Message: fmt.Sprintf("manifest has %d bytes; at most %d are allowed", len(raw), MaxSize)}}
	}
	raw = bytes.Clone(raw)
	digest := Sum(raw)
	m, faults, whole := decode(raw)
	if whole {
		faults = faults.merge(m.validate())
	}
	if len(faults) > 0 {
		return Frozen{}, faults
	}
	if err := checkCanonical(raw, &m); err != nil {
		return Frozen{}, err
	}
	return Frozen{Manifest: m, Raw: raw, Digest: digest}, nil
}

// Decode takes a manifest as people write it, in any order and spacing. Unknown
// and duplicate keys are refused all the same. It does not validate.
func Decode(b []byte) (Manifest, error) {
	m, faults, _ := decode(b)
	if len(faults) > 0 {
		return Manifest{}, faults
	}
	return m, nil
}
