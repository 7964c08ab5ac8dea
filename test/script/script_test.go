package script

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"
)

var update = flag.Bool("update", false, "rewrite golden files")

// users are the tests' users with their uids: "sudoer" may use sudo without a password, "plain" has no
// sudo.
var users = map[string]int{"sudoer": 54321, "plain": 54322}

// stage prepares the mount namespace: it bind-mounts a copy of /etc with the tests' users, and a copy of
// the keyrings. It returns the tests' directory.
func stage(t *testing.T) (dir string) {
	t.Helper()
	dir = os.Getenv(stageEnv)
	etc := filepath.Join(dir, "etc")
	const hooks = "/etc/libvirt/hooks"
	sh(t, "mkdir -p "+hooks+" && cp -a /etc "+etc)
	// Not a copy of libvirt's hooks: the daemon runs outside the namespace and executes the host's.
	for _, m := range [][2]string{{hooks, etc + "/libvirt/hooks"}, {etc, "/etc"}} {
		if err := unix.Mount(m[0], m[1], "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
			t.Fatal(err)
		}
	}
	for name, uid := range users {
		sh(t, fmt.Sprintf("groupadd -g %d %s && useradd -M -d %s/home-%[2]s -u %[1]d -g %[1]d %[2]s", uid, name, dir))
	}
	// The command hostkeys changes this copy.
	rings := filepath.Join(dir, "keyrings")
	sh(t, "mkdir -p /usr/share/keyrings && cp -a /usr/share/keyrings "+rings)
	if err := unix.Mount(rings, "/usr/share/keyrings", "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	log := filepath.Join(dir, "sudo.log")
	rules := fmt.Sprintf("Defaults:sudoer !syslog, logfile=%s, !log_year, loglinelen=0\nsudoer ALL=(root) NOPASSWD: ALL\n", log)
	if err := os.WriteFile("/etc/sudoers.d/aivm-script", []byte(rules), 0o440); err != nil {
		t.Fatal(err)
	}
	sh(t, "visudo -cq -f /etc/sudoers.d/aivm-script && touch "+log+" && chmod 644 "+log)
	// testscript created the programs' directory with mode 0700.
	bin := filepath.SplitList(os.Getenv("PATH"))[0]
	if err := os.Chmod(filepath.Dir(bin), 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

func sh(t *testing.T, line string) {
	t.Helper()
	if out, err := exec.Command("sh", "-c", line).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", line, err, out)
	}
}

func TestScripts(t *testing.T) {
	dir := stage(t)
	files, err := filepath.Glob("testdata/script/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	for i, f := range files {
		files[i], _ = filepath.Abs(f)
	}
	slices.Sort(files)
	work := filepath.Join(dir, "work")
	if err := os.Mkdir(work, 0o755); err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{
		Files: files, WorkdirRoot: work, UpdateScripts: *update, RequireUniqueNames: true, RequireExplicitExec: false,
		Setup: func(e *testscript.Env) error { return setup(e, dir, files) },
		Cmds:  commands,
	})
}

// setup gives a script a home, and names in libvirt that no other script uses.
func setup(e *testscript.Env, dir string, files []string) error {
	name := strings.TrimPrefix(filepath.Base(e.WorkDir), "script-")
	n := slices.IndexFunc(files, func(f string) bool { return filepath.Base(f) == name+".txtar" })
	if n < 0 || n > 200 {
		return fmt.Errorf("script %q is number %d", name, n)
	}
	home := filepath.Join(e.WorkDir, "home")
	if err := os.MkdirAll(filepath.Join(home, ".ssh"), 0o700); err != nil {
		return err
	}
	if err := os.Chmod(e.WorkDir, 0o755); err != nil {
		return err
	}
	for k, v := range map[string]string{
		"HOME": home, "USER": "root",
		"XDG_CONFIG_HOME": home + "/.config", "XDG_STATE_HOME": home + "/.local/state", "XDG_CACHE_HOME": home + "/.cache",
		"AIVM_SSH_CONFIG": home + "/.ssh/config",
		"STORE":           home + "/.config/aivm/config.toml", "STATE": home + "/.local/state/aivm",
		"VM": fmt.Sprintf("scr%d", n), "NET": fmt.Sprintf("scrnet%d", n), "BRIDGE": fmt.Sprintf("virbr-scr%d", n), "SUB": fmt.Sprintf("10.99.%d", n+20),
		"SUDOLOG": dir + "/sudo.log", "BASE": e.WorkDir + "/pool", "NL": "\n", "CR": "\r", "ESC": "\x1b",
		// No image server can be reached, so that the image "auto" is the same on every host.
		"HTTPS_PROXY": "http://127.0.0.1:1",
		"TERM":        "xterm", "LC_ALL": "C.UTF-8", codeEnv: e.WorkDir + "/code.log",
	} {
		e.Setenv(k, v)
	}
	return nil
}
