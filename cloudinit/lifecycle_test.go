package cloudinit

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseReady(t *testing.T) {
	many := `"e",` + strings.Repeat(`"e",`, 100) + `"e"`
	for _, c := range []struct {
		name, in string
		want     Status
		fails    bool
	}{
		{name: "empty", in: "", fails: true},
		{name: "cut short", in: "installed\nfinished\n", fails: true},
		{name: "bad result", in: "installed\nresult {\nend\n", fails: true},
		{name: "not installed", in: "end\n", want: Status{}},
		{name: "running", in: "installed\nstatus {\"v1\": {\"datasource\": \"DataSourceNoCloud [seed=/dev/vdb][dsmode=net]\", \"stage\": \"modules-config\"}}\nend\n", want: Status{Installed: true, Stage: "modules-config", Datasource: "DataSourceNoCloud [seed=/dev/vdb][dsmode=net]"}},
		{name: "half a status", in: "installed\nstatus {\"v1\": {\nend\n", want: Status{Installed: true}},
		{name: "stage null", in: "installed\nstatus {\"v1\": {\"stage\": null}}\nend\n", want: Status{Installed: true}},
		{name: "done", in: "installed\nfinished\nstatus {\"v1\": {\"stage\": null}}\nresult {\"v1\": {\"datasource\": \"d\", \"errors\": []}}\nend\n", want: Status{Installed: true, Finished: true, Datasource: "d", Errors: []string{}}},
		{name: "done with errors", in: "installed\nresult {\"v1\": {\"datasource\": \"d\", \"errors\": [\"a\\u001b\"]}}\nend\n", want: Status{Installed: true, Finished: true, Datasource: "d", Errors: []string{"a\x1b"}}},
		{name: "switched off", in: "installed\ndisabled\nfinished\nend\n", want: Status{Installed: true, Disabled: true, Finished: true}},
		{name: "noise", in: "hello\n\ninstalled\nend\n", want: Status{Installed: true}},
		{name: "too many errors", in: "result {\"v1\": {\"errors\": [" + many + "]}}\nend\n", want: Status{Finished: true, Errors: strings.Split(strings.Repeat("e", maxErrors), "")}},
		{name: "a line without end", in: "result " + strings.Repeat("x", 2<<20), fails: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := ParseReady([]byte(c.in))
			if (err != nil) != c.fails {
				t.Fatalf("error %v, want one: %v", err, c.fails)
			}
			if d := cmp.Diff(c.want, got); d != "" {
				t.Errorf("-want +got:\n%s", d)
			}
		})
	}
}

func FuzzParseReady(f *testing.F) {
	f.Add([]byte("installed\nresult {\"v1\": {\"errors\": [\"a\"]}}\nend\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := ParseReady(b)
		if err != nil && !cmp.Equal(r, Status{}) {
			t.Errorf("an error and %+v", r)
		}
	})
}

// guestTree creates files in a directory, and returns it with the script changed to act on
// the directory instead of /.
func guestTree(t *testing.T, script string, files map[string]string) (string, string) {
	t.Helper()
	root := t.TempDir()
	for name, content := range files {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	r := strings.NewReplacer("/etc/", root+"/etc/", "/run/", root+"/run/", "/var/lib/", root+"/var/lib/",
		`"$(id -u)" = 0`, "0 = 0", "/usr/lib/systemd/systemd-sysctl", "true", "/lib/systemd/systemd-sysctl", "true")
	return root, r.Replace(script)
}

func sh(t *testing.T, script string) (string, error) {
	t.Helper()
	out, err := exec.Command("sh", "-c", script).CombinedOutput()
	return string(out), err
}

func TestReadyProbe(t *testing.T) {
	_, script := guestTree(t, ReadyProbe(), map[string]string{
		"etc/cloud/cloud-init.disabled":            "",
		"var/lib/cloud/instance/boot-finished":     "x",
		"run/cloud-init/status.json":               "{\n \"v1\": {\n  \"stage\": \"init\"\n }\n}",
		"run/cloud-init/result.json":               "{\n \"v1\": {\n  \"datasource\": \"D [seed=\\\\x]\",\n  \"errors\": [\"one\"]\n }\n}\n",
		"run/cloud-init/something-else/not-a-file": "",
	})
	out, err := sh(t, script)
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	got, err := ParseReady([]byte(out))
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	_, lookErr := exec.LookPath("cloud-init")
	want := Status{Installed: lookErr == nil, Disabled: true, Finished: true, Datasource: `D [seed=\x]`, Errors: []string{"one"}}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("-want +got:\n%s", d)
	}

	_, script = guestTree(t, ReadyProbe(), nil)
	if out, err = sh(t, script); err != nil || !strings.HasSuffix(out, "end\n") {
		t.Errorf("in an empty guest: %v\n%s", err, out)
	}
}

