package main

import (
	"context"
	"errors"

	"github.com/ultravioletrs/cocos/attest/tsm"
	"github.com/ultravioletrs/cocos/internal/guest"
	"github.com/ultravioletrs/cocos/internal/vm"
	"github.com/ultravioletrs/cocos/manifest"
)

// findTEE finds what vouches for this machine: its TEE; or, where it has none
// and the manifest asks for the simulated one, the host. A simulation never
// takes the place of a TEE that is there.
func (c *computation) findTEE(context.Context) error {
	a, err := c.detect()
	switch {
	case err == nil:
		c.attester = a
		return nil
	case !errors.Is(err, tsm.ErrNone):
		return vm.Refuse(vm.RefusedReport, "looking for the machine's TEE: %w", err)
	case c.launch.Manifest.TEE != manifest.TEESim || c.reports == nil:
		return nil
	}
	simulated, err := guest.NewSimulatedTEE(c.reports)
	if err != nil {
		return vm.Refuse(vm.RefusedReport, "%w", err)
	}
	c.attester, c.closeTEE = simulated, simulated.Close
	return nil
}
