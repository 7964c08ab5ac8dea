package rootfile

import (
	"path/filepath"
)

// The files of the hooks. libvirt runs every program in the directory NAME.d in
// addition to a script NAME (libvirt.org/hooks.html, since 6.5), so hooks of other
// programs are not changed.
const (
	// HookProgram is the path of the copy of aivm that libvirt's hooks run. Only root
	// can write it, so that no daemon runs a file as root that a user can write.
	HookProgram = "/usr/local/libexec/aivm/aivm"
	// HookCommand is the hidden verb of the hooks; it calls RunHook.
	HookCommand = "root-hook"
	hookBase    = "/etc/libvirt/hooks"
)

// HookKinds lists the hooks: those of the network and qemu drivers, and that of the
// daemon itself, which confirms that the daemon has loaded the hooks.
var HookKinds = []string{"daemon", "network", "qemu"}

// HookScript returns the path of the hook of one kind.
func HookScript(kind string) string { return filepath.Join(hookBase, kind+".d", "aivm") }
