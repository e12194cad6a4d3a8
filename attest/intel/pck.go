package intel

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"slices"
)

// pck is a platform's certificate, read (PCK Certificate Profile, "SGX
// Extensions"). That it is genuine is told by its chain.
type pck struct {
	certificate *x509.Certificate
	ppid        [16]byte
	components  [16]uint8 // security versions of the platform's parts
	pceSVN      uint16
	pceID       [2]byte
	fmspc       [6]byte
	// Of multi-package platforms alone.
	smt     *bool // hyper-threading is on
	dynamic *bool // packages may be added
}

// Arcs below Intel's extension 1.2.840.113741.1.13.1.
const (
	arcPPID          = 1
	arcTCB           = 2
	arcPCEID         = 3
	arcFMSPC         = 4
	arcConfiguration = 7
	arcPCESVN        = 17 // of arcTCB, after the 16 components
	arcCPUSVN        = 18
	arcDynamic       = 1 // of arcConfiguration
	arcSMT           = 3
)

var sgxExtensions = asn1.ObjectIdentifier{1, 2, 840, 113741, 1, 13, 1}

// readPCK reads what Intel says in a platform's certificate. What the profile
// requires must be there, once and well-formed.
func readPCK(c *x509.Certificate) (*pck, error) {
	p := &pck{certificate: c}
	if key, ok := c.PublicKey.(*ecdsa.PublicKey); !ok || key.Curve != elliptic.P256() {
		return nil, errors.New("the platform's key is not ECDSA P-256")
	}
	if c.IsCA {
		return nil, errors.New("the platform's certificate is an authority's")
	}
	// Certificates with an extension twice don't parse.
	i := slices.IndexFunc(c.Extensions, func(x pkix.Extension) bool { return x.Id.Equal(sgxExtensions) })
	if i < 0 {
		return nil, fmt.Errorf("the platform's certificate has no SGX extensions (%v)", sgxExtensions)
	}
	if err := p.read(c.Extensions[i].Value); err != nil {
		return nil, fmt.Errorf("the platform's certificate: %w", err)
	}
	return p, nil
}

func (p *pck) read(value []byte) error {
	x, err := readArcs(value, sgxExtensions)
	if err != nil {
		return err
	}
	if err := x.octets(arcPPID, p.ppid[:]); err != nil {
		return err
	}
	if err := x.octets(arcPCEID, p.pceID[:]); err != nil {
		return err
	}
	if err := x.octets(arcFMSPC, p.fmspc[:]); err != nil {
		return err
	}
	tcb, err := x.below(arcTCB)
	if err != nil {
		return err
	}
	for i := range p.components {
		v, err := tcb.number(i+1, 255)
		if err != nil {
			return err
		}
		p.components[i] = uint8(v)
	}
	svn, err := tcb.number(arcPCESVN, 65535)
	if err != nil {
		return err
	}
	p.pceSVN = uint16(svn)
	if err := tcb.octets(arcCPUSVN, make([]byte, 16)); err != nil {
		return err
	}
	if _, there := x.values[arcConfiguration]; !there {
		return nil
	}
	configuration, err := x.below(arcConfiguration)
	if err != nil {
		return err
	}
	if p.dynamic, err = configuration.flag(arcDynamic); err != nil {
		return err
	}
	p.smt, err = configuration.flag(arcSMT)
	return err
}

// arcs are the values of a SEQUENCE OF SEQUENCE {identifier, value}, by the last
// arc of their identifiers.
type arcs struct {
	under  asn1.ObjectIdentifier
	values map[int]asn1.RawValue
}

func readArcs(der []byte, under asn1.ObjectIdentifier) (arcs, error) {
	var list []struct {
		ID    asn1.ObjectIdentifier
		Value asn1.RawValue
	}
	if rest, err := asn1.Unmarshal(der, &list); err != nil || len(rest) > 0 {
		return arcs{}, fmt.Errorf("extension %v is not a list of values", under)
	}
	x := arcs{under: under, values: make(map[int]asn1.RawValue)}
	for _, v := range list {
		if n := len(under); len(v.ID) != n+1 || !v.ID[:n].Equal(under) {
			return arcs{}, fmt.Errorf("extension %v has the value %v in it", under, v.ID)
		}
		arc := v.ID[len(under)]
		if _, twice := x.values[arc]; twice {
			return arcs{}, fmt.Errorf("extension %v is there twice", v.ID)
		}
		x.values[arc] = v.Value
	}
	return x, nil
}

func (x arcs) get(arc int, into any, kind string) error {
	v, ok := x.values[arc]
	if !ok {
		return fmt.Errorf("lacks the extension %v.%d", x.under, arc)
	}
	if rest, err := asn1.Unmarshal(v.FullBytes, into); err != nil || len(rest) > 0 {
		return fmt.Errorf("extension %v.%d is no %s", x.under, arc, kind)
	}
	return nil
}

func (x arcs) octets(arc int, into []byte) error {
	var b []byte
	if err := x.get(arc, &b, "octet string"); err != nil {
		return err
	}
	if len(b) != len(into) {
		return fmt.Errorf("extension %v.%d has %d bytes; expected %d", x.under, arc, len(b), len(into))
	}
	copy(into, b)
	return nil
}

func (x arcs) number(arc, most int) (int, error) {
	var v int
	if err := x.get(arc, &v, "number"); err != nil {
		return 0, err
	}
	if v < 0 || v > most {
		return 0, fmt.Errorf("extension %v.%d is %d; expected 0 to %d", x.under, arc, v, most)
	}
	return v, nil
}

// flag is nil where the extension is not there.
func (x arcs) flag(arc int) (*bool, error) {
	if _, ok := x.values[arc]; !ok {
		return nil, nil
	}
	var v bool
	if err := x.get(arc, &v, "boolean"); err != nil {
		return nil, err
	}
	return &v, nil
}

func (x arcs) below(arc int) (arcs, error) {
	v, ok := x.values[arc]
	if !ok {
		return arcs{}, fmt.Errorf("lacks the extension %v.%d", x.under, arc)
	}
	under := append(x.under[:len(x.under):len(x.under)], arc)
	return readArcs(v.FullBytes, under)
}
