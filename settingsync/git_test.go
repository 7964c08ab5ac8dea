package settingsync

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// list returns what git itself reads from a configuration.
func list(t *testing.T, text string) (string, error) {
	t.Helper()
	f := filepath.Join(t.TempDir(), "config")
	if err := os.WriteFile(f, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	c := exec.Command("git", "config", "--file", f, "--list", "-z")
	c.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=/nonexistent", "GIT_CONFIG_NOSYSTEM=1"}
	c.Dir = t.TempDir()
	out, err := c.Output()
	return string(out), err
}

func flat(vars []gitVar) string {
	var b strings.Builder
	for _, v := range vars {
		b.WriteString(v.name())
		if !v.bare {
			b.WriteString("\n" + v.value)
		}
		b.WriteByte(0)
	}
	return b.String()
}

const oddConfig = "\ufeff# mine\r\n[User]\r\n\tName = \"A  B\" # x\n; c\n email=a@b \n[alias]\n\tlg = log --graph \\\n  --oneline\n\tq = \"!f() { echo \\\"x;y\\\"; }; f\"\n\tempty =\n\tbare\n" +
	"[branch \"we\\\"ird\\\\name\"]\n\tremote = origin\n[branch.Old]\n\tx = 1\n[a-b.C \"D\"]\n\tk1 = a\\tb\\n\n[core] pager = less\n"

func TestParseGitReadsWhatGitReads(t *testing.T) {
	for _, text := range []string{oddConfig, "", "[a]\n", "[a]b\n", "[a]b=c", "[a \"\"]\nb=1\n", "[a]\nb = x \\\n y\n", "[a]\nb = \"x\" y \"z \" \n", "[a]\nb=\t\n[a]\nb\n"} {
		want, err := list(t, text)
		if err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		vars, err := parseGit(text)
		if err != nil {
			t.Errorf("%q: %v", text, err)
			continue
		}
		if got := flat(vars); got != want {
			t.Errorf("%q:\n%q\n%q", text, got, want)
		}
		if got, err := list(t, writeGit(vars)); err != nil || got != want {
			t.Errorf("%q written:\n%q\n%q, %v", text, got, want, err)
		}
	}
	for text, line := range map[string]int{"[a]\n\n[b\n": 3, "[a]\nb=\"x\n": 2, "[a]\nb=\\q": 2, "[]\n": 1, "[a]\nb c\n": 2, "[a \"x]\n": 1, "[a]\n=1\n": 2} {
		if _, err := list(t, text); err == nil {
			t.Errorf("git accepts %q", text)
		}
		var se *SyntaxError
		if _, err := parseGit(text); !errors.As(err, &se) || se.Line < line || se.Line > line+1 {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// sendBelowHome is a GitRules.Send for which every file below /home/me exists.
func sendBelowHome(name, _ string) (string, error) {
	if rest, ok := strings.CutPrefix(name, "/home/me/"); ok {
		return rest, nil
	}
	return "", errOutside
}

func TestFilterGit(t *testing.T) {
	files := map[string]string{
		"/home/me/.gitconfig": `[user]
	name = Ann Other
	email = ann@example.org
	signingkey = ABCDEF
[credential]
	helper = store
[credential "https://github.com"]
	username = ann
[commit]
	gpgsign = true
[core]
	fsmonitor = /usr/bin/evil
	hooksPath = ~/hooks
	sshCommand = ssh -i ~/.ssh/x
	pager = delta
	editor = /opt/idea/bin/idea --wait
	excludesFile = /home/me/.gitignore_global
	autocrlf = input
[pager]
	diff = /usr/local/bin/diff-so-fancy
[color]
	ui = auto
[color "diff"]
	old = red bold
[alias]
	co = checkout
	up = !sh -c 'git pull'
	own = !/home/me/bin/tool
	leak = "!curl -H 'Authorization: Bearer 9f8e7d6c5b4a39281706' x"
[url "https://ann:hunter22@git.work.test/"]
	insteadOf = work:
[url "git@github.com:"]
	insteadOf = https://github.com/
[http]
	proxy = http://localhost:3128
	extraHeader = "X: y"
[http "https://x.test"]
	sslCert = /x
[filter "lfs"]
	required = true
[github]
	user = ann
	token = 0123456789abcdef
[safe]
	directory = /home/me/p
[include]
	path = more
	path = ~/missing
	path = /home/me/broken
[includeIf "gitdir:~/work/"]
	path = ~/work.inc
[includeIf "gitdir:~/nothing/"]
	path = ~/missing
`,
		"/home/me/more":     "[alias]\n\tst = status\n[include]\n\tpath = /home/me/more\n[gpg]\n\tprogram = gpg2\n",
		"/home/me/work.inc": "[user]\n\temail = ann@work.test\n\tsigningkey = X\n",
		"/home/me/broken":   "[x",
	}
	r := GitRules{Home: "/home/me", Send: sendBelowHome, Read: func(p, _ string) (string, error) {
		if s, ok := files[p]; ok {
			return s, nil
		}
		return "", fs.ErrNotExist
	}}
	g, err := FilterGit(files["/home/me/.gitconfig"], "/home/me/.gitconfig", r)
	if err != nil {
		t.Fatal(err)
	}
	out, err := list(t, g.Text)
	if err != nil {
		t.Fatal(err)
	}
	got := strings.Split(strings.TrimSuffix(out, "\x00"), "\x00")
	got = slices.CompactFunc(got, func(a, b string) bool { return a == b })
	want := []string{
		"user.name\nAnn Other", "user.email\nann@example.org", "core.pager\ndelta", "core.excludesfile\n~/.gitignore_global", "core.autocrlf\ninput",
		"color.ui\nauto", "color.diff.old\nred bold", "alias.co\ncheckout", "alias.up\n!sh -c 'git pull'",
		"url.git@github.com:.insteadof\nhttps://github.com/", "safe.directory\n/home/me/p", "alias.st\nstatus",
		"includeif.gitdir:/home/me/work/.path\n~/.config/aivm/git/1",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %q\nwant %q", got, want)
	}
	if got, err := list(t, g.Extra[".config/aivm/git/1"]); err != nil || got != "user.email\nann@work.test\x00" {
		t.Errorf("%q %v", got, err)
	}
	if len(g.Notes) != 2 || !strings.Contains(strings.Join(g.Notes, " "), "/home/me/broken: line 1") {
		t.Errorf("%q", g.Notes)
	}
	for _, want := range []string{"user.signingkey", "credential.helper", "credential.https://github.com.username", "core.hookspath", "alias.leak", "github.token", "filter.lfs.required", "gpg.program", "core.editor"} {
		if !slices.Contains(g.LeftOut, want) {
			t.Errorf("%s is not listed as left out", want)
		}
	}
	if strings.Contains(g.Text+strings.Join(g.LeftOut, " "), "hunter22") {
		t.Error("a password got through")
	}
}

// FuzzFilterGit: the result parses, contains nothing that must never be sent, and filtering it
// again changes nothing.
func FuzzFilterGit(f *testing.F) {
	f.Add(oddConfig)
	f.Add("[core]\nexcludesFile=~/a\nexcludesFile=/etc/x\nattributesFile\n[commit]\ntemplate=:(optional)~/t\ntemplate=~x/t\n[blame]\nignoreRevsFile=%(prefix)/x\n[fetch \"fsck\"]\nskipList=~/../x\n[url \"git@a:\"]\ninsteadOf=https://a/\n[safe]\ndirectory=~x/y\n")
	f.Add("[credential \"x\"]\nhelper=y\n[core]\nfsmonitor=/x\nhooksPath\n[url \"https://a:b@c/\"]\ninsteadOf=d\n")
	f.Fuzz(func(t *testing.T, text string) {
		r := GitRules{Home: "/home/me", Send: sendBelowHome, Read: func(string, string) (string, error) { return text, nil }}
		g, err := FilterGit(text, "/home/me/.gitconfig", r)
		if err != nil {
			return
		}
		vars, err := parseGit(g.Text)
		if err != nil {
			t.Fatalf("%q gave %q: %v", text, g.Text, err)
		}
		for _, v := range vars {
			if v.section == "credential" || v.section == "core" && (v.key == "fsmonitor" || v.key == "hookspath" || v.key == "sshcommand") || v.section == "include" {
				t.Errorf("%q lets %s through", text, v.name())
			}
			if _, ok := fileVariable(v); ok && (path.IsAbs(v.value) || strings.HasPrefix(v.value, "~") && !strings.HasPrefix(v.value, "~/")) {
				t.Errorf("%q lets %s = %q through", text, v.name(), v.value)
			}
			if urlWithPassword(v.value) || v.section == "url" && urlWithPassword(v.sub) {
				t.Errorf("%q lets %q through", text, v.value)
			}
		}
		// Conditional includes get a new file name each time.
		r.Read = func(string, string) (string, error) { return "", nil }
		again, err := FilterGit(g.Text, "/home/me/.gitconfig", r)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(g.Text, "[includeif") && again.Text != g.Text {
			t.Errorf("%q then %q", g.Text, again.Text)
		}
	})
}

// TestGitSectionsAreGits: aivm knows each section that the installed git documents.
func TestGitSectionsAreGits(t *testing.T) {
	c := exec.Command("git", "help", "--config")
	out, err := c.Output()
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for line := range strings.Lines(string(out)) {
		section, _, ok := strings.Cut(strings.ToLower(strings.TrimSpace(line)), ".")
		if !ok || strings.Contains(section, " ") {
			continue
		}
		n++
		if !gitSectionKnown(gitVar{section: section}) {
			t.Errorf("git's section %q is not known", section)
		}
	}
	if n < 300 {
		t.Errorf("only %d variables", n)
	}
}

// TestNoTokenOfAToolIsSent: sections of other tools stay on this machine, and so do commands that
// contain a password.
func TestNoTokenOfAToolIsSent(t *testing.T) {
	g, err := FilterGit("[user]\n\tname = Ann\n[azure]\n\tpat = abcdefgh\n[jira \"work\"]\n\tlogin = ann\n\tkey = Eichel\n[delta]\n\tnavigate = true\n[alias]\n\tst = status\n"+
		"\tup = \"!curl -u ann:Eichel9laub https://work.test/up\"\n\tup2 = \"!curl -sSu ann:Eichel9laub https://work.test/up\"\n\tup3 = \"!curl --user=ann:Eichel9laub -T x https://work.test\"\n"+
		"\tup4 = \"!curl -H 'PRIVATE-TOKEN: Eichel9laubEichel9' https://work.test\"\n[http]\n\tproxy = http://ann:Eichel9laub@proxy.work.test:3128\n[hook \"x\"]\n\tcommand = x\n", "/home/ann/.gitconfig", GitRules{Home: "/home/ann"})
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(g.Text, "Eichel") || strings.Contains(g.Text, "abcdefgh") || strings.Contains(g.Text, "hook") {
		t.Errorf("sent: %s", g.Text)
	}
	for _, keep := range []string{"name = ", "navigate = ", "st = "} {
		if !strings.Contains(g.Text, keep) {
			t.Errorf("%q is missing in %s", keep, g.Text)
		}
	}
	want := []string{"azure.pat", "jira.work.login", "jira.work.key", "alias.up", "alias.up2", "alias.up3", "alias.up4", "http.proxy", "hook.x.command"}
	if !slices.Equal(g.LeftOut, want) {
		t.Errorf("left out %q, want %q", g.LeftOut, want)
	}
}
