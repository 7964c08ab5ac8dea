package upgrade

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"

	"aivm.dev/aivm/provision/share"
)

var save = flag.Bool("save", false, "TestUpgrade writes the files of the first aivm to testdata/first.txtar")

const fixture = "testdata/first.txtar"

// TestFixture is TestUpgrade with saved files of the first aivm, for checkouts without their
// history. Keys are not saved: they are generated again.
func TestFixture(t *testing.T) {
	now := build(t, "../..")
	w := newWorld(t, 9)
	a, err := txtar.ParseFile(fixture)
	if err != nil {
		t.Fatal(err)
	}
	w.restore(a)
	w.checkNew(now, programs{}, olds[slices.IndexFunc(olds, func(o older) bool { return o.commit == first })])
}

// names returns the world's names that occur in its files, with their placeholders, the longest
// first.
func (w *world) names() []string {
	return []string{
		share.Token(filepath.Join(w.home, "p1")), "@TAG1@", share.Token(filepath.Join(w.home, "p2")), "@TAG2@", w.home, "@HOME@", w.bridge, "@BRIDGE@", w.net, "@NET@", w.vm, "@VM@", w.sub, "@SUB@",
	}
}

// saveFixture writes the fixture.
func (w *world) saveFixture(hash string) {
	t := w.t
	a := &txtar.Archive{Comment: []byte("Files of aivm at commit " + hash + ": go test ./test/upgrade -run TestUpgrade -save\n\n")}
	var keys []string // pairs of a public key and its placeholder
	texts := map[string]string{}
	var order []string
	for p := range files(t, filepath.Join(w.home, ".config"), filepath.Join(w.home, ".local"), filepath.Join(w.home, ".ssh")) {
		order = append(order, p)
	}
	slices.Sort(order)
	for _, p := range order {
		text := read(t, p)
		if strings.Contains(text, "PRIVATE KEY") {
			out, err := exec.Command("ssh-keygen", "-y", "-f", p).Output()
			if err != nil {
				t.Fatal(err)
			}
			name := fmt.Sprintf("@KEY%d@", len(keys)/2)
			keys = append(keys, strings.Fields(string(out))[1], name)
			text = name + " private\n"
		}
		texts[p] = text
	}
	rename := strings.NewReplacer(append(slices.Clone(keys), w.names()...)...)
	add := func(name, text string) {
		a.Files = append(a.Files, txtar.File{Name: rename.Replace(name), Data: []byte(rename.Replace(text))})
	}
	for _, p := range order {
		if texts[p] != "" { // locks are empty
			add(strings.TrimPrefix(p, w.home+"/"), texts[p])
		}
	}
	// The machine type without the version of the QEMU that wrote it.
	xml := virsh("dumpxml", "--inactive", w.vm)
	for v := range strings.SplitSeq(xml, "'") {
		if strings.HasPrefix(v, "pc-q35-") {
			xml = strings.ReplaceAll(xml, v, "q35")
		}
	}
	add("domain.xml", xml)
	add("network.xml", virsh("net-dumpxml", "--inactive", w.net))
	for _, n := range strings.Fields(virsh("pool-list", "--all", "--name")) {
		if x := virsh("pool-dumpxml", n); strings.Contains(x, "<path>"+w.home) {
			add("pool.name", n+"\n")
		}
	}
	if err := os.MkdirAll(filepath.Dir(fixture), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(fixture, txtar.Format(a), 0o644); err != nil {
		t.Fatal(err)
	}
}

// restore writes the files of the fixture, with new disks.
func (w *world) restore(a *txtar.Archive) {
	t := w.t
	names := w.names()
	for i := 0; i < len(names); i += 2 {
		names[i], names[i+1] = names[i+1], names[i]
	}
	private := map[string]string{}
	for n := range 9 {
		p := filepath.Join(t.TempDir(), "k")
		if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", p).CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		name := fmt.Sprintf("@KEY%d@", n)
		private[name+" private\n"] = read(t, p)
		names = append(names, name, strings.Fields(read(t, p+".pub"))[1])
	}
	rename := strings.NewReplacer(names...)
	special := map[string]string{}
	for _, f := range a.Files {
		text := string(f.Data)
		if key, ok := private[text]; ok {
			text = key
		}
		name, text := rename.Replace(f.Name), rename.Replace(text)
		if !strings.Contains(name, "/") {
			special[name] = text
			continue
		}
		write(t, filepath.Join(w.home, name), text)
		if strings.HasSuffix(name, ".pub") || strings.HasSuffix(name, "known_hosts") {
			if err := os.Chmod(filepath.Join(w.home, name), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Chmod(filepath.Dir(filepath.Join(w.home, name)), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.MkdirAll(w.base, 0o711); err != nil {
		t.Fatal(err)
	}
	disk := filepath.Join(w.base, "0-"+w.vm+".qcow2")
	write(t, filepath.Join(w.base, "0-"+w.vm+".seed"), strings.Repeat("\x00", 64<<10))
	write(t, filepath.Join(w.home, "domain.xml"), special["domain.xml"])
	write(t, filepath.Join(w.home, "network.xml"), special["network.xml"])
	pool := strings.TrimSpace(special["pool.name"])
	for _, argv := range [][]string{
		{"qemu-img", "create", "-q", "-f", "qcow2", disk, "4G"},
		{"virsh", "-q", "-c", "qemu:///system", "pool-define-as", pool, "dir", "--target", w.base},
		{"virsh", "-q", "-c", "qemu:///system", "pool-start", pool},
		{"virsh", "-q", "-c", "qemu:///system", "net-define", filepath.Join(w.home, "network.xml")},
		{"virsh", "-q", "-c", "qemu:///system", "net-start", w.net},
		{"virsh", "-q", "-c", "qemu:///system", "net-autostart", w.net},
		{"virsh", "-q", "-c", "qemu:///system", "define", filepath.Join(w.home, "domain.xml")},
	} {
		if out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", argv, err, out)
		}
	}
}
