package settingsync

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// machine is a host home and a guest home in temporary directories; the guest's side of every
// script is run by the real sh, find, tar and sha256sum.
type machine struct {
	t           *testing.T
	host, guest string
	opts        Options
	now         time.Time
	detailed    bool  // the last probe needed a second one
	known       State // of the guest, as the caller keeps it
	answerBytes int   // bytes of the guest's last answer
}

func newMachine(t *testing.T) *machine {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	m := &machine{t: t, host: filepath.Join(dir, "host"), guest: filepath.Join(dir, "guest"), now: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}
	for _, d := range []string{m.host, m.guest} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	m.opts = Options{Home: m.host, Overwrite: true}
	return m
}

func (m *machine) write(side, name, text string, mode os.FileMode) {
	m.t.Helper()
	p := filepath.Join(side, name)
	if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
		m.t.Fatal(err)
	}
	if err := os.WriteFile(p, []byte(text), mode); err != nil {
		m.t.Fatal(err)
	}
	if err := os.Chmod(p, mode); err != nil {
		m.t.Fatal(err)
	}
}

func (m *machine) read(name string) string {
	m.t.Helper()
	b, err := os.ReadFile(filepath.Join(m.guest, name))
	if err != nil {
		m.t.Fatal(err)
	}
	return string(b)
}

func (m *machine) sh(script string, stdin []byte) (string, int) {
	m.t.Helper()
	return m.run([]string{"sh", "-c", script}, stdin)
}

func (m *machine) receive(archive []byte) (string, int) {
	m.t.Helper()
	return m.run(Command(), archive)
}

func (m *machine) run(argv []string, stdin []byte) (string, int) {
	m.t.Helper()
	c := exec.Command(argv[0], argv[1:]...)
	c.Env = []string{"HOME=" + m.guest, "PATH=" + os.Getenv("PATH"), "LC_ALL=C.UTF-8"}
	c.Dir = "/"
	c.Stdin = bytes.NewReader(stdin)
	var out, errw bytes.Buffer
	c.Stdout, c.Stderr = &out, &errw
	err := c.Run()
	if err != nil && c.ProcessState == nil {
		m.t.Fatal(err)
	}
	if errw.Len() > 0 {
		m.t.Logf("guest: %s", &errw)
	}
	return out.String(), c.ProcessState.ExitCode()
}

func (m *machine) ask(w *Wanted, script string) Guest {
	m.t.Helper()
	out, code := m.sh("( eval "+quoteForTest(script)+" )", nil)
	if code != 0 {
		m.t.Fatalf("probe: status %d", code)
	}
	g, err := w.ParseGuest([]byte(out))
	if err != nil {
		m.t.Fatalf("%v\n%q", err, out)
	}
	m.answerBytes = len(out)
	if g.State != "" {
		m.known = g.State
	}
	return g
}

func (m *machine) probe() (*Wanted, *Round) {
	m.t.Helper()
	w := Gather(m.opts)
	w.Known = m.known
	m.now = m.now.Add(time.Second)
	m.detailed = false
	r := NewRound(w, m.ask(w, w.Probe()), m.now)
	if r.NeedsDetail {
		m.detailed = true
		if r = NewRound(w, m.ask(w, w.DetailProbe()), m.now); r.NeedsDetail {
			m.t.Fatal("the details are not enough")
		}
	}
	return w, r
}

