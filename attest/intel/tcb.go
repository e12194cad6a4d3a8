package intel

import (
	"fmt"
	"slices"
	"strings"
)

// status is what Intel thinks of a level: a set of shortcomings.
type status uint8

const (
	needsConfiguration status = 1 << iota
	needsHardening            // of the software
	outOfDate
	revoked
)

// statuses are Intel's words.
var statuses = map[string]status{
	"UpToDate":                          0,
	"SWHardeningNeeded":                 needsHardening,
	"ConfigurationNeeded":               needsConfiguration,
	"ConfigurationAndSWHardeningNeeded": needsConfiguration | needsHardening,
	"OutOfDate":                         outOfDate,
	"OutOfDateConfigurationNeeded":      outOfDate | needsConfiguration,
	"Revoked":                           revoked,
}

// String is Intel's word. One for old parts says nothing of hardening, one for
// revoked parts nothing else.
func (s status) String() string {
	switch {
	case s&revoked != 0:
		s = revoked
	case s&outOfDate != 0:
		s &^= needsHardening
	}
	for word, v := range statuses {
		if v == s {
			return word
		}
	}
	return fmt.Sprintf("status %#x", uint8(s))
}

// standing puts together what levels say: every shortcoming of each, and every
// advisory.
type standing struct {
	status     status
	advisories []string
	texts      []string // for people: which part stands where
}

func (s *standing) add(part string, l *tcbLevel) error {
	v, ok := statuses[l.Status]
	if !ok {
		return fmt.Errorf("%s has the status %q, which is not known", part, l.Status)
	}
	s.status |= v
	s.advisories = append(s.advisories, l.Advisories...)
	slices.Sort(s.advisories)
	s.advisories = slices.Compact(s.advisories)
	s.texts = append(s.texts, fmt.Sprintf("%s %s", part, l.Status))
	return nil
}

// String names the parts where they differ.
func (s *standing) String() string {
	return fmt.Sprintf("%s (%s)", s.status, strings.Join(s.texts, ", "))
}

// TD is what a TD report says of the TDX module.
type TD struct {
	// TCBSVN are the security versions of module and platform when the TD was
	// launched.
	TCBSVN [16]byte
	// Current are those at the time of the report (TDX 1.5); nil: not stated.
	Current        *[16]byte
	MRSignerSEAM   [48]byte
	SEAMAttributes [8]byte
}

// level finds the newest level that a platform reaches: every component of its
// certificate, the PCE's version, and on TDX every one of the report. Levels are
// sorted from the newest to the oldest.
func (t *tcbInfo) level(p *pck, td *[16]byte) (*tcbLevel, error) {
	for i := range t.Levels {
		l := &t.Levels[i]
		if reaches(p.components, l.TCB.SGX, 0) && p.pceSVN >= *l.TCB.PCESVN &&
			(td == nil || reaches(*td, l.TCB.TDX, first(*td))) {
			return l, nil
		}
	}
	return nil, fmt.Errorf("the platform is older than each level that Intel knows of %x", []byte(t.FMSPC))
}

// first is the first component compared with a platform's level: a module with a
// version of its own (byte 1) has levels of its own for bytes 0 and 1.
func first(svn [16]byte) int {
	if svn[1] > 0 {
		return 2
	}
	return 0
}

func reaches(got [16]byte, want []component, from int) bool {
	for i := from; i < len(got); i++ {
		if got[i] < *want[i].SVN {
			return false
		}
	}
	return true
}

// module finds who must have signed the TDX module of these security versions,
// and the newest level that it reaches; nil where the platform's level says it.
func (t *tcbInfo) module(svn [16]byte) (*moduleIdentity, *tcbLevel, error) {
	if svn[1] == 0 {
		return t.Module, nil, nil
	}
	id := fmt.Sprintf("TDX_%02X", svn[1])
	for i := range t.Modules {
		m := &t.Modules[i]
		if !strings.EqualFold(m.ID, id) {
			continue
		}
		l, err := isvLevel(m.Levels, uint16(svn[0]))
		if err != nil {
			return nil, nil, fmt.Errorf("the TDX module %s: %w", id, err)
		}
		return m, l, nil
	}
	return nil, nil, fmt.Errorf("no TDX module %s in Intel's TCB info", id)
}

func isvLevel(levels []tcbLevel, svn uint16) (*tcbLevel, error) {
	for i := range levels {
		if svn >= *levels[i].TCB.ISVSVN {
			return &levels[i], nil
		}
	}
	return nil, fmt.Errorf("security version %d is older than each level that Intel knows", svn)
}

// standingOf puts a platform's status together.
func (t *tcbInfo) standingOf(p *pck, td *TD, qe *qeIdentity, qeSVN uint16) (*standing, error) {
	s := new(standing)
	if td == nil {
		if err := t.platform(s, p, nil, ""); err != nil {
			return nil, err
		}
	} else {
		if err := t.platform(s, p, &td.TCBSVN, ""); err != nil {
			return nil, err
		}
		// A module updated under a running TD must not be worse than it was.
		if td.Current != nil && *td.Current != td.TCBSVN {
			if err := t.platform(s, p, td.Current, "current "); err != nil {
				return nil, err
			}
		}
	}
	l, err := isvLevel(qe.Levels, qeSVN)
	if err != nil {
		return nil, fmt.Errorf("the quoting enclave: %w", err)
	}
	return s, s.add("quoting enclave", l)
}

func (t *tcbInfo) platform(s *standing, p *pck, td *[16]byte, when string) error {
	l, err := t.level(p, td)
	if err != nil {
		return err
	}
	if err := s.add(when+"platform", l); err != nil {
		return err
	}
	if td == nil {
		return nil
	}
	_, l, err = t.module(*td)
	if err != nil {
		return err
	}
	if l == nil {
		return nil
	}
	return s.add(when+"TDX module", l)
}
