package build

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"debug/elf"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	"github.com/ulikunitz/xz"

	"github.com/ultravioletrs/cocos/hal/debian"
)

// guestModules are the modules that a guest loads, besides those that they
// depend on, in this order. Nothing else is in the image, and the guest locks
// module loading afterwards.
var guestModules = []string{
	"configfs", "tsm", "sev_guest", "tdx_guest", // reports of the TEEs
	"vmw_vsock_virtio_transport",                                    // the session with the host
	"virtio_net",                                                    // participants' connections
	"virtio_blk", "dm_mod", "sha256_ssse3", "dm_verity", "squashfs", // the runtime disk
	"dm_crypt", "aes_generic", "ecb", "xts", "aesni_intel", "erofs", // the scratch disk
}

// kernelOptions are what a guest relies on, with the least that its
// configuration must say: "y" built in, "m" built in or a module.
var kernelOptions = map[string]string{
	"CONFIG_AMD_MEM_ENCRYPT":             "y",
	"CONFIG_INTEL_TDX_GUEST":             "y",
	"CONFIG_SEV_GUEST":                   "m",
	"CONFIG_TDX_GUEST_DRIVER":            "m",
	"CONFIG_TSM_REPORTS":                 "m",
	"CONFIG_MODULE_SIG":                  "y",
	"CONFIG_SECURITY_LOCKDOWN_LSM_EARLY": "y",
	"CONFIG_VIRTIO_PCI":                  "y",
	"CONFIG_DM_VERITY":                   "m",
	"CONFIG_DM_CRYPT":                    "m",
	"CONFIG_CRYPTO_XTS":                  "m",
	"CONFIG_EROFS_FS":                    "m",
	"CONFIG_SQUASHFS_ZSTD":               "y",
	"CONFIG_DEVTMPFS":                    "y",
	"CONFIG_TMPFS":                       "y",
	"CONFIG_NAMESPACES":                  "y",
	"CONFIG_SECCOMP":                     "y",
	"CONFIG_SERIAL_8250_CONSOLE":         "y",
}

// kernel is what the image takes from the kernel's package.
type kernel struct {
	version string
	image   []byte
	modules []module // in the order to load them
}

type module struct {
	path string // absolute, without the compression's suffix
	data []byte // uncompressed, with its signature
}

// readKernel takes the image and the modules that it needs from the package.
func readKernel(ctx context.Context, deb string) (kernel, error) {
	var k kernel
	var config string
	packed := map[string]packedModule{}
	builtin := map[string]bool{}
	err := debian.Walk(ctx, deb, func(name string, h *tar.Header, r io.Reader) error {
		if h.Typeflag != tar.TypeReg {
			return nil
		}
		base := path.Base(name)
		if dir, rest, ok := strings.Cut(name, "lib/modules/"); ok && (dir == "" || dir == "usr/") {
			version, file, _ := strings.Cut(rest, "/")
			if k.version != "" && k.version != version {
				return fmt.Errorf("modules of two kernels: %s and %s", k.version, version)
			}
			k.version = version
			switch {
			case file == "modules.builtin":
				return readBuiltin(r, builtin)
			case strings.HasSuffix(base, ".ko.xz") || strings.HasSuffix(base, ".ko"):
				b, err := io.ReadAll(r)
				packed[moduleName(base)] = packedModule{"/" + strings.TrimPrefix(name, "usr/"), b}
				return err
			}
			return nil
		}
		var err error
		switch {
		case strings.HasPrefix(name, "boot/vmlinuz-"):
			k.image, err = io.ReadAll(r)
		case strings.HasPrefix(name, "boot/config-"):
			var b []byte
			b, err = io.ReadAll(r)
			config = string(b)
		}
		return err
	})
	if err != nil {
		return kernel{}, fmt.Errorf("reading the kernel's package: %w", err)
	}
	if k.version == "" || len(k.image) == 0 || config == "" {
		return kernel{}, fmt.Errorf("reading the kernel's package %s: no image, modules or configuration in it: not a kernel", path.Base(deb))
	}
	if err := checkConfig(config); err != nil {
		return kernel{}, fmt.Errorf("kernel %s: %w", k.version, err)
	}
	if k.modules, err = loadOrder(guestModules, packed, builtin); err != nil {
		return kernel{}, fmt.Errorf("kernel %s: %w", k.version, err)
	}
	return k, nil
}

