package record

import (
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"aivm.dev/aivm/internal/lazyre"
	"aivm.dev/aivm/internal/root/rootfile"
	"aivm.dev/aivm/internal/ui"
)

var (
	tokenRE = lazyre.New(`^[a-z0-9][a-z0-9._-]*$`)
	// apt reads a "-" at the end of a name as "remove it" and a "+" as "install it",
	// unless a package has that name: g++ and similar ones end in two.
	packageRE = lazyre.New(`^[a-z0-9][a-z0-9+.-]*([a-z0-9]|\+\+)$`)
	distroRE  = lazyre.New(`^[a-z0-9][a-z0-9.-]{0,31}$`)
)

// ValidToken reports whether s can name a token directory.
func ValidToken(s string) bool { return len(s) <= 64 && tokenRE.MatchString(s) }

// maxID excludes 2^32-1, which the kernel reserves for "no id".
const maxID = 1<<32 - 2

// Check checks every field of op; the helper calls it again for what its client
// sent. caller is the uid of the user who called sudo, or -1 for root itself: a
// user's helper changes only that user's exports.
func Check(op Op, caller int) error {
	bad := func(field string, v any) error {
		return ui.Refused("action %q has an invalid %s %q", op.Kind(), field, fmt.Sprint(v))
	}
	key := func(k string) error {
		if !rootfile.ValidVMKey(k) {
			return bad("vm key", k)
		}
		uid, _, _ := strings.Cut(k, "-")
		if n, err := strconv.Atoi(uid); err != nil || strconv.Itoa(n) != uid || n > maxID {
			return bad("vm key", k)
		} else if caller >= 0 && n != caller {
			return ui.Refused("vm key %q belongs to uid %d, not to uid %d, who called sudo", k, n, caller)
		}
		return nil
	}
	switch o := op.(type) {
	case Export:
		return key(o.VMKey)
	case Unexport:
		return key(o.VMKey)
	case OldShares:
		switch {
		case !filepath.IsAbs(o.BaseDir), filepath.Clean(o.BaseDir) != o.BaseDir, o.BaseDir == "/", strings.ContainsAny(o.BaseDir, "\x00\n\r"):
			return bad("directory", o.BaseDir)
		case !filepath.IsLocal(o.VM), filepath.Base(o.VM) != o.VM, o.VM == ".", strings.ContainsAny(o.VM, "\x00\n\r"):
			return bad("VM", o.VM)
		}
		return nil
	case Unbind:
		if !ValidToken(o.Token) {
			return bad("token", o.Token)
		}
		return key(o.VMKey)
	case Bind:
		switch {
		case !ValidToken(o.Token):
			return bad("token", o.Token)
		case !filepath.IsAbs(o.Src), filepath.Clean(o.Src) != o.Src, o.Src == "/", strings.ContainsAny(o.Src, "\x00\n\r"):
			return bad("folder", o.Src)
		case o.Src == rootfile.ExportBase, strings.HasPrefix(o.Src, rootfile.ExportBase+"/"):
			return ui.Refused("%s contains the export directories of VMs and cannot be shared", o.Src)
		case o.UID < 0 || o.UID > maxID:
			return bad("uid", o.UID)
		case o.GID < 0 || o.GID > maxID:
			return bad("gid", o.GID)
		case o.Ino == 0:
			return bad("inode", o.Ino)
		case len(o.Protect) > MaxProtected:
			return bad("number of protected paths", len(o.Protect))
		case !slices.Equal(o.Groups, Mappable(o.GID, o.Groups)):
			return bad("list of groups", o.Groups)
		}
		for _, p := range o.Protect {
			if !filepath.IsLocal(p) || filepath.Clean(p) != p || p == "." || strings.ContainsRune(p, 0) {
				return bad("protected path", p)
			}
		}
		return key(o.VMKey)
	case Packages:
		if _, known := installers[o.Manager]; !known && o.Manager != "apt" {
			return bad("package manager", o.Manager)
		}
		if len(o.Names) == 0 || len(o.Names) > 200 {
			return bad("number of packages", len(o.Names))
		}
		for _, n := range o.Names {
			if !packageRE.MatchString(n) {
				return bad("package name", n)
			}
		}
		return nil
	case Service:
		if !slices.Contains(services, o.Name) {
			return bad("service name", o.Name)
		}
		return nil
	case KVMDevice, Ruleset:
		return nil
	case KVMModule:
		if !slices.Contains(kvmModules, o.Name) {
			return bad("module", o.Name)
		}
		return nil
	case LibvirtSocket:
		if !OpensSocket(o.Path) {
			return bad("socket path", o.Path)
		}
		return nil
	case BuildImage:
		if !distroRE.MatchString(o.Distro) {
			return bad("distribution", o.Distro)
		}
		return nil
	case Hooks:
		return nil
	case Nft:
		if err := o.Wall.Check(); err != nil {
			return ui.Refused("action %q has an invalid %w", op.Kind(), err)
		}
		return nil
	}
	return ui.Refused("the privileged helper has no action %q", op.Kind())
}
