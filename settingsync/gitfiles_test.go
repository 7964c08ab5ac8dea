package settingsync

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// git runs the real git in the directory dir of the guest's home, with the configuration that the
// guest has.
func (m *machine) git(dir string, args ...string) (string, error) {
	return m.gitAt(m.guest, filepath.Join(m.guest, dir), args...)
}

func (m *machine) gitAt(home, dir string, args ...string) (string, error) {
	m.t.Helper()
	c := exec.Command("git", args...)
	c.Dir = dir
	c.Env = []string{
		"HOME=" + home, "PATH=" + os.Getenv("PATH"), "LC_ALL=C.UTF-8", "GIT_CONFIG_NOSYSTEM=1", "GIT_CEILING_DIRECTORIES=" + m.guest,
		`GIT_EDITOR=sh -c 'echo done >>"$1"' sh`,
	}
	out, err := c.CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

// mustGit fails the test if git fails in the guest.
func (m *machine) mustGit(dir string, args ...string) string {
	m.t.Helper()
	out, err := m.git(dir, args...)
	if err != nil {
		m.t.Errorf("in the guest, git %s: %v: %s", strings.Join(args, " "), err, out)
	}
	return out
}

// TestGitInTheGuestHasItsFiles: a git configuration arrives with the files that it names and those
// that git reads by default, so that git works in the guest as on the host.
func TestGitInTheGuestHasItsFiles(t *testing.T) {
	m := newMachine(t)
	m.write(m.host, ".gitconfig", `[user]
	name = Ann Other
	email = ann@example.org
[commit]
	template = `+m.host+`/.gitmessage
[core]
	excludesFile = ~/dots/gitignore
[mailmap]
	file = ~/.mailmap
[blame]
	ignoreRevsFile = ~/.blame-ignore
	ignoreRevsFile =
[diff]
	orderFile = ~/.order
[format]
	signatureFile = ~/.signature
[fsck]
	skipList = ~/.skip
[fetch "fsck"]
	skipList = ~/.skip
[http]
	pinnedPubkey = sha256//AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=
[http "https://x.test/"]
	pinnedPubkey = ~/.pinned
[safe]
	directory = ~/work/p
[includeIf "gitdir:~/work/"]
	path = ~/work.inc
[include]
	path = ~/dots/inc
`, 0o600)
	m.write(m.host, "dots/inc", "[alias]\n\tst = status\n", 0o644)
	m.write(m.host, "work.inc", "[commit]\n\ttemplate = ~/dots/work template\n", 0o644)
	for name, text := range map[string]string{
		".gitmessage": "why?\n", "dots/gitignore": "*.secret-looking\n", "dots/work template": "work\n", ".mailmap": "Right Name <ann@example.org>\n",
		".blame-ignore": "", ".order": "*.b\n*.a\n", ".signature": "-- mine\n", ".skip": "", ".pinned": "public\n",
		".config/git/attributes": "*.bin -diff\n", ".config/git/ignore": "*.not-read\n",
	} {
		m.write(m.host, name, text, 0o640)
	}
	m.opts.Paths = []string{"~/.gitconfig"}
	r := m.sync()
	if len(r.Report.Problems) != 0 {
		t.Errorf("%v", r.Report.Problems)
	}
	m.write(m.guest, "r/f.a", "1\n", 0o644)
	m.write(m.guest, "r/f.b", "1\n", 0o644)
	m.write(m.guest, "r/x.secret-looking", "", 0o644)
	m.write(m.guest, "r/x.not-read", "", 0o644)
	m.mustGit("r", "init", "-q")
	if got := m.mustGit("r", "status", "--porcelain"); got != "?? f.a\n?? f.b\n?? x.not-read" {
		t.Errorf("status: %q", got)
	}
	m.mustGit("r", "add", ".")
	m.mustGit("r", "commit")
	if got := m.mustGit("r", "log", "--format=%B|%aN"); got != "why?\n\ndone\n|Right Name" {
		t.Errorf("the commit has %q", got)
	}
	if got := m.mustGit("r", "check-attr", "diff", "x.bin"); got != "x.bin: diff: unset" {
		t.Error(got)
	}
	m.write(m.guest, "r/f.a", "2\n", 0o644)
	m.write(m.guest, "r/f.b", "2\n", 0o644)
	if got := m.mustGit("r", "diff", "--name-only"); got != "f.b\nf.a" {
		t.Errorf("the order is %q", got)
	}
	m.mustGit("r", "blame", "f.a")
	m.mustGit("r", "fsck")
	if got := m.mustGit("r", "format-patch", "-1", "--root", "--stdout"); !strings.HasSuffix(got, "-- mine") {
		t.Errorf("signed %q", got)
	}
	if got := m.mustGit("r", "config", "--get-urlmatch", "http.pinnedPubkey", "https://x.test/"); got != "~/.pinned" {
		t.Error(got)
	}
	if got := m.mustGit("r", "config", "safe.directory"); got != m.host+"/work/p" {
		t.Errorf("folders keep their path, and git trusts %s", got)
	}
	// The conditional include is for folders of the host's path, which the guest has too.
	if err := os.MkdirAll(filepath.Join(m.host, "work/p"), 0o755); err != nil {
		t.Fatal(err)
	}
	if out, err := m.gitAt(m.guest, filepath.Join(m.host, "work/p"), "init", "-q"); err != nil {
		t.Fatal(out)
	}
	if out, err := m.gitAt(m.guest, filepath.Join(m.host, "work/p"), "commit", "--allow-empty"); err != nil {
		t.Error(out)
	}
	if out, _ := m.gitAt(m.guest, filepath.Join(m.host, "work/p"), "log", "--format=%B"); out != "work\n\ndone" {
		t.Errorf("%q", out)
	}
	if st, err := os.Stat(filepath.Join(m.guest, "dots/gitignore")); err != nil || st.Mode().Perm() != 0o640 {
		t.Errorf("%v %v", st, err)
	}
	// A changed file is sent, a file that is no longer named is reported and stays.
	m.write(m.host, ".gitmessage", "changed\n", 0o640)
	if r := m.sync(); !slices.Equal(r.Report.Copied, []string{"~/.gitmessage"}) {
		t.Errorf("%q", r.Report.Copied)
	}
	m.write(m.host, ".gitconfig", "[user]\n\tname = Ann Other\n[core]\n\texcludesFile = ~/dots/gitignore\n", 0o600)
	if r := m.sync(); !slices.Contains(r.Report.Dropped, "~/.gitmessage") || m.read(".gitmessage") != "changed\n" {
		t.Errorf("%q", r.Report.Dropped)
	}
}

// TestGitsDefaultFiles: without a variable that names others, git reads ignore, attributes and config
// of its directory, wherever the host has that.
func TestGitsDefaultFiles(t *testing.T) {
	for _, dir := range []string{".config", "elsewhere/cfg"} {
		m := newMachine(t)
		m.write(m.host, dir+"/git/config", "[user]\n\tname = Ann\n\temail = ann@example.org\n\tsigningkey = X\n", 0o644)
		m.write(m.host, dir+"/git/ignore", "*.o\n", 0o644)
		m.write(m.host, dir+"/git/attributes", "*.bin -diff\n", 0o644)
		if dir != ".config" {
			m.opts.ConfigHome = filepath.Join(m.host, dir)
		}
		m.opts.Paths = []string{"~/.gitconfig"} // does not exist
		r := m.sync()
		m.write(m.guest, "r/x.o", "", 0o644)
		m.mustGit("r", "init", "-q")
		m.mustGit("r", "commit", "-q", "--allow-empty", "-m", "x")
		if got := m.mustGit("r", "status", "--porcelain"); got != "" {
			t.Errorf("%s: not ignored: %s", dir, got)
		}
		if got := m.mustGit("r", "check-attr", "diff", "x.bin"); got != "x.bin: diff: unset" {
			t.Error(dir, got)
		}
		if want := []string{"~/.config/git/attributes", "~/.config/git/config", "~/.config/git/ignore"}; !slices.Equal(slices.Sorted(slices.Values(r.Report.Copied)), want) || len(r.Report.Problems) != 0 {
			t.Errorf("%s: %+v", dir, r.Report)
		}
	}
}

// TestListedGitFilesAreSentOnce: a file that is listed goes where the list says, and the
// configuration in the guest names that place.
func TestListedGitFilesAreSentOnce(t *testing.T) {
	m := newMachine(t)
	outside := t.TempDir()
	m.write(outside, "template", "the group's\n", 0o644)
	m.write(m.host, ".gitconfig", "[commit]\n\ttemplate = "+outside+"/template\n[core]\n\texcludesFile = ~/.gitignore\n\tattributesFile = ~/dots/attributes\n[mailmap]\n\tfile = ~/dots/deep/mailmap\n", 0o600)
	m.write(m.host, ".gitignore", "*.o\n", 0o644)
	m.write(m.host, "dots/attributes", "*.bin -diff\n", 0o644)
	m.write(m.host, "dots/deep/mailmap", "A <a@b>\n", 0o644)
	m.write(m.host, ".config/git/ignore", "*.x\n", 0o644)
	m.opts.Paths = []string{"~/.gitconfig", "~/.gitignore=~/.ignored", outside + "/template=~/.from/template", "~/dots=~/d", "~/.config/git"}
	r := m.sync()
	if len(r.Report.Problems) != 0 || len(r.Report.Copied) != 6 {
		t.Errorf("%+v", r.Report)
	}
	for key, want := range map[string]string{"commit.template": "~/.from/template", "core.excludesFile": "~/.ignored", "core.attributesFile": "~/d/attributes", "mailmap.file": "~/d/deep/mailmap"} {
		if got := m.mustGit(".", "config", key); got != want {
			t.Errorf("%s is %s, want %s", key, got, want)
		}
	}
}

// TestGitFilesThatAreNotSent: a variable whose file cannot be sent is left out, with the reason, and
// git in the guest works.
func TestGitFilesThatAreNotSent(t *testing.T) {
	m := newMachine(t)
	outside := t.TempDir()
	m.write(outside, "template", "x\n", 0o644)
	m.write(m.host, "big", strings.Repeat("x\n", maxFile/2+1), 0o644)
	m.write(m.host, "secret", "*.o\n# gh"+"p_aB3dE5fG7hI9jK1lM3nO5pQ7rS9tU1vW3xY5\n", 0o644)
	m.write(m.host, "dir/x", "", 0o644)
	m.write(m.host, "../up", "x\n", 0o644)
	m.write(m.host, ".local/state/aivm/sync", "x\n", 0o644)
	for _, tc := range []struct{ key, value, problem, leftOut string }{
		{"commit.template", outside + "/template", "config:5: commit.template is not sent: " + outside + "/template: outside your home directory", "commit.template"},
		{"commit.template", "~/nowhere", "", "commit.template (~/nowhere does not exist)"},
		{"commit.template", ":(optional)~/nowhere", "", "commit.template (~/nowhere does not exist)"},
		{"commit.template", "~/../up", "outside your home directory", "commit.template"},
		{"commit.template", "%(prefix)/share/template", "part of git's installation", "commit.template"},
		{"core.excludesFile", "~nobody-here/ignore", "the guest has no user nobody-here", "core.excludesfile"},
		{"safe.directory", "~nobody-here/p", "", "safe.directory"},
		{"core.excludesFile", "~/secret", m.host + "/secret:2: a GitHub token was found, so it is not sent", "core.excludesfile"},
		{"core.attributesFile", "~/big", "too large for settings", "core.attributesfile"},
		{"blame.ignoreRevsFile", "~/dir", "not a regular file", "blame.ignorerevsfile"},
		{"mailmap.file", "~/.local/state/aivm/sync", "a file of aivm in the guest", "mailmap.file"},
		{"core.excludesFile", ":(optional)relative", "", "core.excludesfile"},
		{"include.path", "~nobody-here/inc", "included file ~nobody-here/inc: the guest has no user nobody-here", ""},
		{"diff.orderFile", "~/a\tb", "control characters", "diff.orderfile"},
	} {
		t.Run(tc.key+" "+filepath.Base(tc.value), func(t *testing.T) {
			m.t = t
			section, key, _ := strings.Cut(tc.key, ".")
			m.write(m.host, "a\tb", "", 0o644)
			m.write(m.host, "config", fmt.Sprintf("[user]\n\tname = Ann\n\temail = ann@example.org\n[%s]\n\t%s = \"%s\"\n", section, key, strings.ReplaceAll(tc.value, "\t", `\t`)), 0o600)
			m.opts.Paths = []string{"~/config=~/.gitconfig"}
			w := Gather(m.opts)
			if tc.leftOut != "" && !slices.Contains(w.GitLeftOut, tc.leftOut) {
				t.Errorf("left out: %q", w.GitLeftOut)
			}
			got := fmt.Sprint(w.Problems)
			if tc.problem == "" && len(w.Problems) > 0 || !strings.Contains(got, tc.problem) || strings.Contains(got, "aB3dE5") {
				t.Errorf("problems: %s", got)
			}
			m.sync()
			m.write(m.guest, "r/f", "1\n", 0o644)
			m.mustGit("r", "init", "-q")
			m.mustGit("r", "add", ".")
			m.mustGit("r", "commit", "--allow-empty")
			m.mustGit("r", "status")
			m.mustGit("r", "blame", "f")
			if out, err := m.git("r", "config", tc.key); err == nil {
				t.Errorf("the guest has %s = %s", tc.key, out)
			}
		})
	}
	m.t = t
	// What every guest has, and what is relative to the work tree.
	m.write(m.host, "config", "[core]\n\texcludesFile = /dev/null\n[commit]\n\ttemplate = .gitmessage\n[diff]\n\torderFile =\n", 0o600)
	if r := m.sync(); len(r.Report.Problems) > 0 || m.mustGit(".", "config", "core.excludesFile") != "/dev/null" || m.mustGit(".", "config", "commit.template") != ".gitmessage" || m.mustGit(".", "config", "diff.orderFile") != "" {
		t.Errorf("%+v", r.Report)
	}
	// The user may send it anyway.
	m.write(m.host, "config", "[core]\n\texcludesFile = ~/secret\n", 0o600)
	m.opts.AllowSecret = []string{"~/secret"}
	if r := m.sync(); len(r.Report.Problems) > 0 || !strings.HasPrefix(m.read("secret"), "*.o\n") || m.mustGit(".", "config", "core.excludesFile") != "~/secret" {
		t.Errorf("%+v", r.Report)
	}
}

// TestALeftOutGitFileHidesEarlierOnes: a value that git on the host does not use is not used in the
// guest because the last one cannot be sent.
func TestALeftOutGitFileHidesEarlierOnes(t *testing.T) {
	m := newMachine(t)
	m.write(m.host, ".gitmessage", "not in use\n", 0o644)
	m.write(m.host, ".skip", "", 0o644)
	m.write(m.host, "inc", "[commit]\n\ttemplate = /etc/hostname\n[blame]\n\tignoreRevsFile = /etc/hostname\n", 0o644)
	m.write(m.host, ".gitconfig", "[user]\n\tname = Ann\n\temail = ann@example.org\n[commit]\n\ttemplate = ~/.gitmessage\n[blame]\n\tignoreRevsFile = ~/.skip\n[include]\n\tpath = inc\n", 0o600)
	m.opts.Paths = []string{"~/.gitconfig"}
	m.sync()
	if out, err := m.git(".", "config", "commit.template"); err == nil {
		t.Errorf("the guest uses %s", out)
	}
	if got := m.mustGit(".", "config", "blame.ignoreRevsFile"); got != "~/.skip" { // git uses all of them
		t.Error(got)
	}
}

// TestAConfigurationThatAGuestWritesNamesNothingElse: a guest that can write the configuration, or a
// file it includes, gets only files of the same folder by naming them.
func TestAConfigurationThatAGuestWritesNamesNothingElse(t *testing.T) {
	attack := "[include]\n\tpath = ~/.private\n\tpath = " + "near\n[includeIf \"gitdir:/\"]\n\tpath = ~/.private\n[core]\n\texcludesFile = ~/.ssh/config\n\tattributesFile = ~/shared/attributes\n[commit]\n\ttemplate = ~/shared/link\n[mailmap]\n\tfile = ~/other/mailmap\n"
	for _, listed := range []string{"~/.gitconfig", "~/shared/gitconfig=~/.gitconfig", "~/shared=~/.config/git", "~/outer"} {
		m := newMachine(t)
		m.write(m.host, ".private", "[alias]\n\tsecretalias = SECRET\n", 0o600)
		m.write(m.host, ".ssh/config", "# SECRET\n", 0o600)
		m.write(m.host, "other/mailmap", "SECRET\n", 0o600) // shared with another VM
		m.write(m.host, "shared/near", "[alias]\n\tnear = status\n", 0o644)
		m.write(m.host, "shared/attributes", "*.bin -diff\n", 0o644)
		m.write(m.host, "shared/gitconfig", attack, 0o644)
		m.write(m.host, "shared/config", attack, 0o644)
		m.write(m.host, "outer", "[include]\n\tpath = shared/gitconfig\n", 0o644)
		for at, to := range map[string]string{".gitconfig": "shared/gitconfig", "shared/link": "../.ssh/config"} {
			if err := os.Symlink(to, filepath.Join(m.host, at)); err != nil {
				t.Fatal(err)
			}
		}
		m.opts.Untrusted = []string{filepath.Join(m.host, "shared"), filepath.Join(m.host, "other")}
		m.opts.Paths = []string{listed}
		if listed == "~/outer" {
			m.opts.Paths[0] += "=~/.gitconfig"
		}
		r := m.sync()
		out, _ := exec.Command("grep", "-rIl", "SECRET", m.guest).CombinedOutput()
		if len(out) > 0 {
			t.Errorf("%s: the guest got\n%s", listed, out)
		}
		got := fmt.Sprint(r.Report.Problems)
		for _, want := range []string{".private", "core.excludesfile is not sent", "commit.template is not sent", "mailmap.file is not sent"} {
			if !strings.Contains(got, want) {
				t.Errorf("%s: no %q in %s", listed, want, got)
			}
		}
		if m.mustGit(".", "config", "alias.near") != "status" {
			t.Error("a file of the same folder was not included")
		}
	}
}

// TestRewritesToSSHAreNamed: a configuration that makes git use ssh is named once, unless the guest
// has a key.
func TestRewritesToSSHAreNamed(t *testing.T) {
	config := "[user]\n\tname = Ann\n[url \"git@github.com:\"]\n\tinsteadOf = https://github.com/\n\tinsteadOf = gh:\n[url \"ssh://git@work.test/\"]\n\tpushInsteadOf = https://work.test/\n" +
		"[url \"https://mirror.test/\"]\n\tinsteadOf = https://slow.test/\n[url \"/srv/mirror/\"]\n\tinsteadOf = https://local.test/\n[url \"http://localhost:8080/\"]\n\tinsteadOf = https://cache.test/\n"
	m := newMachine(t)
	m.write(m.host, ".gitconfig", config, 0o600)
	m.opts.Paths = []string{"~/.gitconfig"}
	notes := func(r *Round) string {
		return strings.Join(slices.DeleteFunc(slices.Clone(r.Notes), func(n string) bool { return !strings.Contains(n, "SSH key") }), "\n")
	}
	want := "git in the guest uses ssh for gh:, https://github.com/, https://work.test/ (url.*.insteadOf in your git configuration), and the guest has no SSH key"
	m.write(m.guest, ".ssh/id_ed25519.pub", "x", 0o600) // not a key
	if got := notes(m.sync()); got != want {
		t.Errorf("%q", got)
	}
	if got := notes(m.sync()); got != "" {
		t.Errorf("again: %q", got)
	}
	for _, key := range []string{"url.git@github.com:.insteadof", "url.https://mirror.test/.insteadof", "url.ssh://git@work.test/.pushinsteadof"} {
		m.mustGit(".", "config", key)
	}
	for _, key := range []string{"url./srv/mirror/.insteadof", "url.http://localhost:8080/.insteadof"} {
		if out, err := m.git(".", "config", key); err == nil {
			t.Errorf("the guest has %s = %s", key, out)
		}
	}
	m = newMachine(t)
	m.write(m.host, ".gitconfig", config, 0o600)
	m.write(m.guest, ".ssh/id_ed25519", "x", 0o600)
	m.opts.Paths = []string{"~/.gitconfig"}
	if got := notes(m.sync()); got != "" {
		t.Errorf("the guest has a key: %q", got)
	}
}

// TestTwoGitConfigurations: both configurations that git reads are sent, each with its conditional
// includes.
func TestTwoGitConfigurations(t *testing.T) {
	m := newMachine(t)
	m.write(m.host, ".gitconfig", "[includeIf \"gitdir:~/a/\"]\n\tpath = ~/a.inc\n[core]\n\texcludesFile = ~/x\n", 0o600)
	m.write(m.host, ".config/git/config", "[includeIf \"gitdir:~/b/\"]\n\tpath = ~/b.inc\n[core]\n\tattributesFile = ~/x\n", 0o600)
	for _, f := range []string{"a", "b"} {
		m.write(m.host, f+".inc", "[user]\n\tname = "+f+"\n", 0o600)
		if err := os.MkdirAll(filepath.Join(m.host, f), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	m.write(m.host, "x", "*.o\n", 0o644)
	m.opts.Paths = []string{"~/.gitconfig"}
	if r := m.sync(); len(r.Report.Problems) > 0 || len(r.Report.Copied) != 5 {
		t.Errorf("%+v", r.Report)
	}
	for _, f := range []string{"a", "b"} {
		if out, err := m.gitAt(m.guest, filepath.Join(m.host, f), "init", "-q"); err != nil {
			t.Fatal(out)
		}
		if out, _ := m.gitAt(m.guest, filepath.Join(m.host, f), "config", "user.name"); out != f {
			t.Errorf("in %s the name is %q", f, out)
		}
	}
	m.opts.Paths = append(m.opts.Paths, "~/.config/git/config")
	if r := m.sync(); !r.Empty() {
		t.Errorf("listed, it is sent again: %+v", r.Report)
	}
}

func TestSSHAddress(t *testing.T) {
	for s, want := range map[string]bool{
		"git@github.com:": true, "github.com:": true, "ssh://git@x/": true, "git+ssh://x/": true, "SSH://x/": true, "me@[::1]:": true,
		"https://github.com/": false, "/srv/a:b": false, "./a:b": false, "file:///x": false, "git://x/": false, "": false, "x": false, "C:/x": true,
	} {
		if got := sshAddress(s); got != want {
			t.Errorf("%q: %v", s, got)
		}
	}
}
