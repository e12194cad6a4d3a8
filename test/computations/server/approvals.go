package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	managerv1 "github.com/ultravioletrs/cocos/api/manager/v1"
	"github.com/ultravioletrs/cocos/manifest"
)

// AwaitApprovals waits until each file has one, as cocos-cli manifest approve
// prints it, and all together are those that the manifest asks for. It returns
// none when ctx ends before.
func AwaitApprovals(ctx context.Context, m manifest.Frozen, files []string) (out []*managerv1.Approval, err error) {
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	var all []manifest.Approval
	for _, name := range files {
		for {
			a, err := readApproval(name)
			if err == nil {
				all = append(all, a)
				break
			}
			if !errors.Is(err, errNotYet) {
				return nil, err
			}
			select {
			case <-tick.C:
			case <-ctx.Done():
				return nil, nil
			}
		}
	}
	if err := m.CheckApprovals(all); err != nil {
		return nil, err
	}
	for _, a := range all {
		out = append(out, &managerv1.Approval{PublicKey: a.PublicKey.SPKI(), Signature: a.Signature})
	}
	return out, nil
}

// errNotYet is a file that is not there, or not whole.
var errNotYet = errors.New("no approval yet")

func readApproval(name string) (a manifest.Approval, err error) {
	b, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) || err == nil && !strings.HasSuffix(string(b), "\n") {
		return a, errNotYet
	}
	if err == nil {
		err = json.Unmarshal(b, &a)
	}
	if err != nil {
		return a, fmt.Errorf("%s: %w", name, err)
	}
	return a, nil
}