func TestDisableScript(t *testing.T) {
	ready := map[string]string{
		"var/lib/cloud/instance/boot-finished": "x", "etc/cloud/cloud.cfg": "x",
		"etc/netplan/50-cloud-init.yaml": "network: {}", "etc/ssh/ssh_host_ed25519_key": "k",
	}
	root, script := guestTree(t, DisableScript(), ready)
	for range 2 {
		out, err := sh(t, script)
		if err != nil || !strings.HasPrefix(out, "cloud-init off, network from ") {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	if _, err := os.Stat(filepath.Join(root, "etc/cloud/cloud-init.disabled")); err != nil {
		t.Error(err)
	}
	keep, err := os.ReadFile(filepath.Join(root, "etc/cloud/cloud.cfg.d/99-aivm-keep.cfg"))
	if err != nil || !strings.Contains(string(keep), "network: {config: disabled}\n") {
		t.Errorf("%v\n%s", err, keep)
	}
	// Two of the keys belong to the base configuration; cloud-init 25.1 does not accept them
	// in a cloud-config.
	rest := regexp.MustCompile(`(?m)^(manual_cache_clean|network):.*\n?`).ReplaceAll(keep, nil)
	schema := filepath.Join(t.TempDir(), "keep")
	if err := os.WriteFile(schema, append([]byte("#cloud-config\n"), rest...), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("cloud-init", "schema", "-c", schema).CombinedOutput(); err != nil {
		t.Errorf("schema: %v\n%s", err, out)
	}

	for missing, sentence := range map[string]string{
		"var/lib/cloud/instance/boot-finished": "not finished",
		"etc/netplan/50-cloud-init.yaml":       "no network",
		"etc/ssh/ssh_host_ed25519_key":         "host key",
	} {
		root, script := guestTree(t, DisableScript(), ready)
		if err := os.Remove(filepath.Join(root, missing)); err != nil {
			t.Fatal(err)
		}
		if out, err := sh(t, script); err == nil || !strings.Contains(out, sentence) {
			t.Errorf("without %s: %v\n%s", missing, err, out)
		}
		if _, err := os.Stat(filepath.Join(root, "etc/cloud/cloud-init.disabled")); err == nil {
			t.Errorf("without %s: cloud-init was switched off", missing)
		}
	}
}

func TestFirstBootScript(t *testing.T) {
	for _, c := range []struct{ name, in, want string }{
		{"absent", "", ""},
		{"debian", "PRUNE_BIND_MOUNTS=\"yes\"\nPRUNEFS=\"NFS afs\"\nPRUNEPATHS=\"/tmp\"\n", "PRUNE_BIND_MOUNTS=\"yes\"\nPRUNEFS=\"virtiofs NFS afs\"\nPRUNEPATHS=\"/tmp\"\n"},
		{"spaces", "PRUNEFS = \"\"\n", "PRUNEFS = \"virtiofs \"\n"},
		{"present, first", "PRUNEFS=\"virtiofs NFS\"\n", "PRUNEFS=\"virtiofs NFS\"\n"},
		{"present, last", "PRUNEFS=\"NFS virtiofs\"\n", "PRUNEFS=\"NFS virtiofs\"\n"},
		{"a longer word", "PRUNEFS=\"myvirtiofs\"\n", "PRUNEFS=\"virtiofs myvirtiofs\"\n"},
		{"a comment", "# PRUNEFS=\"x\"\n", "# PRUNEFS=\"x\"\nPRUNEFS=\"virtiofs\"\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			tree := map[string]string{"etc/default/x": "", "etc/cloud/x": ""}
			if c.in != "" {
				tree["etc/updatedb.conf"] = c.in
			}
			root, script := guestTree(t, firstBootScript, tree)
			for range 2 {
				if out, err := sh(t, script); err != nil || out != "" {
					t.Fatalf("%v\n%s", err, out)
				}
			}
			got, err := os.ReadFile(filepath.Join(root, "etc/updatedb.conf"))
			if (err != nil) != (c.in == "") || string(got) != c.want {
				t.Errorf("%v, got\n%swant\n%s", err, got, c.want)
			}
			if _, err := os.Stat(filepath.Join(root, "etc/cloud/cloud-init.disabled")); err != nil {
				t.Errorf("cloud-init is not switched off: %v", err)
			}
			if lang, err := os.ReadFile(filepath.Join(root, "etc/default/locale")); string(lang) != "LANG=C.UTF-8\n" {
				t.Errorf("locale: %v %q", err, lang)
			}
		})
	}
}
