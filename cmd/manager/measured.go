package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/ultravioletrs/cocos/hal"
	"github.com/ultravioletrs/cocos/hal/measure"
	"github.com/ultravioletrs/cocos/internal/manager"
	"github.com/ultravioletrs/cocos/internal/vm"
)

// measureAround finds out, beside the start, what the image of this host's VMs
// measures as; ask and done are as those of lookAround.
func measureAround(ctx context.Context, s settings, m vm.Machine, log *slog.Logger) (ask func(context.Context) []manager.Image, done func()) {
	ctx, cancel := context.WithCancel(ctx)
	ready := make(chan struct{})
	var found []manager.Image
	go func() {
		defer close(ready)
		image, err := measured(s, m)
		switch {
		case ctx.Err() != nil:
		case err != nil:
			log.Warn("what the guest image measures as is not told to the server", "error", err)
		case image != nil:
			found = []manager.Image{*image}
		}
	}()
	ask = func(ctx context.Context) []manager.Image {
		select {
		case <-ready:
			return found
		case <-ctx.Done():
			return nil
		}
	}
	return ask, func() { cancel(); <-ready }
}

// measured is the image that VMs of this machine boot; nil where they boot
// something else than it says.
func measured(s settings, m vm.Machine) (*manager.Image, error) {
	if s.kernel != "" || s.rootfs != "" {
		return nil, nil
	}
	_, dir, err := folders(s)
	if err != nil {
		return nil, err
	}
	description, err := os.ReadFile(filepath.Join(dir, hal.ManifestFile))
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(description)
	image := &manager.Image{Digest: hex.EncodeToString(sum[:])}
	if m.TEE == nil || m.TEE.Kind.Attests() == "" {
		return image, nil
	}
	o := measure.ImageOptions{VCPUs: []int{m.VCPUs}, VCPUTypes: []string{m.CPU}, GuestFeatures: measure.DefaultGuestFeatures}
	if m.Boot.BIOS != "" {
		firmware, err := os.ReadFile(m.Boot.BIOS)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", biosVar, err)
		}
		switch m.TEE.Kind {
		case vm.SEVSNP:
			o.SNPFirmware = firmware
		case vm.TDX:
			o.TDXFirmware = firmware
		}
	}
	got, err := measure.MeasureImage(dir, o)
	if err != nil {
		return nil, err
	}
	image.Measurements = map[string]string{}
	switch m.TEE.Kind {
	case vm.SEVSNP:
		for _, d := range got.SNP {
			image.Measurements["sev-snp"] = d.Measurement.String()
		}
	case vm.TDX:
		if t := got.TDX; t != nil {
			image.Measurements["mrtd"], image.Measurements["rtmr1"], image.Measurements["rtmr2"] = t.MRTD.String(), t.RTMR1.String(), t.RTMR2.String()
		}
	case vm.Simulated:
		for _, d := range got.Simulated {
			image.Measurements["sim"] = d.Measurement.String()
		}
	}
	return image, nil
}
