package hookinstall_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"aivm.dev/aivm/internal/root/record"
	"aivm.dev/aivm/internal/root/rootfile"
	"aivm.dev/aivm/internal/root/roottest"
)

// defineVM defines a domain on a network, or on none for "", with a description of text
// bytes.
func defineVM(t *testing.T, name, mark, network string, text int) {
	t.Helper()
	card := ""
	if network != "" {
		card = `<interface type='network'><source network='` + network + `'/></interface>`
	}
	p := filepath.Join(t.TempDir(), name)
	roottest.Must(t, os.WriteFile(p, fmt.Appendf(nil, `<domain type='qemu'><name>%s</name><description>%s</description>%s<memory unit='MiB'>16</memory><os><type arch='x86_64'>hvm</type></os><devices>%s</devices></domain>`,
		name, strings.Repeat("x", text), mark, card), 0o600))
	roottest.VirshOK(t, "define", p)
	t.Cleanup(func() { _, _ = roottest.Virsh("destroy", name) })
}

// A VM that is neither aivm's nor on a network of aivm's starts whatever is wrong with
// aivm on this machine. So does another program's network that has the name of a deleted
// network of aivm's.
func TestForeignStarts(t *testing.T) {
	work, ok := roottest.Privately(t, syscall.CLONE_NEWNET)
	if !ok {
		return
	}
	roottest.StageHooks(t, work)
	roottest.Libvirtd(t)
	const big = 2 << 20 // libvirt takes up to 4 MiB
	roottest.DefineNetwork(t, "hooked", "brh", "99")
	roottest.DefineNetwork(t, "foreign", "brf", "98")
	defineVM(t, "plain", "", "foreign", 0)
	defineVM(t, "big", "", "foreign", big)
	defineVM(t, "hooked", "", "hooked", big)
	defineVM(t, "marked", roottest.Mark, "", big)
	w := roottest.Wall("hooked", "brh")
	roottest.Do(t, record.Hooks{})
	roottest.Do(t, record.Nft{Wall: w})
	roottest.VirshOK(t, "net-start", "hooked")
	roottest.VirshOK(t, "net-start", "foreign")
	starts := func(why string, names ...string) {
		t.Helper()
		for _, n := range names {
			if out, err := roottest.Virsh("start", n); err != nil {
				t.Errorf("%s: %s does not start: %s", why, n, out)
				continue
			}
			roottest.VirshOK(t, "destroy", n)
		}
	}

	starts("a large definition", "big", "marked")
	roottest.Sh(t, "nft delete table inet "+w.Table())
	starts("a large definition on a network of aivm's", "hooked")
	if !roottest.RulesLoaded(w) {
		t.Error("a VM with a large definition started without its network's rules")
	}

	// A VM of aivm's whose name has the same end.
	like := rootfile.VMManifestPath("0-x-plain")
	roottest.Must(t, os.WriteFile(like, []byte("{"), 0o644))
	good, err := os.ReadFile(rootfile.HookProgram)
	roottest.Must(t, err)
	roottest.Must(t, os.Remove(rootfile.HookProgram))
	starts("the program is missing", "plain")
	roottest.VirshFails(t, "No such file", "start", "hooked")
	roottest.VirshOK(t, "net-destroy", "foreign")
	roottest.VirshOK(t, "net-start", "foreign")
	roottest.Must(t, os.WriteFile(rootfile.HookProgram, []byte("#!/bin/sh\nkill -SEGV $$\n"), 0o755))
	starts("the program crashes", "big")
	if out, err := roottest.Virsh("start", "hooked"); err == nil {
		t.Errorf("the program crashes, and a VM on a network of aivm's starts: %s", out)
	}

	// Another program's network with the name of one of aivm's that was removed with
	// virsh.
	roottest.VirshOK(t, "net-destroy", "hooked")
	roottest.VirshOK(t, "net-undefine", "hooked")
	p := filepath.Join(t.TempDir(), "net")
	roottest.Must(t, os.WriteFile(p, []byte(`<network><name>hooked</name><bridge name='brh'/></network>`), 0o600))
	roottest.VirshOK(t, "net-define", p)
	if out, err := roottest.Virsh("net-start", "hooked"); err != nil {
		t.Errorf("the program crashes: another program's network does not start: %s", out)
	}
	roottest.Must(t, os.WriteFile(rootfile.HookProgram, good, 0o755))

	// Manifests that are directories or broken links.
	roottest.Must(t, os.Mkdir(filepath.Join(rootfile.ManifestDir, "net-*.json"), 0))
	roottest.Must(t, os.Symlink("/nowhere", filepath.Join(rootfile.ManifestDir, "net-foreign.json")))
	roottest.Must(t, os.Mkdir(filepath.Join(rootfile.ManifestDir, "net-default.json"), 0))
	starts("odd manifests", "plain")
	roottest.Must(t, os.Rename(rootfile.ManifestDir, rootfile.ManifestDir+"-away"))
	roottest.Must(t, os.WriteFile(rootfile.ManifestDir, nil, 0o644))
	starts("a file in the place of the directory", "plain")
}
