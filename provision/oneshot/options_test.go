package oneshot

import (
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestCheck(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(*Options)
		ok     bool
	}{
		"plain":            {func(*Options) {}, true},
		"workspace":        {func(o *Options) { o.Workspace = "rwx" }, false},
		"net":              {func(o *Options) { o.Net = "slirp" }, false},
		"both terminals":   {func(o *Options) { o.TTY, o.NoTTY = true, true }, false},
		"timeout":          {func(o *Options) { o.Timeout = -time.Second }, false},
		"memory":           {func(o *Options) { o.MemoryMiB = 1 }, false},
		"cpus":             {func(o *Options) { o.CPUs = -1 }, false},
		"mounts":           {func(o *Options) { o.Mounts = make([]string, maxMounts+1) }, false},
		"variable":         {func(o *Options) { o.Env = []string{"A", "B=1", "C=a=b"} }, true},
		"variable no name": {func(o *Options) { o.Env = []string{"=1"} }, false},
		"variable space":   {func(o *Options) { o.Env = []string{"A B=1"} }, false},
		"variable NUL":     {func(o *Options) { o.Env = []string{"A=\x00"} }, false},
		"variable long":    {func(o *Options) { o.Env = []string{"A=" + strings.Repeat("x", maxEnv+1)} }, false},
		"argument NUL":     {func(o *Options) { o.Argv = []string{"a\x00"} }, false},
	} {
		o := plain("x")
		tc.change(&o)
		if err := o.Check(); (err == nil) != tc.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestEnvironment(t *testing.T) {
	host := []string{"TERM=xterm", "COLORTERM=truecolor", "LC_TIME=de", "AWS_SECRET=x", "PATH=/x", "A=host", "broken"}
	for _, tc := range []struct {
		asked, env, missing []string
	}{
		{nil, []string{"TERM=xterm", "COLORTERM=truecolor", "LC_TIME=de", "AIVM=1"}, nil},
		{[]string{"A", "B=2", "C", "TERM=dumb", "B=3", "D="}, []string{"TERM=dumb", "COLORTERM=truecolor", "LC_TIME=de", "AIVM=1", "A=host", "B=3", "D="}, []string{"C"}},
	} {
		env, missing := environment(tc.asked, host)
		if !slices.Equal(env, tc.env) || !slices.Equal(missing, tc.missing) {
			t.Errorf("%q: %q %q", tc.asked, env, missing)
		}
	}
}

func TestWantsTerminal(t *testing.T) {
	for _, tc := range []struct{ command, in, out, tty, no, want bool }{
		{true, true, true, false, false, true},
		{true, true, false, false, false, false}, // aivm run -- make >log
		{true, true, false, true, false, true},
		{true, true, true, false, true, false},
		{false, true, false, false, false, true}, // a shell
		{true, false, true, true, false, false},
	} {
		if got := WantsTerminal(tc.command, tc.in, tc.out, tc.tty, tc.no); got != tc.want {
			t.Errorf("%+v: %t", tc, got)
		}
	}
}

func TestConflicts(t *testing.T) {
	for guest, want := range map[string]bool{
		"/": true, "/home": true, "/home/u/p": false, "/usr/local/src": true, "/usrx": false, "/etc": true, "/tmp": true, "/tmp/x": false,
		"/var/lib/x": true, "/var/www": false, GuestHome: true, GuestHome + "/p": false, "/run/user/1000/x": true, "/srv/p": false, "/workspace": false,
	} {
		if conflicts(guest) != want {
			t.Errorf("%s: %t", guest, !want)
		}
	}
}

func TestFolders(t *testing.T) {
	base, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	dir := func(name string) string {
		d := filepath.Join(base, name)
		if err := os.MkdirAll(d, 0o700); err != nil {
			t.Fatal(err)
		}
		return d
	}
	cwd, other, sub := dir("a/b c/ü"), dir("other"), dir("a/b c/ü/sub")
	link := filepath.Join(base, "link")
	if err := os.Symlink(other, link); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(base, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	own := Folder{Host: cwd, Guest: cwd, Also: []string{Workspace}, current: true}
	for _, tc := range []struct {
		workspace string
		mounts    []string
		want      []Folder
		err       string
	}{
		{"rw", nil, []Folder{own}, ""},
		{"none", nil, nil, ""},
		{"rw", []string{other}, []Folder{own, {Host: other, Guest: other}}, ""},
		{"rw", []string{link + ":/data:ro"}, []Folder{own, {Host: other, Guest: "/data", ReadOnly: true}}, ""},
		{"rw", []string{"../../../other:/data/"}, []Folder{own, {Host: other, Guest: "/data"}}, ""},
		{"none", []string{other + ":rw"}, []Folder{{Host: other, Guest: other}}, ""},
		{"rw", []string{sub + ":ro"}, nil, "read-only"},
		{"ro", []string{sub + ":/s:ro"}, []Folder{{Host: cwd, Guest: cwd, Also: []string{Workspace}, ReadOnly: true, current: true}, {Host: sub, Guest: "/s", ReadOnly: true}}, ""},
		{"ro", []string{cwd + ":/p"}, nil, "read-only"},
		{"ro", []string{base + ":/p"}, nil, "read-only"},
		{"none", []string{sub + ":/x:ro", cwd + ":/y"}, nil, "read-only"},
		{"rw", []string{other + ":/data", base + ":/data"}, nil, "both"},
		{"rw", []string{other + ":/etc/x"}, nil, "something else"},
		{"rw", []string{other + ":/workspace"}, nil, "something else"},
		{"rw", []string{other + ":data"}, nil, "begin with /"},
		{"rw", []string{other + ":/a:b"}, nil, "character"},
		{"rw", []string{other + ":/a/../../etc"}, nil, "something else"},
		{"rw", []string{""}, nil, "missing"},
		{"rw", []string{base + "/absent"}, nil, "no such"},
		{"rw", []string{file}, nil, "not a folder"},
	} {
		got, note, err := Options{Workspace: tc.workspace, Mounts: tc.mounts}.Folders(cwd)
		if tc.err != "" {
			if err == nil || !strings.Contains(err.Error(), tc.err) {
				t.Errorf("%q: %v, want %s", tc.mounts, err, tc.err)
			}
			continue
		}
		if err != nil || note != "" || !reflect.DeepEqual(got, tc.want) {
			t.Errorf("%q: %+v %q %v", tc.mounts, got, note, err)
		}
	}
	if got, note, err := (Options{Workspace: WorkspaceRW}).Folders("/usr/share"); err != nil || note == "" || got[0].Guest != Workspace || len(got[0].Also) != 0 {
		t.Errorf("%+v %q %v", got, note, err)
	}
}

func TestMountsAreOrdered(t *testing.T) {
	got := mounts([]Folder{{Guest: "/a/b/c", ReadOnly: true}, {Guest: "/a"}, {Guest: "/a/b"}})
	if got[0].Path != "/a" || got[0].Export != 1 || got[1].Path != "/a/b" || got[2].Path != "/a/b/c" || got[2].Export != 0 || !got[2].ReadOnly {
		t.Errorf("%+v", got)
	}
}
