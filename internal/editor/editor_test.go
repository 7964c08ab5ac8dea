package editor

import (
	"errors"
	"flag"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"aivm.dev/aivm/internal/ui"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// host returns the Env of a fake host with these files and environment variables.
func host(files []string, environ ...string) Env {
	has := func(path string) error {
		if slices.Contains(files, path) {
			return nil
		}
		return fs.ErrNotExist
	}
	getenv := func(name string) string {
		for _, kv := range environ {
			if k, v, _ := strings.Cut(kv, "="); k == name {
				return v
			}
		}
		return ""
	}
	return Env{
		Stat: has, Getenv: getenv,
		Geteuid: func() int { return 1000 },
		Environ: func() []string { return environ },
		LookPath: func(name string) (string, error) {
			if strings.Contains(name, "/") {
				return name, has(name)
			}
			for _, dir := range strings.Split(getenv("PATH"), ":") {
				if dir != "" && has(dir+"/"+name) == nil {
					return dir + "/" + name, nil
				}
			}
			return "", fs.ErrNotExist
		},
	}
}

func TestLookup(t *testing.T) {
	const path = "PATH=/usr/local/bin:/usr/bin"
	for _, c := range []struct {
		name    string
		files   []string
		environ []string
		want    string
		argv    []string
		how     string
		skipped string // part of the reason, if not found
	}{
		{name: "path", files: []string{"/usr/bin/code"}, environ: []string{path}, want: "auto", argv: []string{"/usr/bin/code"}, how: "path"},
		{name: "no want is auto", files: []string{"/usr/bin/code"}, environ: []string{path}, argv: []string{"/usr/bin/code"}, how: "path"},
		{name: "snap off the path", files: []string{"/snap/bin/code"}, environ: []string{path}, want: "code", argv: []string{"/snap/bin/code"}, how: "snap"},
		{name: "folder", files: []string{"/opt/visual-studio-code/bin/code"}, want: "auto", argv: []string{"/opt/visual-studio-code/bin/code"}, how: "folder"},
		{name: "folder at home", files: []string{"/home/u/VSCode-linux-x64/bin/code"}, environ: []string{"HOME=/home/u"}, want: "auto", argv: []string{"/home/u/VSCode-linux-x64/bin/code"}, how: "folder"},
		{name: "no home", files: []string{"/VSCode-linux-x64/bin/code", "VSCode-linux-x64/bin/code"}, want: "auto"},
		{name: "flatpak", files: []string{"/usr/bin/flatpak", "/var/lib/flatpak/app/com.visualstudio.code"}, environ: []string{path}, want: "code", argv: []string{"/usr/bin/flatpak", "run", "com.visualstudio.code"}, how: "flatpak"},
		{name: "flatpak of a user", files: []string{"/usr/bin/flatpak", "/home/u/.local/share/flatpak/app/com.vscodium.codium"}, environ: []string{path, "HOME=/home/u"}, want: "codium", argv: []string{"/usr/bin/flatpak", "run", "com.vscodium.codium"}, how: "flatpak"},
		{name: "flatpak data home", files: []string{"/usr/bin/flatpak", "/d/flatpak/app/com.visualstudio.code"}, environ: []string{path, "XDG_DATA_HOME=/d"}, want: "auto", argv: []string{"/usr/bin/flatpak", "run", "com.visualstudio.code"}, how: "flatpak"},
		{name: "flatpak without the app", files: []string{"/usr/bin/flatpak"}, environ: []string{path}, want: "auto"},
		{name: "app without flatpak", files: []string{"/var/lib/flatpak/app/com.visualstudio.code"}, environ: []string{path}, want: "auto"},
		{name: "insiders by auto", files: []string{"/usr/bin/code-insiders"}, environ: []string{path}, want: "auto", argv: []string{"/usr/bin/code-insiders"}, how: "path"},
		{name: "code before insiders", files: []string{"/usr/bin/code-insiders", "/snap/bin/code"}, environ: []string{path}, want: "auto", argv: []string{"/snap/bin/code"}, how: "snap"},
		{name: "insiders is not code", files: []string{"/usr/bin/code-insiders"}, environ: []string{path}, want: "code"},
		{name: "cursor by auto", files: []string{"/usr/bin/cursor"}, environ: []string{path}, want: "auto", argv: []string{"/usr/bin/cursor"}, how: "path"},
		{name: "codium not by auto", files: []string{"/usr/bin/codium"}, environ: []string{path}, want: "auto", skipped: "--editor codium"},
		{name: "codium by name", files: []string{"/usr/bin/codium"}, environ: []string{path}, want: "codium", argv: []string{"/usr/bin/codium"}, how: "path"},
		{name: "second command", files: []string{"/usr/bin/vscodium"}, environ: []string{path}, want: "codium", argv: []string{"/usr/bin/vscodium"}, how: "path"},
		{name: "remote cli", files: []string{"/home/u/.vscode-server/bin/x/bin/remote-cli/code"}, environ: []string{"PATH=/home/u/.vscode-server/bin/x/bin/remote-cli"}, want: "auto", skipped: "another machine"},
		{name: "remote cli before a real one", files: []string{"/r/remote-cli/code", "/usr/bin/code"}, environ: []string{"PATH=/r/remote-cli"}, want: "auto", argv: []string{"/usr/bin/code"}, how: "folder"},
		{name: "windows", files: []string{"/mnt/c/VS Code/bin/code"}, environ: []string{"PATH=/mnt/c/VS Code/bin", "WSL_DISTRO_NAME=Debian"}, want: "code", skipped: "Windows"},
		{name: "mnt without WSL", files: []string{"/mnt/disk/bin/code"}, environ: []string{"PATH=/mnt/disk/bin"}, want: "code", argv: []string{"/mnt/disk/bin/code"}, how: "path"},
		{name: "windsurf by auto", files: []string{"/opt/windsurf/bin/windsurf"}, want: "auto", argv: []string{"/opt/windsurf/bin/windsurf"}, how: "folder"},
		{name: "zed under its other name", files: []string{"/usr/bin/zeditor"}, environ: []string{path}, want: "auto", argv: []string{"/usr/bin/zeditor"}, how: "path"},
		{name: "zed flatpak", files: []string{"/usr/bin/flatpak", "/var/lib/flatpak/app/dev.zed.Zed"}, environ: []string{path}, want: "zed", argv: []string{"/usr/bin/flatpak", "run", "dev.zed.Zed"}, how: "flatpak"},
		{name: "gateway not by auto", files: []string{"/usr/bin/gateway"}, environ: []string{path}, want: "auto", skipped: "--editor gateway"},
		{name: "gateway of the toolbox", files: []string{"/home/u/.local/share/JetBrains/Toolbox/scripts/gateway"}, environ: []string{"HOME=/home/u"}, want: "gateway", argv: []string{"/home/u/.local/share/JetBrains/Toolbox/scripts/gateway"}, how: "folder"},
		{name: "positron by name", files: []string{"/usr/bin/positron"}, environ: []string{path}, want: "positron", argv: []string{"/usr/bin/positron"}, how: "path"},
		{name: "positron not by auto", files: []string{"/usr/bin/positron"}, environ: []string{path}, want: "auto", skipped: "--editor positron"},
		{name: "nothing", want: "auto"},
		{name: "nothing of that name", want: "code"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f, err := Lookup(host(c.files, c.environ...), c.want)
			if c.argv != nil {
				if err != nil {
					t.Fatal(err)
				}
				if d := cmp.Diff(c.argv, f.Argv); d != "" || f.How != c.how || f.Editor.ID == "" {
					t.Errorf("how %q, want %q; argv -want +got:\n%s", f.How, c.how, d)
				}
				return
			}
			var missing *NotFoundError
			if !errors.As(err, &missing) {
				t.Fatalf("got %v, %v", f, err)
			}
			if want := c.want; missing.Want != want || !strings.Contains(err.Error(), c.skipped) {
				t.Errorf("want %q in %v", c.skipped, err)
			}
			var refused *ui.Error
			if named := c.want != Auto; errors.As(err, &refused) != named {
				t.Errorf("refused: %v, named: %v", refused, named)
			} else if named && (refused.Exit != ui.ExitRefused || len(refused.HintLines()) == 0) {
				t.Errorf("refusal %+v", refused)
			}
		})
	}
}

