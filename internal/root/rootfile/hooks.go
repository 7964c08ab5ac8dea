package rootfile

import (
	"path/filepath"
)

// What the hooks consist of. libvirt runs every program in NAME.d beside a
// script NAME (libvirt.org/hooks.html, since 6.5), so other people's hooks
// stay as they are.
const (
	// HookProgram is the copy of aivm libvirt's hooks run: root's, so that
	// nothing a user can write is ever run as root by a daemon.
	HookProgram = "/usr/local/libexec/aivm/aivm"
	// HookCommand is the hidden verb that becomes the hook; it calls RunHook.
	HookCommand = "root-hook"
	hookBase    = "/etc/libvirt/hooks"
)

// HookKinds are the drivers whose events are wanted, and the daemon itself,
// which says by its hook that it knows them.
var HookKinds = []string{"daemon", "network", "qemu"}

// HookScript is the path of the hook of one kind.
func HookScript(kind string) string { return filepath.Join(hookBase, kind+".d", "aivm") }
