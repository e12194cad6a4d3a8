package cli

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"github.com/ultravioletrs/cocos/manifest"
)

// approvalsFile is in the CLI's own folder, too.
const approvalsFile = "approvals.json"

// reasonChanged is that of another manifest than the approved one.
const reasonChanged = "MANIFEST_CHANGED"

// approved is the manifest that this person approved last for a computation.
// Whoever hands out manifests could hand out another one under the same id
// later, for the upload.
type approved struct {
	// Computation is the manifest's id.
	Computation string          `json:"computation"`
	Manifest    manifest.Digest `json:"manifest_digest"`
	Since       time.Time       `json:"since"`
}

// approvals is the file of them, one for each computation.
type approvals struct {
	Version   int        `json:"version"`
	Approvals []approved `json:"approvals"`
}

func (s *approvals) version() *int { return &s.Version }

func (s *approvals) check() error {
	for i, v := range s.Approvals {
		at := fmt.Sprintf("/approvals/%d", i)
		switch {
		case v.Computation == "":
			return fmt.Errorf("%s/computation is missing", at)
		case v.Manifest == manifest.Digest{}:
			return fmt.Errorf("%s/manifest_digest is missing", at)
		}
		if j := s.of(v.Computation); j < i {
			return fmt.Errorf("%s/computation is that of /approvals/%d, too", at, j)
		}
	}
	return nil
}

// of is the place of a computation's; -1: there is none.
func (s *approvals) of(computation string) int {
	return slices.IndexFunc(s.Approvals, func(v approved) bool { return v.Computation == computation })
}

// noteApproval notes f as the approved manifest of its computation, and says so
// where it takes another one's place.
func (a *app) noteApproval(f *manifest.Frozen) error {
	var (
		known  approvals
		before *approved
	)
	err := a.updateHome(approvalsFile, &known, func() error {
		v := approved{f.ID, f.Digest, a.out.now().UTC().Truncate(time.Second)}
		i := known.of(f.ID)
		if i < 0 {
			known.Approvals = append(known.Approvals, v)
			return nil
		}
		if known.Approvals[i].Manifest != f.Digest {
			was := known.Approvals[i]
			before = &was
		}
		known.Approvals[i] = v
		return nil
	})
	if err != nil {
		return fmt.Errorf("noting what you approve: %w", err)
	}
	if before != nil {
		a.out.hint("in the place of %s, which you approved for this computation on %s: inputs go to the new one alone",
			before.Manifest, before.Since.Format(time.RFC3339))
	}
	return nil
}

// unchanged refuses another manifest than the one that was approved on this
// machine under the same id. Where none was, there is nothing to compare.
func (a *app) unchanged(id *identity) error {
	if id.manifest == nil {
		return nil
	}
	return a.asApproved(a.conn.manifest, id.manifest)
}

// asApproved is unchanged for the manifest of a file.
func (a *app) asApproved(file string, f *manifest.Frozen) error {
	var known approvals
	if err := a.readHome(approvalsFile, &known); err != nil {
		if errors.Is(err, errNoHome) {
			return nil // nor could anything be approved
		}
		return err
	}
	i := known.of(f.ID)
	if i < 0 || known.Approvals[i].Manifest == f.Digest {
		return nil
	}
	dir, err := a.home()
	if err != nil {
		return err
	}
	return &problem{reason: reasonChanged, field: "/id",
		err: fmt.Errorf("%s is not the manifest that you approved for the computation %q: its digest is %s, and on %s you approved %s",
			file, clean(f.ID), f.Digest, known.Approvals[i].Since.Format(time.RFC3339), known.Approvals[i].Manifest),
		hint: fmt.Sprintf("nothing was sent. Give the --manifest that you approved; or look at this one (cocos-cli manifest show %s), and if it is what you want, approve it (cocos-cli manifest approve) or, where it does not ask for that, take the other one out of %s",
			file, filepath.Join(dir, approvalsFile)),
	}
}
