package upgrade

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestFuture checks that files of a later aivm are refused, with their path in the error, and never
// changed by any command; and that unknown keys are kept when other keys are written.
func TestFuture(t *testing.T) {
	now := build(t, "../..")
	w := newWorld(t, 8)
	w.createOld(now, older{snapshots: true})
	instance := filepath.Join(w.state, w.vm, "instance.json")
	seen, err := filepath.Glob(filepath.Join(w.state, w.vm, "executed", "*.json"))
	if err != nil || len(seen) == 0 {
		t.Fatalf("no list of host-executed files: %v", err)
	}
	net := "/var/lib/aivm/manifest/net-" + w.net + ".json"
	index := filepath.Join(w.home, ".cache/aivm/images/index.json")
	guest := "/var/lib/aivm/manifest/vm-0-" + w.vm + ".json"
	w.killedAt("domain.start:before", now.faulty, "vm", "up", w.vm, "--yes")

	verbs := map[string][]string{
		"attach": {"attach", "p3", "--yes"}, "detach": {"detach", "p1"}, "code": {"code", "p1", "--yes"}, "up": {"vm", "up", w.vm, "--yes"},
		"delete": {"vm", "delete", w.vm, "--yes"}, "snapshot": {"vm", "snapshot", "new", "--vm", w.vm, "--yes"}, "init": {"config", "init", "--defaults", "--force"},
		"fw": {"host", "fw", "apply", "--yes"}, "reviewed": {"attach", "p1", "--reviewed", "--yes"}, "create": {"vm", "create", w.vm + "b", "--image", "./tiny.img", "--yes"},
	}
	for _, c := range []struct {
		name           string
		path, from, to string
		verbs          string
		message        string
	}{
		{"the config", w.store, "schema_version = 5", "schema_version = 6\nnews = { a = [1] }", "attach detach delete init create", "schema_version 6"},
		{"the state of the VM", instance, `"schema": 1`, `"schema": 2, "news": {"address": "of another shape"}`, "code up delete", "version 2"},
		{"the list of files", seen[0], `"schema":1`, `"schema":2,"more":[1]`, "reviewed", "version 2"},
		{"the firewall's manifest", net, `"version": 1`, `"version": 9`, "fw up", "version 9"},
		{"the manifest of folders", guest, `"version": 1`, `"version": 9`, "attach", "version 9"},
		{"the index of the cache", index, `"schema": 1`, `"schema": 9`, "create", "another version"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w.t = t
			b, err := os.ReadFile(c.path)
			if err != nil {
				t.Fatal(err)
			}
			defer func() {
				if err := os.WriteFile(c.path, b, 0o644); err != nil {
					t.Fatal(err)
				}
			}()
			later := strings.Replace(string(b), c.from, c.to, 1)
			if later == string(b) {
				t.Fatalf("%s has no %s:\n%s", c.path, c.from, b)
			}
			if err := os.WriteFile(c.path, []byte(later), 0o644); err != nil {
				t.Fatal(err)
			}
			for _, v := range strings.Fields(c.verbs) {
				r := w.run(nil, append([]string{now.aivm}, verbs[v]...)...)
				if r.code != 2 || !strings.Contains(r.stderr, c.message) || !strings.Contains(r.stderr, c.path) || !strings.Contains(r.stderr, "hint: ") {
					t.Errorf("%s: exit %d, %s", v, r.code, r.stderr)
				}
				if now := read(t, c.path); now != later {
					t.Fatalf("%s changed %s:\n%s", v, c.path, now)
				}
			}
			// Reading commands still work.
			if r := w.run(nil, now.aivm, "list"); r.code != 0 || !strings.Contains(r.stdout, w.vm) {
				t.Errorf("list: exit %d\n%s%s", r.code, r.stdout, r.stderr)
			}
		})
		w.t = t
	}
	if virsh("domstate", w.vm) == "" {
		t.Error("the VM is no longer defined")
	}

	t.Run("unknown keys stay", func(t *testing.T) {
		w.t = t
		text := strings.Replace(read(t, w.store), "# mine, and it stays", "# mine, and it stays\n[news] # of a later one\nkey = 'x' # kept\n", 1)
		text = strings.Replace(text, "\n[[attachments]]\n", "\n[[attachments]]\ncolour = 'blue' # kept too\n", 1)
		write(t, w.store, text)
		w.must(now.aivm, "attach", "p3", "--yes")
		w.must(now.aivm, "detach", "p3")
		if s := read(t, w.store); !strings.Contains(s, "[news] # of a later one\nkey = 'x' # kept\n") || !strings.Contains(s, "colour = 'blue' # kept too") {
			t.Errorf("the config became\n%s", s)
		}
		in := read(t, instance)
		write(t, instance, strings.Replace(in, "{", `{"news": {"a": [1, "b"]},`, 1))
		// Saving the state again also writes the VM's MAC address again.
		write(t, instance, strings.Replace(read(t, instance), `"mac": "52`, `"mac": "5f`, 1))
		w.killedAt("domain.start:before", now.faulty, "vm", "up", w.vm, "--yes")
		if s := read(t, instance); !strings.Contains(s, `"mac": "52`) || !strings.Contains(s, `"news":`) {
			t.Errorf("the state became %s", s)
		}
	})
	w.t = t
	w.must(now.aivm, "vm", "delete", w.vm, "--yes")
	if s := fmt.Sprint(files(t, filepath.Join(w.state, w.vm))); s != "map[]" {
		t.Errorf("state files remain: %s", s)
	}
}
