package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestPairs runs every pair of commands concurrently on one VM. Most pairs need no guest: the VM's
// disk is a placeholder that does not boot, and a command that waits for the guest is interrupted
// after a few seconds, while it holds the VM's lock. `make test-long` also runs pairs that need a
// guest, on a running VM.
func TestPairs(t *testing.T) {
	table, mu := map[string][]string{}, &sync.Mutex{}
	t.Cleanup(func() { printTable(t, table) })
	t.Run("both", func(t *testing.T) {
		const lanes = 3
		for lane := range lanes {
			t.Run(fmt.Sprintf("off%d", lane), func(t *testing.T) {
				t.Parallel()
				offPairs(t, lane, lanes, table, mu)
			})
		}
		if pairRounds > 1 {
			t.Run("on", func(t *testing.T) {
				t.Parallel()
				onPairs(t, table, mu)
			})
		}
	})
}

func pairConfig(t *testing.T, w *world, vm string, n int, more string) {
	t.Helper()
	write(t, filepath.Join(w.home, ".config/aivm/config.toml"), fmt.Sprintf("# mine\n[defaults.vm]\nname = %q\n%s\n[defaults.network]\nname = \"e2e-pair%d\"\nbridge = \"vbr-e2e-pr%[3]d\"\n"+
		"subnet_cidr = \"10.94.%[4]d.0/24\"\ngateway_ip = \"10.94.%[4]d.1\"\ndhcp_start = \"10.94.%[4]d.100\"\ndhcp_end = \"10.94.%[4]d.200\"\n[defaults.sync]\nsettings_exclude = [\"pairs\"]\n", vm, more, n, 20+n), 0o600)
	write(t, filepath.Join(w.home, ".ssh/config"), "Host other\n\tUser me\n", 0o600)
	for _, p := range []string{"p1", "p2"} {
		write(t, filepath.Join(w.home, p, "Makefile"), "all:\n", 0o644)
	}
	// $EDITOR stays open for 0.2 s and adds a comment. The comment is in the first line, because one
	// at the end of a record is deleted with the record.
	write(t, filepath.Join(w.home, "editor"), "#!/bin/sh\nsleep 0.2\nsed -i '1i # edited' \"$1\"\n", 0o755)
	write(t, filepath.Join(w.home, "other.img"), string(placeholderDisk(7)), 0o644)
	w.env = append(w.env, "EDITOR="+filepath.Join(w.home, "editor"))
}

// placeholderDisk returns a 64 KB disk image with a boot sector and nothing to boot.
func placeholderDisk(n byte) []byte {
	img := make([]byte, 64<<10)
	img[0], img[510], img[511] = n, 0x55, 0xaa
	return img
}

