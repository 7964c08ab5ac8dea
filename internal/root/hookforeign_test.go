package root

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// defineVM defines a domain that is on a network, or on none, and whose
// definition has this much text besides.
func defineVM(t *testing.T, name, mark, network string, text int) {
	t.Helper()
	card := ""
	if network != "" {
		card = `<interface type='network'><source network='` + network + `'/></interface>`
	}
	p := filepath.Join(t.TempDir(), name)
	must(t, os.WriteFile(p, fmt.Appendf(nil, `<domain type='qemu'><name>%s</name><description>%s</description>%s<memory unit='MiB'>16</memory><os><type arch='x86_64'>hvm</type></os><devices>%s</devices></domain>`,
		name, strings.Repeat("x", text), mark, card), 0o600))
	virshOK(t, "define", p)
	t.Cleanup(func() { _, _ = virsh("destroy", name) })
}

// A VM that is not aivm's, and on no network of aivm's, starts whatever is
// wrong with aivm on this machine; so does a network that only has the name of
// one of aivm's that is gone.
func TestForeignStarts(t *testing.T) {
	work, ok := privately(t, syscall.CLONE_NEWNET)
	if !ok {
		return
	}
	stageHooks(t, work)
	libvirtd(t)
	const big = 2 << 20 // libvirt takes up to 4 MiB
	defineNetwork(t, "hooked", "brh", "99")
	defineNetwork(t, "foreign", "brf", "98")
	defineVM(t, "plain", "", "foreign", 0)
	defineVM(t, "big", "", "foreign", big)
	defineVM(t, "hooked", "", "hooked", big)
	defineVM(t, "ours", ourMark, "", big)
	w := testWall("hooked", "brh")
	do(t, Hooks{})
	do(t, Nft{Wall: w})
	virshOK(t, "net-start", "hooked")
	virshOK(t, "net-start", "foreign")
	starts := func(why string, names ...string) {
		t.Helper()
		for _, n := range names {
			if out, err := virsh("start", n); err != nil {
				t.Errorf("%s: %s does not start: %s", why, n, out)
				continue
			}
			virshOK(t, "destroy", n)
		}
	}

	starts("a large definition", "big", "ours")
	sh(t, "nft delete table inet "+w.Table())
	starts("a large definition on a network of aivm's", "hooked")
	if !tableThere(w) {
		t.Error("a VM with a large definition started without its network's rules")
	}

	// An aivm's VM whose name ends like this one's.
	like := vmManifest("0-x-plain")
	must(t, os.WriteFile(like, []byte("{"), 0o644))
	good, err := os.ReadFile(HookProgram)
	must(t, err)
	must(t, os.Remove(HookProgram))
	starts("the program is gone", "plain")
	virshFails(t, "No such file", "start", "hooked")
	virshOK(t, "net-destroy", "foreign")
	virshOK(t, "net-start", "foreign")
	must(t, os.WriteFile(HookProgram, []byte("#!/bin/sh\nkill -SEGV $$\n"), 0o755))
	starts("the program crashes", "big")
	if out, err := virsh("start", "hooked"); err == nil {
		t.Errorf("the program crashes, and a VM on a network of aivm's starts: %s", out)
	}

	// Somebody else's network with the name of one of aivm's that was taken away
	// with virsh.
	virshOK(t, "net-destroy", "hooked")
	virshOK(t, "net-undefine", "hooked")
	p := filepath.Join(t.TempDir(), "net")
	must(t, os.WriteFile(p, []byte(`<network><name>hooked</name><bridge name='brh'/></network>`), 0o600))
	virshOK(t, "net-define", p)
	if out, err := virsh("net-start", "hooked"); err != nil {
		t.Errorf("the program crashes: somebody else's network does not start: %s", out)
	}
	must(t, os.WriteFile(HookProgram, good, 0o755))

	// Manifests that are no files, or not to be read.
	must(t, os.Mkdir(filepath.Join(ManifestDir, "net-*.json"), 0))
	must(t, os.Symlink("/nowhere", filepath.Join(ManifestDir, "net-foreign.json")))
	must(t, os.Mkdir(filepath.Join(ManifestDir, "net-default.json"), 0))
	starts("odd manifests", "plain")
	must(t, os.Rename(ManifestDir, ManifestDir+"-away"))
	must(t, os.WriteFile(ManifestDir, nil, 0o644))
	starts("a file in the place of the directory", "plain")
}
