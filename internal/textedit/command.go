package textedit

import (
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"al.essio.dev/pkg/shellescape"
)

// Kind says when an editor ends.
type Kind int

const (
	// Unknown editors may end at once or not.
	Unknown Kind = iota
	// Terminal editors end when the person is done.
	Terminal
	// Window editors end when the file is closed in their window, since they
	// have the flag for it.
	Window
	// Detached programs hand the file to another one and end at once.
	Detached
)

// Command is an editor's command line for a POSIX shell, without the file.
type Command struct {
	Shell string
	Kind  Kind
	// Added is the flag that was put in, "" if none was needed.
	Added string
}

// Parse reads what $EDITOR or a flag says and adds the flag that makes the
// editor wait, if it is one that needs it. A line that names one existing
// program is that program, blanks in its path included.
func Parse(line string) Command {
	if strings.ContainsRune(line, ' ') && strings.HasPrefix(line, "/") {
		if st, err := os.Stat(line); err == nil && st.Mode().IsRegular() && st.Mode().Perm()&0o111 != 0 {
			line = shellescape.Quote(line)
		}
	}
	ws, ok := split(line)
	if !ok {
		return Command{Shell: line}
	}
	at := program(ws)
	if at < 0 {
		return Command{Shell: line}
	}
	for _, name := range names(ws[at].text) {
		if e, ok := editors[name]; ok {
			return e.command(line, ws, at)
		}
	}
	return Command{Shell: line}
}

// editor is how one program is made to wait.
type editor struct {
	kind Kind
	wait []string // flags that make it wait; the first one is put in
	not  []string // flags that keep it from waiting: taken out
	// window lists flags that make a terminal editor open a window of its own,
	// which then needs wait.
	window []string
	// swap lists flags with one that means the same and waits.
	swap map[string]string
}

func (e editor) command(line string, ws []word, at int) Command {
	c := Command{Kind: e.kind}
	has, window := false, len(e.window) == 0
	swapped := slices.Collect(maps.Values(e.swap))
	var b strings.Builder
	end := 0
	for i, w := range ws {
		if i <= at {
			continue
		}
		switch text := w.text; {
		case slices.Contains(e.not, text):
			b.WriteString(line[end:w.start])
			end = w.end
			c.Added = "without " + text
		case e.swap[text] != "":
			b.WriteString(line[end:w.start] + e.swap[text])
			end = w.end
			c.Added, c.Kind, has = e.swap[text], Window, true
		case len(e.not) > 0 && clientFlags.MatchString(text) && strings.Contains(text, "n"):
			// emacsclient -nc: the letter goes, the others stay.
			b.WriteString(line[end:w.start] + strings.ReplaceAll(text, "n", ""))
			end = w.end
			c.Added = "without -n"
		case slices.Contains(swapped, text):
			window, has = true, true
		case slices.Contains(e.wait, text), slices.Contains(e.wait, "-f") && shortFlags.MatchString(text) && strings.Contains(text, "f"):
			has = true
		case slices.Contains(e.window, text):
			window = true
		}
	}
	b.WriteString(line[end:])
	c.Shell = b.String()
	if window && has {
		c.Kind = Window
	}
	if len(e.wait) == 0 || has || !window {
		return c
	}
	c.Added, c.Kind = e.wait[0], Window
	cut := ws[at].end // nothing before it was changed
	c.Shell = c.Shell[:cut] + " " + c.Added + c.Shell[cut:]
	return c
}

// clientFlags are emacsclient's flags of one letter, several in one word, of
// which the last one may take a value. Its long ones may have one hyphen too:
// -nw is no -n.
var clientFlags = regexp.MustCompile(`^-[cenqrtuHV]+[adfsFPT]?$`)

var shortFlags = regexp.MustCompile(`^-[a-zA-Z]{2,}$`)

func waits(flags ...string) editor { return editor{kind: Window, wait: flags} }

var (
	plain    = editor{kind: Terminal}
	detached = editor{kind: Detached}
	vscode   = waits("--wait", "-w")
	remote   = map[string]string{
		"--remote": "--remote-wait", "--remote-silent": "--remote-wait-silent",
		"--remote-tab": "--remote-tab-wait", "--remote-tab-silent": "--remote-tab-wait-silent",
	}
	vim      = editor{kind: Terminal, wait: []string{"-f", "--nofork"}, window: []string{"-g"}, swap: remote}
	gvim     = editor{kind: Window, wait: []string{"-f", "--nofork"}, swap: remote}
	jetbrain = waits("--wait")
)