func TestLookupOfAnUnknownEditor(t *testing.T) {
	_, err := Lookup(host(nil), "vi; rm -rf /")
	var e *ui.Error
	if !errors.As(err, &e) || e.Exit != ui.ExitUsage || !strings.Contains(strings.Join(e.HintLines(), " "), "codium") {
		t.Errorf("got %v", err)
	}
}

func TestTable(t *testing.T) {
	if got := IDs(); !slices.Equal(got, []string{"code", "code-insiders", "codium", "cursor", "windsurf", "antigravity", "positron", "zed", "gateway", "code-server", "terminal", "print"}) {
		t.Errorf("ids %q", got)
	}
	extensionID := regexp.MustCompile(`^[a-z0-9-]+\.[a-z0-9.-]+$`)
	for _, e := range Editors() {
		if e.Kind.NeedsNoLauncher() {
			continue
		}
		if e.Kind != Desktop {
			if e.Name == "" || len(e.Commands) == 0 || e.Scheme == "" || e.Install == "" || !e.BuiltIn {
				t.Errorf("%s is incomplete: %+v", e.ID, e)
			}
			continue
		}
		if e.ConfigFileKey == "" || e.Name == "" || len(e.Commands) == 0 || e.ServerDir == "" || e.SettingsDir == "" || e.Scheme == "" || e.Install == "" || !extensionID.MatchString(e.Extension) {
			t.Errorf("%s is incomplete: %+v", e.ID, e)
		}
		if (e.Flatpak == "") != (e.FlatpakSettingsDir == "") {
			t.Errorf("%s: only one of flatpak and its settings directory is set", e.ID)
		}
		for _, p := range e.Paths {
			if !strings.HasPrefix(p, "/") && !strings.HasPrefix(p, "~/") {
				t.Errorf("%s: path %q", e.ID, p)
			}
		}
	}
	if _, ok := ByID("emacs"); ok {
		t.Error("emacs found")
	}
}

