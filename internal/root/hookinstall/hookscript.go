package hookinstall

import (
	"embed"
	"strings"

	"aivm.dev/aivm/internal/root/definition"
	"aivm.dev/aivm/internal/root/rootfile"
)

// The hooks, shell scripts with a placeholder for each path and name that Go
// code knows, too. network.sh and qemu.sh decide by themselves whether the
// object is one of aivm's, and start the program only then: whatever is wrong
// with the program, what is not aivm's starts. For aivm's own they fail if the
// program does, since they must not start without their walls.
//
// The object's XML is read as text, in which libvirt escapes what names and
// descriptions hold. A definition may be megabytes long, so cat reads it; the
// shell, which takes byte by byte, does where cat may not run.
//
// Through env, because AppArmor's profile of libvirtd lets a hook run programs
// of /usr/bin unconfined and none of /usr/local.
//
// network.sh: a network of that name may be somebody else's: then the program is
// told, to take away what is still there of aivm's, and its failure is ignored.
//
// qemu.sh: a VM is aivm's by its mark, or because it is on a network that has a
// wall. Of one that nothing is known of, only because it has a manifest.
//
// daemon.sh is the hook of the daemon itself, run when it starts, ends, or has
// looked for hooks anew: it answers a question (see question) by taking it away.
// Its parent is the daemon. Nothing of aivm's runs in it, for it is run for
// others' sake, too.
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
		panic(err) // it is built in
	}
	return placeholders.Replace(string(b))
}
