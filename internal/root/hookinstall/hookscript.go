package hookinstall

import (
	"embed"
	"strings"

	"aivm.dev/aivm/internal/root/definition"
	"aivm.dev/aivm/internal/root/rootfile"
)

// The hooks are shell scripts with placeholders for paths and names that Go code also
// uses. network.sh and qemu.sh decide by themselves whether an object is aivm's, and
// start the program only then, so that other objects start whatever is wrong with the
// program. For aivm's objects the scripts fail if the program fails: they must not start
// without their firewall.
//
// The scripts read the object's XML as text, in which libvirt escapes names and
// descriptions. A definition may have megabytes, so cat reads it; where cat may not run,
// the shell reads it, byte by byte.
//
// They start the program through env, because libvirtd's AppArmor profile lets a hook run
// programs of /usr/bin unconfined, but none of /usr/local.
//
// network.sh: another program's network may have the name of one of aivm's. Then the
// script runs the program to remove the stale rules, and ignores its failure.
//
// qemu.sh: a VM is aivm's if it has the mark, or is on a network with a firewall of
// aivm's. If libvirt passes no XML, it is aivm's if it has a manifest.
//
// daemon.sh is the hook of the daemon itself, which runs it when it starts, stops, or has
// loaded its hooks again. The script removes the reloadFile of its parent process, the
// daemon. It does not start the program, since every daemon with hooks runs it.
//
//go:embed daemon.sh network.sh qemu.sh
var scripts embed.FS

var placeholders = strings.NewReplacer(
	"@MANIFESTS@", rootfile.ManifestDir,
	"@NETWORKS@", definition.NetworkDir,
	"@MARK@", definition.MarkSpace,
	"@PROGRAM@", rootfile.HookProgram,
	"@COMMAND@", rootfile.HookCommand,
)

// scriptText returns the hook of one kind of rootfile.HookKinds.
func scriptText(kind string) string {
	b, err := scripts.ReadFile(kind + ".sh")
	if err != nil {
		panic(err) // the file is embedded
	}
	return placeholders.Replace(string(b))
}
