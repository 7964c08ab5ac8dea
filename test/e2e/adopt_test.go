//go:build long

package e2e

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"
)

// TestAdopt adopts a VM of aivm 0.3. Before, only ssh and list work; adopt is killed at every fault
// point; folders move to the export directory at the next stop; vm delete leaves nothing.
func TestAdopt(t *testing.T) {
	w := rootWorld(t)
	o := makeOld(t, w, guestImage(t))
	if !t.Run("before", func(t *testing.T) { w.t = t; checkNotAdopted(t, w, o) }) {
		t.FailNow()
	}
	if !t.Run("adopt", func(t *testing.T) { w.t = t; checkAdopt(t, w, o) }) {
		t.FailNow()
	}
	if !t.Run("its folders", func(t *testing.T) { w.t = t; checkMoved(t, w, o) }) {
		t.FailNow()
	}
	t.Run("delete", func(t *testing.T) {
		w.t = t
		w.must("", "vm", "delete", o.name, "--yes")
		leftovers(t, w, o.name)
		if b, err := os.ReadFile(filepath.Join(o.project, "f")); err != nil || string(b) != "from 0.3\n" {
			t.Errorf("the host folder: %v %q", err, b)
		}
	})
	w.t = t
}

func checkNotAdopted(t *testing.T, w *world, o *oldVM) {
	xml, config := virsh(t, "dumpxml", o.name), read(t, filepath.Join(w.home, ".config/aivm/config.toml"))
	var l struct {
		VMs []struct {
			Name, State string
			NotAdopted  bool `json:"not_adopted"`
		}
	}
	if err := json.Unmarshal([]byte(w.must("", "list", "--json").stdout), &l); err != nil {
		t.Fatal(err)
	}
	if len(l.VMs) != 1 || l.VMs[0].State != "running" || !l.VMs[0].NotAdopted {
		t.Errorf("%+v", l)
	}
	if r := w.must("", "list"); !strings.Contains(r.stdout, "aivm vm adopt "+o.name) {
		t.Errorf("%s", r.stdout)
	}
	if r := w.aivm(o.project, "ssh", ".", "--", "sh", "-c", "hostname; exit 9"); r.code != 9 || r.stdout != o.name+"\n" {
		t.Errorf("ssh: %+v", r)
	}
	for _, args := range [][]string{
		{"code", ".", "--yes"},
		{"attach", ".", "--yes"},
		{"vm", "up", "--yes"},
		{"vm", "down", "--yes"},
		{"vm", "restart", "--yes"},
		{"vm", "delete", o.name, "--yes"},
		{"vm", "snapshot", "x", "--yes"},
		{"vm", "snapshots"},
	} {
		if r := w.aivm(o.project, args...); r.code != 2 || !strings.Contains(r.stderr, "aivm vm adopt "+o.name) {
			t.Errorf("%v: %+v", args, r)
		}
	}
	if virsh(t, "dumpxml", o.name) != xml || read(t, filepath.Join(w.home, ".config/aivm/config.toml")) != config {
		t.Error("the definition or the config changed before vm adopt")
	}
}