func quoteForTest(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

func (m *machine) apply(r *Round) (string, int) {
	m.t.Helper()
	b, err := r.Archive(nil)
	if err != nil {
		m.t.Fatal(err)
	}
	return m.receive(b)
}

// sync is one complete round, after which nothing may remain to do.
func (m *machine) sync() *Round {
	m.t.Helper()
	_, r := m.probe()
	if r.Empty() {
		return r
	}
	if out, code := m.apply(r); code != 0 || out != "" {
		m.t.Fatalf("status %d, %q", code, out)
	}
	if stale, _ := filepath.Glob(filepath.Join(m.guest, stateDir, "in.*")); len(stale) > 0 {
		m.t.Errorf("temporary files remain: %v", stale)
	}
	if _, again := m.probe(); !again.Empty() {
		m.t.Errorf("a second round sends %v %+v", again.Targets(), again.Report)
	}
	if m.detailed {
		m.t.Error("a second round needs the contents")
	}
	return r
}

func TestFilesGoToTheSamePlace(t *testing.T) {
	m := newMachine(t)
	m.write(m.host, ".bashrc", "alias ll='ls -l'\n", 0o640)
	m.write(m.host, "bin dir/it's \"odd\" $x", "#!/bin/sh\n", 0o755)
	m.write(m.host, ".config/nvim/init.lua", "x\n", 0o644)
	m.write(m.host, ".config/nvim/lua/a.lua", "y\n", 0o600)
	m.write(m.host, "outside", "o", 0o644)
	for link, to := range map[string]string{"in.lua": "lua/a.lua", "lua/up.lua": "../init.lua", "abs.lua": m.host + "/.config/nvim/init.lua", "out.lua": "../../outside", "away": "/etc/passwd"} {
		if err := os.Symlink(to, filepath.Join(m.host, ".config/nvim", link)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(filepath.Join(m.host, ".config"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("outside", filepath.Join(m.host, ".stowed")); err != nil {
		t.Fatal(err)
	}
	m.opts.Paths = []string{"~/.bashrc", "~/bin dir", m.host + "/.config/nvim", "~/nope", "~/.stowed", "~/outside=~/there/renamed"}
	r := m.sync()
	if got := m.read(".bashrc"); got != "alias ll='ls -l'\n" {
		t.Errorf("%q", got)
	}
	for name, want := range map[string]os.FileMode{".bashrc": 0o640, "bin dir/it's \"odd\" $x": 0o755, ".config/nvim/lua/a.lua": 0o600, ".config": 0o700, "there/renamed": 0o644, ".stowed": 0o644} {
		st, err := os.Lstat(filepath.Join(m.guest, name))
		if err != nil || st.Mode().Perm() != want {
			t.Errorf("%s: %v %v, want %v", name, err, st, want)
		}
	}
	for link, want := range map[string]string{"in.lua": "lua/a.lua", "lua/up.lua": "../init.lua", "abs.lua": "init.lua"} {
		if got, err := os.Readlink(filepath.Join(m.guest, ".config/nvim", link)); err != nil || got != want {
			t.Errorf("%s -> %q, %v", link, got, err)
		}
	}
	for _, link := range []string{"out.lua", "away"} {
		if _, err := os.Lstat(filepath.Join(m.guest, ".config/nvim", link)); !os.IsNotExist(err) {
			t.Errorf("%s: %v", link, err)
		}
	}
	if !slices.Equal(r.Report.Missing, []string{"~/nope"}) || len(r.Report.Problems) != 2 {
		t.Errorf("%+v", r.Report)
	}
}

func TestTheGuestsOwnIsKept(t *testing.T) {
	m := newMachine(t)
	m.write(m.host, ".tmux.conf", "one\n", 0o644)
	m.write(m.guest, ".tmux.conf", "the distribution's\n", 0o644)
	m.opts.Paths = []string{"~/.tmux.conf"}
	m.opts.Overwrite = false
	if r := m.sync(); !slices.Equal(r.Report.Kept, []string{"~/.tmux.conf"}) || m.read(".tmux.conf") != "the distribution's\n" {
		t.Fatalf("%+v", r.Report)
	}
	m.opts.Overwrite = true
	r := m.sync()
	if len(r.Report.Backups) != 1 || m.read(strings.TrimPrefix(r.Report.Backups[0], "~/")) != "the distribution's\n" || m.read(".tmux.conf") != "one\n" {
		t.Fatalf("%+v", r.Report)
	}
	// What aivm sent before is replaced without a copy.
	m.write(m.host, ".tmux.conf", "two\n", 0o644)
	if r := m.sync(); len(r.Report.Backups) != 0 || m.read(".tmux.conf") != "two\n" {
		t.Fatalf("%+v", r.Report)
	}
	for i := range 5 {
		m.write(m.guest, ".tmux.conf", fmt.Sprintf("agent %d\n", i), 0o644)
		m.sync()
	}
	kept, _ := filepath.Glob(filepath.Join(m.guest, ".tmux.conf.aivm-*"))
	if len(kept) != 3 {
		t.Fatalf("%d copies: %v", len(kept), kept)
	}
	for i, k := range kept {
		if b, _ := os.ReadFile(k); string(b) != fmt.Sprintf("agent %d\n", i+2) {
			t.Errorf("%s holds %q", k, b)
		}
	}
	// A link that the agent created is replaced and kept, and the write does not follow it.
	if err := os.Remove(filepath.Join(m.guest, ".tmux.conf")); err != nil {
		t.Fatal(err)
	}
	m.write(m.guest, "victim", "untouched\n", 0o644)
	if err := os.Symlink("victim", filepath.Join(m.guest, ".tmux.conf")); err != nil {
		t.Fatal(err)
	}
	m.sync()
	if m.read("victim") != "untouched\n" || m.read(".tmux.conf") != "two\n" {
		t.Error("written through a link")
	}
	// A path removed from the list is reported once, and its file is not deleted.
	m.opts.Paths = nil
	if r := m.sync(); !slices.Equal(r.Report.Dropped, []string{"~/.tmux.conf"}) || m.read(".tmux.conf") != "two\n" {
		t.Errorf("%+v", r.Report)
	}
}

func TestWhatIsInTheWay(t *testing.T) {
	m := newMachine(t)
	m.write(m.host, "a/b", "x", 0o644)
	m.write(m.host, "c", "x", 0o644)
	m.write(m.host, "pipe", "x", 0o644)
	m.write(m.guest, "a", "a file", 0o644)
	m.write(m.guest, "c/inside", "x", 0o644)
	if err := exec.Command("mkfifo", filepath.Join(m.guest, "pipe")).Run(); err != nil {
		t.Fatal(err)
	}
	m.opts.Paths = []string{"~/a", "~/c", "~/pipe", "/etc/hostname", "relative", "~", "~/x\n", "/etc/hostname=/"}
	began := time.Now()
	_, r := m.probe()
	if time.Since(began) > 5*time.Second {
		t.Error("a pipe in the guest blocks the round")
	}
	var got []string
	for _, p := range r.Report.Problems {
		got = append(got, p.String())
	}
	for _, want := range []string{"~/a: exists in the guest and is not a directory", "~/c: exists in the guest as a directory", "outside your home", "must start with ~/", "entire home", "control characters", "must name a file"} {
		if !strings.Contains(strings.Join(got, "\n"), want) {
			t.Errorf("no %q in %q", want, got)
		}
	}
	if out, code := m.apply(r); code != 0 || out != "" {
		t.Fatalf("%d %q", code, out)
	}
	if m.read("pipe") != "x" || m.read("a") != "a file" {
		t.Error("wrong files")
	}
}

func TestChangedMeanwhileAndFailures(t *testing.T) {
	m := newMachine(t)
	m.write(m.host, "f", "one", 0o644)
	m.write(m.guest, "f", "seen", 0o644)
	m.opts.Paths = []string{"~/f"}
	_, r := m.probe()
	m.write(m.guest, "f", "changed after the probe", 0o644)
	if _, code := m.apply(r); code != StatusChanged || m.read("f") != "changed after the probe" {
		t.Errorf("status %d, %q", code, m.read("f"))
	}
	_ = os.Remove(filepath.Join(m.guest, "f"))
	_, r = m.probe()
	m.write(m.guest, "f", "created after the probe", 0o644)
	if _, code := m.apply(r); code != StatusChanged || m.read("f") != "created after the probe" {
		t.Errorf("status %d, %q", code, m.read("f"))
	}
	// If one directory cannot be written, the other files arrive, and the failed one is not
	// recorded.
	m.opts.Paths = []string{"~/f", "~/f=/proc/self/f"}
	_, r = m.probe()
	out, _ := m.apply(r)
	failed := FailedDirs(out)
	if !slices.Equal(failed, []string{"/proc/self"}) || m.read("f") != "one" {
		t.Fatalf("%q, %q", out, m.read("f"))
	}
	_, r = m.probe()
	b, err := r.Archive(map[string]bool{"/proc/self": true})
	if err != nil {
		t.Fatal(err)
	}
	if _, code := m.receive(b); code != 0 {
		t.Fatal(code)
	}
	manifest, _, _ := strings.Cut(m.read(stateFile), "\x00")
	if man := readManifest(manifest); len(man.Files) != 1 || man.Files["f"].Sum == "" {
		t.Errorf("%+v", man)
	}
}

// TestTheStateIsReadOnce: a state that was read once is not read again, and a known state is used
// only if its id is the guest's.
func TestTheStateIsReadOnce(t *testing.T) {
	m := newMachine(t)
	for _, f := range []string{"a", "b", "c"} {
		m.write(m.host, f, strings.Repeat(f, 100), 0o644)
		m.opts.Paths = append(m.opts.Paths, "~/"+f)
	}
	m.sync()
	if string(m.known) != m.read(stateFile) || m.known.id() == "" {
		t.Fatalf("kept %q of %q", m.known, m.read(stateFile))
	}
	m.known = ""
	_, r := m.probe()
	full := m.answerBytes
	if _, r2 := m.probe(); m.answerBytes > full-len(m.known)+20 || !r2.Empty() || !cmp.Equal(r.manifest, r2.manifest) {
		t.Errorf("%d bytes, the complete state is %d: %+v", m.answerBytes, full, r2.manifest)
	}
	was := m.known
	m.write(m.guest, "a", "the guest's", 0o644)
	if _, r := m.probe(); r.Empty() || m.known != was {
		t.Error("a file that changed in the guest was not noticed")
	}
	// Another host of the same user has written the state.
	m.write(m.host, "a", "new", 0o644)
	m.known = ""
	m.sync()
	m.known = was
	if _, r := m.probe(); !r.Empty() || m.known == was {
		t.Errorf("a known state with another id was used: %v", r.Targets())
	}
	if names, err := filepath.Glob(filepath.Join(m.guest, stateFile+".*")); err != nil || len(names) != 1 || !strings.HasSuffix(names[0], m.known.id()) {
		t.Errorf("hard links of the state: %q %v", names, err)
	}
	// A state of an earlier version: without an id, and on one line.
	old := m.read(stateFile)
	m.write(m.guest, stateFile, "{"+old[strings.Index(old, "\n")+1:], 0o600)
	was = m.known
	if _, r := m.probe(); !r.Empty() || m.known != was {
		t.Errorf("an older state: %v", r.Targets())
	}
	for _, s := range []State{"", "{}", "{\"id\":\"00\",\nx", State("{\"id\":\"" + strings.Repeat("0", 31) + "'\",\nx"), State("{\"id\":\"" + strings.Repeat("0", 32) + "\",\n")} {
		if s.id() != "" {
			t.Errorf("%q has the id %q", s, s.id())
		}
	}
}

func TestEditorSettings(t *testing.T) {
	m := newMachine(t)
	code := filepath.Join(m.host, ".config/Code/User")
	m.write(m.host, ".config/Code/User/settings.json", "{\n  // mine\n  \"editor.tabSize\": 3,\n  \"remote.SSH.path\": \"/x\",\n  \"python.defaultInterpreterPath\": \"/usr/bin/python3\",\n  \"x.token\": \"q8Zk2LmP0rT5vXy7\",\n}\n", 0o644)
	m.write(m.host, ".config/Code/User/keybindings.json", "[]", 0o644)
	m.opts.Editors = []EditorPlace{
		{Name: "Code", Dir: code, Server: ".vscode-server", Target: ".vscode-server/data/Machine/settings.json", InUse: true},
		{Name: "Cursor", Dir: filepath.Join(m.host, ".config/Cursor/User"), Server: ".cursor-server", Target: ".cursor-server/data/Machine/settings.json"},
	}
	m.opts.Paths = []string{"~/.config/Code/User/settings.json", "~/.config/Code/User/keybindings.json"}
	r := m.sync()
	target := ".vscode-server/data/Machine/settings.json"
	if got := m.read(target); got != "{\n  // mine\n  \"editor.tabSize\": 3,\n}\n" {
		t.Errorf("%q", got)
	}
	if len(r.Notes) != 1 || len(r.Report.Problems) != 1 || r.Report.Problems[0].Line != 6 || !slices.Equal(r.Report.LeftOut, []string{"remote.SSH.path", "python.defaultInterpreterPath"}) {
		t.Errorf("%q %+v", r.Notes, r.Report)
	}
	if _, err := os.Stat(filepath.Join(m.guest, ".config/Code")); !os.IsNotExist(err) {
		t.Error("settings were written to a path that no server reads")
	}
	m.write(m.guest, target, "{\n  // mine\n  \"editor.tabSize\": 3,\n  // the guest's\n  \"guest.own\": [1,2], // why\n}\n", 0o600)
	if r := m.sync(); !r.Empty() {
		t.Errorf("a change in the guest causes a send: %+v", r.Report)
	}
	m.write(m.host, ".config/Code/User/settings.json", "{\"editor.fontSize\": 12}", 0o644)
	m.sync()
	if got := m.read(target); got != "{\n  // mine\n  // the guest's\n  \"guest.own\": [1,2], // why\n  \"editor.fontSize\": 12\n}\n" {
		t.Errorf("%s", got)
	}
	m.write(m.guest, target, "{\n  \"a\": 1\n  \"b\": 2\n}", 0o600)
	m.write(m.host, ".config/Code/User/settings.json", "{\"editor.fontSize\": 13}", 0o644)
	_, r = m.probe()
	if len(r.Report.Problems) != 1 || !strings.Contains(r.Report.Problems[0].String(), "settings.json:3: column 3") || len(r.merges) > 0 {
		t.Errorf("%v", r.Report.Problems)
	}
	// The host's file is invalid.
	m.write(m.host, ".config/Code/User/settings.json", "{\"a\": }", 0o644)
	_, r = m.probe()
	if len(r.Report.Problems) != 1 || !regexp.MustCompile(`settings.json:1: column 7`).MatchString(r.Report.Problems[0].String()) {
		t.Errorf("%v", r.Report.Problems)
	}
}

func TestSecretsStopAFile(t *testing.T) {
	m := newMachine(t)
	m.write(m.host, ".bashrc", "a\nexport GITHUB_TOKEN=gh"+"p_aB3dE5fG7hI9jK1lM3nO5pQ7rS9tU1vW3xY5\n", 0o644)
	m.write(m.host, ".profile", "ok\n", 0o644)
	m.opts.Paths = []string{"~/.bashrc", "~/.profile"}
	r := m.sync()
	if len(r.Report.Problems) != 1 || r.Report.Problems[0].Line != 2 || !strings.Contains(r.Report.Problems[0].Hint, "--allow-secret") {
		t.Errorf("%+v", r.Report.Problems)
	}
	if strings.Contains(fmt.Sprint(r.Report), "aB3dE5") {
		t.Error("the report contains the secret")
	}
	if _, err := os.Stat(filepath.Join(m.guest, ".bashrc")); !os.IsNotExist(err) {
		t.Error("the file was sent")
	}
	m.opts.AllowSecret = []string{"~/.bashrc"}
	if r := m.sync(); len(r.Report.Problems) != 0 || !strings.Contains(m.read(".bashrc"), "p_aB3d") {
		t.Errorf("%+v", r.Report.Problems)
	}
}

func TestNoPlantedLinkIsFollowed(t *testing.T) {
	m := newMachine(t)
	m.write(m.host, ".ssh/id", "key", 0o600)
	m.write(m.host, "shared/dot/x", "x", 0o644)
	for at, to := range map[string]string{"shared/dot/rc": "../../.ssh/id", ".rc": "shared/dot/rc", ".ok": "shared/dot/x"} {
		if err := os.Symlink(to, filepath.Join(m.host, at)); err != nil {
			t.Fatal(err)
		}
	}
	m.opts.Untrusted = []string{filepath.Join(m.host, "shared")}
	m.opts.Paths = []string{"~/.rc", "~/shared/dot/rc", "~/.ok", "~/shared/dot"}
	r := m.sync()
	if len(r.Report.Problems) != 3 || !strings.Contains(fmt.Sprint(r.Report.Problems), "not followed") {
		t.Errorf("%v", r.Report.Problems)
	}
	if m.read(".ok") != "x" {
		t.Error(".ok was not sent")
	}
}

func TestAHostileGuest(t *testing.T) {
	m := newMachine(t)
	m.write(m.host, "f", "x", 0o644)
	m.opts.Paths = []string{"~/f"}
	w := Gather(m.opts)
	for _, answer := range []string{"", "aivm-sync 1\x00", "aivm-sync 1\x00home /h\x00", "x\x00y\x00end\x00", "aivm-sync 1\x00home h\x00end\x00", "aivm-sync 2\x00home /h\x00end\x00"} {
		if _, err := w.ParseGuest([]byte(answer)); err == nil {
			t.Errorf("%q was accepted", answer)
		}
	}
	for _, s := range []string{"state !!!", "state {}", "state {\"schema\":1,\"files\":null}", "text 9 x", "text -1 x", "S", "full", "served 9", "Ef 9999999999999999999999 ./f", "E", "L", "Ef x ./f", "server 5 x", strings.Repeat("a", 64) + "  ./g"} {
		g, err := w.ParseGuest([]byte("aivm-sync 1\x00home /h\x00" + s + "\x00end\x00"))
		if err != nil {
			t.Errorf("%q: %v", s, err)
			continue
		}
		if r := NewRound(w, g, m.now); len(r.files) != 1 {
			t.Errorf("%q: %+v", s, r.Report)
		}
	}
}