func TestRemoteSession(t *testing.T) {
	for kv, want := range map[string]string{
		"SSH_CONNECTION=1.2.3.4 5 6.7.8.9 22": "SSH session", "SSH_TTY=/dev/pts/0": "SSH session",
		"VSCODE_IPC_HOOK_CLI=/run/x.sock": "remote editor", "CODESPACES=true": "codespace", "REMOTE_CONTAINERS=true": "container",
	} {
		reason, remote := RemoteSession(host(nil, kv))
		if !remote || !strings.Contains(reason, want) {
			t.Errorf("%s: %q, %v", kv, reason, remote)
		}
	}
	if reason, remote := RemoteSession(host(nil, "TERM_PROGRAM=vscode", "VSCODE_IPC_HOOK=/run/x", "SSH_AUTH_SOCK=/x", "SSH_CONNECTION=")); remote {
		t.Errorf("a local window is reported as remote: %q", reason)
	}
}

func TestOpenArgs(t *testing.T) {
	for _, c := range []struct{ alias, path, want string }{
		{"a", "/home/me/project", "/home/me/project"},
		{"aivm-2", "/home/me/my.project", "/home/me/my.project/"},
		{"a", "/home/me/.git", "/home/me/.git/"},
		{"a", "/home/me/foo.", "/home/me/foo./"},
		{"a", "/home/me/x.code-workspace", "/home/me/x.code-workspace/"},
		{"a", "/home/v1.2/project", "/home/v1.2/project"},
		{"a", "/", "/"},
		{"a", "/with space/ünï\n'", "/with space/ünï\n'"},
		{"A", "/p", ""},
		{"a.b", "/p", ""},
		{"", "/p", ""},
		{"a-", "/p", ""},
		{"-a", "/p", ""},
		{"a b", "/p", ""},
		{strings.Repeat("a", 64), "/p", ""},
		{"a", "p", ""},
		{"a", "", ""},
		{"a", "/p/../q", ""},
		{"a", "/p/", ""},
		{"a", "/p\x00q", ""},
	} {
		got, err := OpenArgs(Found{}, Target{Alias: c.alias, Path: c.path})
		var refused *ui.Error
		switch {
		case c.want == "" && !errors.As(err, &refused):
			t.Errorf("%q %q: got %q, %v", c.alias, c.path, got, err)
		case c.want != "" && !slices.Equal(got, []string{"--remote", "ssh-remote+" + c.alias, c.want}):
			t.Errorf("%q %q: got %q, %v", c.alias, c.path, got, err)
		}
	}
}