func checkAdopt(t *testing.T, w *world, o *oldVM) {
	xml := virsh(t, "dumpxml", "--inactive", o.name)
	known := filepath.Join(w.home, ".ssh/known_hosts")
	lines := read(t, known)
	fingerprint := ssh.FingerprintSHA256(o.host)
	if r := w.aivm("", "vm", "adopt", o.name); r.code != 3 || !strings.Contains(r.stderr, "images/"+o.name+".qcow2") {
		t.Errorf("without --yes: %+v", r)
	}
	write(t, known, "", 0o600)
	if r := w.aivm("", "vm", "adopt", o.name, "--yes"); r.code != 3 || !strings.Contains(r.stderr, fingerprint) {
		t.Errorf("an unknown host key: %+v", r)
	}
	if r := w.aivm("", "vm", "adopt", o.name, "--yes", "--host-key", "SHA256:else"); r.code != 2 || !strings.Contains(r.stderr, fingerprint) {
		t.Errorf("another host key: %+v", r)
	}
	if r := w.aivm("", "vm", "adopt", o.name, "--host-key", fingerprint, "--dry-run"); r.code != 0 || !strings.Contains(r.stdout, fingerprint) {
		t.Errorf("the right --host-key: %+v", r)
	}
	write(t, known, lines, 0o600)
	if points := walk(t, w, "", nil, "vm", "adopt", o.name, "--yes"); len(points) < 12 {
		t.Errorf("killed at only %v", points)
	}
	// Adopting adds only the mark to the definition.
	plain := func(s string) string {
		return regexp.MustCompile(`(?s)\s*<metadata>.*</metadata>`).ReplaceAllString(s, "")
	}
	now := virsh(t, "dumpxml", "--inactive", o.name)
	if plain(now) != plain(xml) || !strings.Contains(now, "urn:aivm:mark:1") {
		t.Errorf("the definition:\n%s\nbecame\n%s", xml, now)
	}
	cfg := read(t, filepath.Join(w.home, ".ssh/config"))
	if strings.Contains(cfg, "aivm:"+o.name) || !strings.HasSuffix(cfg, "Host other\n\tUser me\n\n") || !strings.Contains(cfg, "Include ") {
		t.Errorf("~/.ssh/config:\n%s", cfg)
	}
	if r := w.ssh(nil, o.name, "hostname"); r.stdout != o.name+"\n" {
		t.Errorf("ssh: %+v", r)
	}
	if g := w.ssh(nil, "-G", o.name).stdout; !strings.Contains(g, "stricthostkeychecking true") || !strings.Contains(g, ".local/state/aivm/"+o.name+"/known_hosts") {
		t.Errorf("ssh -G: %s", g)
	}
	// The VM still runs with the devices of 0.3.
	if r := w.aivm(o.project, "code", ".", "--yes"); r.code != 2 || !strings.Contains(r.stderr, "aivm vm restart "+o.name) {
		t.Errorf("code before the VM was stopped: %+v", r)
	}
	if r := w.aivm("", "vm", "adopt", o.name, "--yes"); r.code != 0 || !strings.Contains(r.stdout, "already") {
		t.Errorf("a second vm adopt: %+v", r)
	}
}

func checkMoved(t *testing.T, w *world, o *oldVM) {
	w.guest(o.name, "echo kept > ~/kept; sync")
	w.must("", "vm", "restart", o.name, "--yes")
	r := w.run(o.project, nil, []string{"FAKECODE_WRITE=from-the-editor"}, filepath.Join(bin, "aivm"), "code", ".", "--yes")
	if r.code != 0 {
		t.Fatalf("%+v", r)
	}
	if got := w.guest(o.name, "cat ~/kept "+o.project+"/f; grep -c ' - virtiofs ' /proc/self/mountinfo"); !strings.HasPrefix(got, "kept\nfrom 0.3\n") {
		t.Errorf("%q", got)
	}
	xml := virsh(t, "dumpxml", "--inactive", o.name)
	if strings.Contains(xml, "aivm-shared-root") || !strings.Contains(xml, "/var/lib/aivm/export/0-"+o.name) {
		t.Errorf("devices after the restart:\n%s", xml)
	}
	if m := read(t, "/proc/self/mountinfo"); strings.Contains(m, o.name+"/shared-root") {
		t.Errorf("the mounts of 0.3 still exist")
	}
	warm := w.run(o.project, nil, []string{"FAKECODE_QUICK=1"}, filepath.Join(bin, "aivm"), "code", ".", "--dry-run")
	if warm.code != 0 || !strings.Contains(warm.stdout, "Nothing would change") {
		t.Errorf("code --dry-run after code: %+v", warm)
	}
}
