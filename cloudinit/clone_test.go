package cloudinit

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// The scripts are valid POSIX shell, and all placeholders in them are replaced.
func TestCloneScriptsAreShell(t *testing.T) {
	clone, err := CloneScript(guest(t))
	if err != nil {
		t.Fatal(err)
	}
	for name, s := range map[string]string{"clone": string(clone), "clean": CleanScript(), "run": cloneRun, "grow": growRun} {
		c := exec.Command("sh", "-n")
		c.Stdin = strings.NewReader(s)
		if out, err := c.CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
		if strings.Contains(s, "@RUN") || strings.Contains(s, "@HOST") || strings.Contains(s, "@UNIT") || strings.Contains(s, "@MARK") {
			t.Errorf("%s has a placeholder:\n%s", name, s)
		}
	}
	if !strings.Contains(CleanScript(), CleanedLine) {
		t.Error("the clean script does not print CleanedLine")
	}
}

// zerofree.pl removes deleted data from all clusters that are only partly free, and changes
// no existing file.
func TestZeroFree(t *testing.T) {
	dir := t.TempDir()
	disk := filepath.Join(dir, "disk")
	run := func(stdin string, argv ...string) string {
		t.Helper()
		c := exec.Command(argv[0], argv[1:]...)
		c.Stdin = strings.NewReader(stdin)
		out, err := c.CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %v\n%s", argv, err, out)
		}
		return string(out)
	}
	run("", "truncate", "-s", "64M", disk)
	run("", "mke2fs", "-q", "-F", "-t", "ext4", "-b", "4096", disk)
	var add, drop strings.Builder
	for i := range 120 {
		name, text := fmt.Sprintf("f%d", i), fmt.Sprintf("KEPT%03d", i)
		if i%2 == 1 {
			text = fmt.Sprintf("GONE%03d", i)
			drop.WriteString("rm " + name + "\n")
		}
		f := filepath.Join(dir, name)
		if err := os.WriteFile(f, []byte(strings.Repeat(text, 800)), 0o600); err != nil {
			t.Fatal(err)
		}
		add.WriteString("write " + f + " " + name + "\n")
	}
	run(add.String(), "debugfs", "-w", "-f", "-", disk)
	run(drop.String(), "debugfs", "-w", "-f", "-", disk)
	before, err := os.ReadFile(disk)
	if err != nil || !strings.Contains(string(before), "GONE") {
		t.Fatalf("%v: nothing to overwrite", err)
	}
	for _, start := range []string{"0", "2048", "24"} {
		if err := os.WriteFile(disk, before, 0o600); err != nil {
			t.Fatal(err)
		}
		run(zeroFree, "perl", "-", disk, start)
		run("", "e2fsck", "-fn", disk)
		after, err := os.ReadFile(disk)
		if err != nil {
			t.Fatal(err)
		}
		// A completely free cluster is discarded by fstrim instead.
		n, _ := strconv.Atoi(start)
		shift := n * 512 % 65536
		padded := append(make([]byte, shift), after...)
		for at := 0; at < len(padded); at += 65536 {
			c := string(padded[at:min(at+65536, len(padded))])
			if strings.Contains(c, "GONE") && strings.Contains(c, "KEPT") {
				t.Errorf("start %s: the used cluster at %d contains deleted data", start, at)
			}
		}
		for i := 0; i < 120; i += 2 {
			if want := strings.Repeat(fmt.Sprintf("KEPT%03d", i), 800); !strings.Contains(string(after), want) {
				t.Fatalf("start %s: file %d is damaged", start, i)
			}
		}
	}
}

// The clone script writes values unchanged, including characters with a meaning in shell.
// The script runs in a directory of the test, with stubs for the programs it calls.
func TestCloneScriptKeepsValues(t *testing.T) {
	g := guest(t)
	g.AuthorizedKeys = []string{g.AuthorizedKeys[0] + " it's $(touch /tmp/x) `id` \\n %s", g.AuthorizedKeys[0]}
	script, err := CloneScript(g)
	if err != nil {
		t.Fatal(err)
	}
	root := t.TempDir()
	text := string(script)
	for _, dir := range []string{"/etc/", "/home/", "/proc/"} {
		text = strings.ReplaceAll(text, dir, root+dir)
	}
	for _, d := range []string{"etc/ssh", "etc/sudoers.d", "home", "proc/sys/kernel"} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(root, "etc/hosts"), []byte("127.0.0.1 localhost\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, "etc/ssh/ssh_host_rsa_key"), []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	passwd := "root:x:0:0:root:/root:/bin/bash\n" + g.User + ":x:1000:1000::" + root + "/home/agent:/bin/sh\n"
	for name, text := range map[string]string{"passwd": passwd, "shadow": g.User + ":!:1:0:::::\n"} {
		if err := os.WriteFile(filepath.Join(root, "etc", name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	stubs := "usermod() { echo usermod; exit 9; }\nuseradd() { exit 9; }\nchown() { :; }\n"
	c := exec.Command("sh", "-s")
	c.Stdin = strings.NewReader(stubs + text)
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	read := func(name string) string {
		b, err := os.ReadFile(filepath.Join(root, name))
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	for name, want := range map[string]string{
		"home/agent/.ssh/authorized_keys":    strings.Join(g.AuthorizedKeys, "\n") + "\n",
		"etc/ssh/ssh_host_ed25519_key":       strings.TrimRight(g.HostKeyPrivatePEM, "\n") + "\n",
		"etc/ssh/ssh_host_ed25519_key.pub":   strings.TrimSpace(g.HostKeyPublic) + "\n",
		"etc/hostname":                       g.Hostname + "\n",
		"etc/hosts":                          "127.0.0.1 localhost\n127.0.1.1 " + g.Hostname + "\n",
		"etc/sudoers.d/90-cloud-init-users":  g.User + " ALL=(ALL) NOPASSWD:ALL\n",
		"etc/ssh/sshd_config.d/10-aivm.conf": sshdConf,
	} {
		if got := read(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	if st, err := os.Stat(filepath.Join(root, "etc/ssh/ssh_host_ed25519_key")); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("the host key: %v %v", st, err)
	}
	if _, err := os.Stat(filepath.Join(root, "etc/ssh/ssh_host_rsa_key")); err == nil {
		t.Error("the image's host key was not removed")
	}
}