func TestRecipe(t *testing.T) {
	var b strings.Builder
	for _, p := range []string{"/home/me/project", "/home/me/my.project", "/a b/100%/ü#?+&=:@", "/it's/\x1b[2Jx\n"} {
		r, err := NewRecipe("aivm", p, "agent")
		if err != nil {
			t.Fatal(err)
		}
		b.WriteString(r.All() + "\n")
	}
	golden := filepath.Join("testdata", "recipe.golden")
	if *update {
		if err := os.WriteFile(golden, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), b.String()); d != "" {
		t.Errorf("-want +got:\n%s", d)
	}
	if strings.ContainsRune(b.String(), 0x1b) {
		t.Error("an escape sequence in a path is printed to the terminal")
	}
	if _, err := NewRecipe("x.y", "/p", "agent"); err == nil {
		t.Error("a bad alias was accepted")
	}
}

func TestEnviron(t *testing.T) {
	for _, c := range []struct {
		name     string
		in, want []string
	}{
		{"plain", []string{"HOME=/h", "PATH=/usr/bin:/bin", "DISPLAY=:0", "EMPTY="}, []string{"HOME=/h", "PATH=/usr/bin:/bin", "DISPLAY=:0", "EMPTY="}},
		{"snap kept a value", []string{"GTK_PATH=/snap/code/1/gtk", "GTK_PATH_VSCODE_SNAP_ORIG=/my/gtk"}, []string{"GTK_PATH=/my/gtk"}},
		{"snap kept that there was none", []string{"GIO_MODULE_DIR=/home/u/snap/code/x", "GIO_MODULE_DIR_VSCODE_SNAP_ORIG="}, nil},
		{"snap kept one it removed", []string{"LOCPATH_VSCODE_SNAP_ORIG=/l"}, []string{"LOCPATH=/l"}},
		{"another snap", []string{"SNAP=/snap/x/1", "SNAP_NAME=x", "SNAPPY=1", "LOCPATH=/snap/x/1/locale", "XDG_DATA_DIRS=/snap/x/1/share:/usr/share:/var/lib/snapd/desktop", "PATH=/snap/x/1/bin:/snap/bin:/bin"}, []string{"SNAPPY=1", "XDG_DATA_DIRS=/usr/share:/var/lib/snapd/desktop", "PATH=/snap/bin:/bin"}},
		{"appimage", []string{"APPIMAGE=/a.AppImage", "APPDIR=/tmp/.mount_a/", "OWD=/x", "ARGV0=a", "LD_LIBRARY_PATH=/tmp/.mount_a/lib:/l", "PATH=/tmp/.mount_a:/tmp/.mount_ab:/bin", "QT_PLUGIN_PATH=/tmp/.mount_a/qt"}, []string{"LD_LIBRARY_PATH=/l", "PATH=/tmp/.mount_ab:/bin"}},
		{"a window's terminal", []string{"ELECTRON_RUN_AS_NODE=1", "VSCODE_IPC_HOOK=/s", "VSCODE_PID=1", "TERM_PROGRAM=vscode", "VSCODE_PORTABLE=/p", "ELECTRON_OZONE_PLATFORM_HINT=auto"}, []string{"TERM_PROGRAM=vscode", "VSCODE_PORTABLE=/p", "ELECTRON_OZONE_PLATFORM_HINT=auto"}},
		{"odd entries", []string{"", "=x", "NOVALUE", "A=1", "A=2", "B=a=b"}, []string{"A=2", "B=a=b"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := Environ(c.in)
			if !slices.Equal(got, c.want) {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}
