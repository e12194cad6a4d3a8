package main

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/ultravioletrs/cocos/hal"
	"github.com/ultravioletrs/cocos/internal/vm"
)

func TestFindFirmware(t *testing.T) {
	both, large, lonely, none := t.TempDir(), t.TempDir(), t.TempDir(), t.TempDir()
	for _, name := range []string{"OVMF_CODE.fd", "OVMF_VARS.fd", "OVMF_CODE_4M.fd", "OVMF_VARS_4M.fd"} {
		put(t, both, name, name)
	}
	put(t, large, "OVMF_CODE_4M.fd", "code")
	put(t, large, "OVMF_VARS_4M.fd", "vars")
	put(t, lonely, "OVMF_CODE.fd", "code")
	mine, unlike := put(t, t.TempDir(), "my.vars", "vars"), put(t, t.TempDir(), "bios.bin", "code")
	empty := put(t, t.TempDir(), "OVMF_CODE.fd", "")
	for name, c := range map[string]struct {
		dir, code, vars string
		disk            string
		wantCode        string // "": there is no firmware
		wantVars        string
		says            string // "" is success
	}{
		"first that is there":      {dir: both, code: "auto", vars: "auto", wantCode: both + "/OVMF_CODE.fd", wantVars: both + "/OVMF_VARS.fd"},
		"second where it is alone": {dir: large, code: "auto", vars: "auto", wantCode: large + "/OVMF_CODE_4M.fd", wantVars: large + "/OVMF_VARS_4M.fd"},
		"not installed":            {dir: none, code: "auto", vars: "auto"},
		"not wanted":               {dir: both, code: "none", vars: "auto"},
		"without variables":        {dir: both, code: "auto", vars: "none", wantCode: both + "/OVMF_CODE.fd"},
		"own variables":            {dir: both, code: "auto", vars: mine, wantCode: both + "/OVMF_CODE.fd", wantVars: mine},
		"named":                    {dir: none, code: large + "/OVMF_CODE_4M.fd", vars: "auto", wantCode: large + "/OVMF_CODE_4M.fd", wantVars: large + "/OVMF_VARS_4M.fd"},
		"variables missing":        {dir: lonely, code: "auto", vars: "auto", says: "MANAGER_QEMU_OVMF_VARS_FILE"},
		"own variables missing":    {dir: both, code: "auto", vars: none + "/v", says: "MANAGER_QEMU_OVMF_VARS_FILE"},
		"named and missing":        {dir: both, code: none + "/OVMF_CODE.fd", vars: mine, says: "MANAGER_QEMU_OVMF_CODE_FILE"},
		"named and empty":          {dir: both, code: empty, vars: mine, says: "empty"},
		"nothing is named like it": {dir: both, code: unlike, vars: "auto", says: "does not say CODE"},
		"a disk needs it":          {dir: none, code: "auto", vars: "auto", disk: "disk.qcow2", says: "apt install ovmf"},
		"a disk and no firmware":   {dir: both, code: "none", vars: "auto", disk: "disk.qcow2", says: "MANAGER_QEMU_DISK_IMG_FILE"},
		"a folder is no firmware":  {dir: both, code: both, vars: mine, says: "not a file"},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := parse(nil)
			if err != nil {
				t.Fatal(err)
			}
			s.code.File, s.vars.File, s.disk.Image = c.code, c.vars, c.disk
			var m vm.Machine
			err = findFirmware(&m, s, c.dir)
			if c.says != "" {
				if err == nil || !strings.Contains(err.Error(), c.says) {
					t.Errorf("%v\nexpected %q in it", err, c.says)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			f := m.Boot.Firmware
			if c.wantCode == "" {
				if f != nil {
					t.Errorf("%+v", f)
				}
				return
			}
			if f == nil || f.Code != (vm.Flash{Interface: "pflash", Format: "raw", File: c.wantCode, ReadOnly: true}) || f.Vars.File != c.wantVars {
				t.Errorf("%+v", f)
			}
		})
	}
}

func TestFindDisk(t *testing.T) {
	dir := t.TempDir()
	raw := put(t, dir, "disk.raw", strings.Repeat("\x00", 4096))
	odd := put(t, dir, "odd.raw", strings.Repeat("\x00", 1000))
	described := put(t, t.TempDir(), hal.BootDiskFile, strings.Repeat("\x00", 4096))
	put(t, filepath.Dir(described), hal.BootDiskManifestFile, "{}")
	for name, c := range map[string]struct{ file, format, says string }{
		"not as described": {described, "raw", hal.BootDiskManifestFile},
		"raw":              {raw, "raw", ""},
		"not qcow2":        {raw, "qcow2", "MANAGER_QEMU_DISK_IMG_FILE"},
		"no sectors":       {odd, "raw", "sector"},
		"missing":          {filepath.Join(dir, "none"), "raw", "make hal-disk"},
		"not a file":       {dir, "raw", "not a regular file"},
		"not readable":     {filepath.Join(raw, "x"), "raw", "MANAGER_QEMU_DISK_IMG_FILE"},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := parse([]string{"MANAGER_QEMU_DISK_IMG_FILE=" + c.file, "MANAGER_QEMU_DISK_IMG_FORMAT=" + c.format})
			if err != nil {
				t.Fatal(err)
			}
			var m vm.Machine
			_, err = findImage(&m, s, testImage(t))
			if c.says == "" {
				if err != nil || m.Boot.Disk == nil || m.Boot.Disk.Image != c.file || m.Boot.Kernel != "" || m.Boot.CommandLine != "" || m.Runtime == "" {
					t.Errorf("%v, %+v", err, m.Boot)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%v\nexpected %q in it", err, c.says)
			}
		})
	}
}