func checkConfig(config string) error {
	var missing []string
	for option, least := range kernelOptions {
		if strings.Contains(config, "\n"+option+"=y\n") || least == "m" && strings.Contains(config, "\n"+option+"=m\n") {
			continue
		}
		missing = append(missing, option+"="+least)
	}
	slices.Sort(missing)
	if len(missing) > 0 {
		return fmt.Errorf("its configuration lacks %s: it can't run confidential guests", strings.Join(missing, ", "))
	}
	return nil
}

type packedModule struct {
	path string
	data []byte
}

// moduleName is the name that the kernel knows a file's module by.
func moduleName(file string) string {
	name, _, _ := strings.Cut(path.Base(file), ".ko")
	return strings.ReplaceAll(name, "-", "_")
}

func readBuiltin(r io.Reader, builtin map[string]bool) error {
	sc := bufio.NewScanner(r)
	for sc.Scan() {
		builtin[moduleName(sc.Text())] = true
	}
	return sc.Err()
}

// loadOrder resolves the wanted modules with all that they depend on, each
// behind its dependencies. What is built in is left out.
func loadOrder(wanted []string, packed map[string]packedModule, builtin map[string]bool) ([]module, error) {
	var order []module
	state := map[string]int{} // 1 being resolved, 2 done
	var add func(name, wantedBy string) error
	add = func(name, wantedBy string) error {
		if builtin[name] || state[name] == 2 {
			return nil
		}
		if state[name] == 1 {
			return fmt.Errorf("module %s depends on itself through %s", name, wantedBy)
		}
		p, ok := packed[name]
		if !ok {
			return fmt.Errorf("module %s, which %s needs, is not in the package", name, wantedBy)
		}
		state[name] = 1
		data, err := unpackModule(p)
		if err != nil {
			return fmt.Errorf("module %s: %w", name, err)
		}
		deps, err := moduleDepends(data)
		if err != nil {
			return fmt.Errorf("module %s: %w", name, err)
		}
		for _, d := range deps {
			if err := add(d, name); err != nil {
				return err
			}
		}
		state[name] = 2
		order = append(order, module{strings.TrimSuffix(p.path, ".xz"), data})
		return nil
	}
	for _, name := range wanted {
		if err := add(name, "the guest"); err != nil {
			return nil, err
		}
	}
	return order, nil
}

func unpackModule(p packedModule) ([]byte, error) {
	if !strings.HasSuffix(p.path, ".xz") {
		return p.data, nil
	}
	r, err := xz.NewReader(bytes.NewReader(p.data))
	if err != nil {
		return nil, err
	}
	return io.ReadAll(r)
}

// moduleDepends reads the names of the modules that one needs loaded before it.
func moduleDepends(data []byte) ([]string, error) {
	f, err := elf.NewFile(bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	s := f.Section(".modinfo")
	if s == nil {
		return nil, fmt.Errorf("no .modinfo section: not a module")
	}
	info, err := s.Data()
	if err != nil {
		return nil, err
	}
	var deps []string
	for field := range strings.SplitSeq(string(info), "\x00") {
		list, ok := strings.CutPrefix(field, "depends=")
		if !ok {
			continue
		}
		for d := range strings.SplitSeq(list, ",") {
			if d != "" {
				deps = append(deps, strings.ReplaceAll(d, "-", "_"))
			}
		}
	}
	return deps, nil
}
