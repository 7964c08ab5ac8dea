package bootdisk

import (
	"fmt"
	"path"
	"regexp"
	"strings"
)

// wanted are the modules that a VM needs before its root is mounted, or that the
// agent uses before anything can load them from there. A kernel that has one built
// in has no file for it.
var wanted = []string{
	"virtio_pci", "virtio_blk", "virtio_console", "virtio_net", "virtio_rng",
	"crc32c_generic", // ext4 asks for it by a name that is not in modules.dep
	"ext4", "fuse", "virtiofs", "overlay",
}

// Bounds of modules.dep.
const (
	maxModules  = 64
	maxDepBytes = 16 << 20
)

// modulePath is a file of /lib/modules/RELEASE: what is passed to debugfs.
var modulePath = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_+,.-]*(/[A-Za-z0-9][A-Za-z0-9_+,.-]*)*\.ko(\.xz|\.zst|\.gz)?$`)

// moduleName is the kernel's name of a module file.
func moduleName(file string) string {
	name, _, _ := strings.Cut(path.Base(file), ".ko")
	return strings.ReplaceAll(name, "-", "_")
}

// moduleOrder returns the files of the wanted modules that exist, each after those it
// depends on. dep is the text of modules.dep: a file, a colon, the files it needs.
func moduleOrder(dep string, wanted []string) ([]string, error) {
	needs := map[string][]string{}
	file := map[string]string{}
	for line := range strings.Lines(dep) {
		f, rest, ok := strings.Cut(strings.TrimSpace(line), ":")
		if !ok || !modulePath.MatchString(f) {
			continue
		}
		needs[f] = strings.Fields(rest)
		file[moduleName(f)] = f
	}
	var order []string
	seen := map[string]bool{}
	var visit func(f string) error
	visit = func(f string) error {
		if seen[f] {
			return nil
		}
		seen[f] = true
		for _, n := range needs[f] {
			if _, ok := needs[n]; !ok {
				return fmt.Errorf("modules.dep: %q needs %q, which it does not list", f, n)
			}
			if err := visit(n); err != nil {
				return err
			}
		}
		if order = append(order, f); len(order) > maxModules {
			return fmt.Errorf("modules.dep: more than %d modules are needed", maxModules)
		}
		return nil
	}
	for _, w := range wanted {
		if f, ok := file[w]; ok {
			if err := visit(f); err != nil {
				return nil, err
			}
		}
	}
	return order, nil
}