// offPairs runs the pairs of one lane, which has its own VM.
func offPairs(t *testing.T, lane, lanes int, table map[string][]string, mu *sync.Mutex) {
	w := rootWorld(t)
	vm := fmt.Sprintf("e2e-pr%d", lane)
	home, err := os.MkdirTemp("/var/tmp", "aivm-e2e-pairs-") // QEMU's user must be able to read it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(home) })
	if err := os.Chmod(home, 0o755); err != nil {
		t.Fatal(err)
	}
	for i, e := range w.env {
		w.env[i] = strings.ReplaceAll(e, w.home, home)
		if strings.HasPrefix(e, "XDG_CACHE_HOME=") {
			w.env[i] = "XDG_CACHE_HOME=" + home + "/.cache"
		}
	}
	w.home = home
	w.env = append(w.env, "HTTPS_PROXY=http://127.0.0.1:1")
	image := filepath.Join(home, "tiny.img")
	write(t, image, string(placeholderDisk(byte(lane))), 0o644)
	pairConfig(t, w, vm, lane, "cpus = 1\nram_mb = 512\ndisk_gb = 4\n[defaults.image]\nname = \""+image+"\"\n")
	t.Cleanup(func() { w.t = t; w.aivm("", "vm", "delete", vm, "--yes") })

	p := &pairWorld{world: w, vm: vm, table: table, mu: mu}
	p.reset = func() {
		state := strings.TrimSpace(domstate(vm))
		config := string(mustRead(w.t, filepath.Join(home, ".config/aivm/config.toml")))
		if state == "" || !strings.Contains(config, "[[vms]]") {
			// Killed as soon as the VM is recorded, because it never boots.
			r := w.run("", nil, []string{"AIVM_KILL_AT=store.vm:after"}, filepath.Join(bin, "aivm-faulty"), "vm", "create", vm, "--yes")
			if r.code != -1 && r.code != 0 {
				w.t.Fatalf("vm create: %+v", r)
			}
			state = "running"
		}
		if state != "shut off" {
			w.must("", "vm", "down", vm, "--force")
		}
		if config = string(mustRead(w.t, filepath.Join(home, ".config/aivm/config.toml"))); !strings.Contains(config, filepath.Join(home, "p1")+`"`) {
			w.must("", "attach", "p1", "--yes")
		}
		if strings.Contains(config, filepath.Join(home, "p2")+`"`) {
			w.must("", "detach", "p2")
		}
		if r := w.must("", "vm", "snapshots", vm); !strings.Contains(r.stdout, "base") {
			w.must("", "vm", "snapshot", "base", "--vm", vm, "--yes")
		}
	}
	n := 0
	snapshot := func() string { n++; return fmt.Sprintf("s%d", n) }
	// A VM that does not boot neither shuts down nor mounts anything. So commands that ask it to,
	// after the other command has started it, are interrupted too.
	const moment = 3 * time.Second
	verbs := func() []pairVerb {
		return []pairVerb{
			{name: "code", argv: []string{"code", "p1", "--yes"}, lock: "vm image", stop: moment, ends: []int{130}},
			{name: "ssh", argv: []string{"ssh", "p1", "--yes", "--", "true"}, lock: "vm image", stop: moment, ends: []int{130, 255}},
			{name: "up", argv: []string{"vm", "up", vm, "--yes"}, lock: "vm", stop: moment, ends: []int{130}},
			{name: "attach", argv: []string{"attach", "p2", "--yes"}, lock: "vm", stop: 2 * moment, ends: []int{130}},
			{name: "detach", argv: []string{"detach", "p2"}, lock: "vm", stop: 2 * moment, ends: []int{130}, setup: []string{"attach", "p2", "--yes"}},
			{name: "down", argv: []string{"vm", "down", vm, "--force"}, lock: "vm", disrupts: true},
			{name: "delete", argv: []string{"vm", "delete", vm, "--yes"}, lock: "vm", disrupts: true},
			{name: "snapshot", argv: []string{"vm", "snapshot", snapshot(), "--vm", vm, "--yes"}, lock: "vm", disrupts: true, stop: 2 * moment, ends: []int{130}},
			{name: "rollback", argv: []string{"vm", "rollback", "base", "--vm", vm, "--yes"}, lock: "vm", disrupts: true, stop: 2 * moment, ends: []int{130}},
			{name: "fw apply", argv: []string{"host", "fw", "apply", "--yes"}},
			{name: "image fetch", argv: []string{"image", "fetch", "./other.img", "--again", "--yes"}, lock: "image"},
			{name: "config init", argv: []string{"config", "init", "--defaults"}, ends: []int{2}}, // there are defaults
			{name: "config edit", argv: []string{"config", "edit"}},
			{name: "status", argv: []string{"status", "--vm", vm}},
			{name: "list", argv: []string{"list"}},
		}
	}
	for round := range pairRounds {
		k := 0
		for i := range verbs() {
			for j := range verbs()[i:] {
				vs := verbs()
				a, b := vs[i], vs[i+j]
				if !longRun && !slices.Contains(ofEachClass, a.name+"+"+b.name) {
					continue
				}
				if k++; k%lanes != lane {
					continue
				}
				if round%2 == 1 {
					a, b = b, a
				}
				if i == i+j && a.name == "snapshot" {
					b.argv = []string{"vm", "snapshot", snapshot(), "--vm", vm, "--yes"}
				}
				p.pair(t, a, b, round)
			}
		}
	}
}

// ofEachClass lists the pairs that `make test` runs: each kind of lock once, with commands that write
// records, that remove what the other command uses, and that take no lock.
var ofEachClass = []string{
	"code+delete", "code+image fetch", "ssh+up", "up+down", "attach+attach", "attach+detach", "attach+config edit",
	"delete+delete", "delete+status", "snapshot+rollback", "snapshot+list", "up+fw apply", "image fetch+image fetch", "config init+config edit",
}

// domstate returns the state of a domain as virsh prints it, or "" if there is no such domain.
func domstate(vm string) string {
	out, err := exec.Command("virsh", "-q", "-c", "qemu:///system", "domstate", vm).Output()
	if err != nil {
		return ""
	}
	return string(out)
}