// editors are known by the name of their program, their snap or their flatpak.
var editors = merge(map[string]editor{
	"emacsclient": {kind: Window, not: []string{"-n", "--no-wait", "-no-wait"}},
	"emacs":       plain,
	"gedit":       waits("--wait", "-w"), "org.gnome.gedit": waits("--wait", "-w"), "xed": waits("--wait", "-w"),
	"gnome-text-editor": waits("--standalone", "-s"), "org.gnome.texteditor": waits("--standalone", "-s"),
	"kate": waits("--block", "-b"), "org.kde.kate": waits("--block", "-b"),
	"geany": waits("--new-instance", "-i"), "org.geany.geany": waits("--new-instance", "-i"),
	"nvim-qt": waits("--nofork"), "neovide": waits("--no-fork", "--nofork"),
	"nvr": {kind: Window, wait: []string{"--remote-wait"}, swap: remote},
},
	alike(vscode, "code", "code-insiders", "code-oss", "code-exploration", "codium", "codium-insiders", "vscodium", "cursor", "windsurf", "windsurf-next",
		"antigravity", "positron", "trae", "kiro", "zed", "zeditor", "zedit", "zed-editor", "subl", "sublime_text", "sublime-text", "sublime", "atom", "atom-beta", "pulsar",
		"mate", "bbedit", "lapce", "com.visualstudio.code", "com.visualstudio.code.insiders", "com.visualstudio.code-oss", "com.vscodium.codium",
		"com.vscodium.codium-insiders", "dev.zed.zed", "dev.zed.zed-preview", "com.sublimetext.three", "io.atom.atom", "dev.pulsar_edit.pulsar"),
	alike(jetbrain, "idea", "pycharm", "webstorm", "goland", "clion", "rider", "phpstorm", "rubymine", "rustrover", "datagrip", "fleet"),
	alike(vim, "vim", "vi", "view", "vimx", "vimdiff", "ex"),
	alike(gvim, "gvim", "gview", "mvim", "evim", "gvimdiff", "org.vim.vim"),
	alike(plain, "nvim", "nvi", "elvis", "vis", "nano", "pico", "rnano", "mg", "jed", "joe", "jmacs", "jpico", "jstar", "ne", "micro", "hx", "helix", "kak",
		"mcedit", "ed", "zile", "tilde", "dte", "amp", "e3", "sed", "io.neovim.nvim", "kwrite", "org.kde.kwrite"),
	alike(detached, "xdg-open", "open", "gio", "gvfs-open", "gnome-open", "kde-open", "exo-open", "mimeopen", "wslview", "run-mailcap"),
)

func alike(e editor, names ...string) map[string]editor {
	m := map[string]editor{}
	for _, n := range names {
		m[n] = e
	}
	return m
}

func merge(ms ...map[string]editor) map[string]editor {
	all := map[string]editor{}
	for _, m := range ms {
		for k, v := range m {
			all[k] = v
		}
	}
	return all
}

var (
	assignment = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*=`)
	appID      = regexp.MustCompile(`^[A-Za-z_][\w-]*(\.[\w-]+){2,}$`)
	version    = regexp.MustCompile(`[-_.]?v?[0-9].*$`)
)

// starters run the program that follows their flags; the value says which of
// those flags take a word.
var starters = map[string][]string{
	"env": {"-u", "--unset", "-C", "--chdir"}, "nice": {"-n", "--adjustment"}, "ionice": {"-c", "-n"}, "nohup": nil, "exec": nil, "command": nil,
}

// program returns which word names the editor: behind assignments, env and its
// kind, "flatpak run" and "snap run". -1 if there is none.
func program(ws []word) int {
	for i := 0; i < len(ws); i++ {
		name := filepath.Base(ws[i].text)
		takes, starter := starters[name]
		switch {
		case assignment.MatchString(ws[i].text):
		case starter:
			for i+1 < len(ws) && strings.HasPrefix(ws[i+1].text, "-") {
				i++
				if slices.Contains(takes, ws[i].text) {
					i++
				}
			}
		case name == "flatpak", name == "snap":
			run := false
			for i++; i < len(ws); i++ {
				switch w := ws[i].text; {
				case w == "run":
					run = true
				case run && (name == "flatpak" && appID.MatchString(w) || name == "snap" && !strings.HasPrefix(w, "-")):
					return i
				}
			}
			return -1
		default:
			return i
		}
	}
	return -1
}

// names returns what a program may be known by, best first: its own name, that
// without a version or a suffix, and the names of what a link leads to.
func names(program string) []string {
	var out []string
	add := func(path string) {
		n := strings.ToLower(filepath.Base(path))
		for _, s := range []string{".appimage", ".exe", ".cmd", ".sh", ".bin"} {
			n = strings.TrimSuffix(n, s)
		}
		out = append(out, n, version.ReplaceAllString(n, ""))
		if !appID.MatchString(n) {
			first, _, _ := strings.Cut(n, ".") // vim.gtk3, sublime-text.subl
			out = append(out, first)
		}
	}
	program = os.ExpandEnv(program)
	add(program)
	if path, err := exec.LookPath(program); err == nil {
		if to, err := filepath.EvalSymlinks(path); err == nil && filepath.Base(to) != filepath.Base(path) && filepath.Base(to) != "snap" {
			add(to)
		}
	}
	return slices.DeleteFunc(out, func(n string) bool { return n == "" })
}

// word is one word of a shell line, without its quotes, and where it stands.
type word struct {
	text       string
	start, end int
}

// split takes a line apart as a shell does. A line that is more than one plain
// command is not understood: ok is false.
func split(line string) (ws []word, ok bool) {
	for i := 0; i < len(line); {
		if line[i] == ' ' || line[i] == '\t' {
			i++
			continue
		}
		w := word{start: i}
		var b strings.Builder
		var quote byte
	scan:
		for ; i < len(line); i++ {
			c := line[i]
			switch {
			case quote == '\'' && c != '\'', quote == '"' && c != '"' && c != '\\' && c != '`':
				b.WriteByte(c)
			case quote != 0 && c == quote:
				quote = 0
			case c == '\\' && i+1 < len(line) && line[i+1] != '\n':
				if quote == '"' && !strings.ContainsRune("\"\\$`", rune(line[i+1])) {
					b.WriteByte(c)
				}
				i++
				b.WriteByte(line[i])
			case quote == 0 && (c == '\'' || c == '"'):
				quote = c
			case strings.IndexByte(";|&<>()`\n\\", c) >= 0, c == '#' && b.Len() == 0 && i == w.start:
				return nil, false
			case c == ' ' || c == '\t':
				break scan
			default:
				b.WriteByte(c)
			}
		}
		if quote != 0 || strings.Contains(b.String(), "$(") {
			return nil, false
		}
		w.text, w.end = b.String(), i
		ws = append(ws, w)
	}
	return ws, len(ws) > 0
}
