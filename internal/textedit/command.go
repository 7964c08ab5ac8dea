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

// Kind tells when an editor's command ends.
type Kind int

const (
	// Unknown editors may end at once or when the user is done.
	Unknown Kind = iota
	// Terminal editors run in the terminal and end when the user is done.
	Terminal
	// Window editors end when the file is closed in their window, because they have the flag for
	// that.
	Window
	// Detached programs pass the file to another program and end at once.
	Detached
)

// Command is an editor's command line for a POSIX shell, without the file.
type Command struct {
	Shell string
	Kind  Kind
	// Added is the flag that Parse inserted ("--wait") or removed ("without -n"), "" if none.
	Added string
}

// Parse parses the value of $EDITOR or of a flag and adds the flag that makes the editor wait, if
// that editor needs one. If the complete line is the path of an existing program, it is that program
// even if the path contains blanks.
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

// editor holds the flags that decide whether a program waits.
type editor struct {
	kind Kind
	wait []string // flags that make it wait; the first one is inserted
	not  []string // flags that make it return at once; they are removed
	// window lists flags that make a terminal editor open its own window; then it needs a wait flag.
	window []string
	// swap maps flags to flags that do the same and wait.
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
			// emacsclient -nc: remove the n, keep the other letters.
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

// clientFlags matches one-letter flags of emacsclient combined in one word; the last one may take a
// value. emacsclient's long flags may also have one hyphen: -nw does not contain -n.
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

// editors maps the names of programs, snaps and flatpaks to their editor.
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
	sameEditor(vscode, "code", "code-insiders", "code-oss", "code-exploration", "codium", "codium-insiders", "vscodium", "cursor", "windsurf", "windsurf-next",
		"antigravity", "positron", "trae", "kiro", "zed", "zeditor", "zedit", "zed-editor", "subl", "sublime_text", "sublime-text", "sublime", "atom", "atom-beta", "pulsar",
		"mate", "bbedit", "lapce", "com.visualstudio.code", "com.visualstudio.code.insiders", "com.visualstudio.code-oss", "com.vscodium.codium",
		"com.vscodium.codium-insiders", "dev.zed.zed", "dev.zed.zed-preview", "com.sublimetext.three", "io.atom.atom", "dev.pulsar_edit.pulsar"),
	sameEditor(jetbrain, "idea", "pycharm", "webstorm", "goland", "clion", "rider", "phpstorm", "rubymine", "rustrover", "datagrip", "fleet"),
	sameEditor(vim, "vim", "vi", "view", "vimx", "vimdiff", "ex"),
	sameEditor(gvim, "gvim", "gview", "mvim", "evim", "gvimdiff", "org.vim.vim"),
	sameEditor(plain, "nvim", "nvi", "elvis", "vis", "nano", "pico", "rnano", "mg", "jed", "joe", "jmacs", "jpico", "jstar", "ne", "micro", "hx", "helix", "kak",
		"mcedit", "ed", "zile", "tilde", "dte", "amp", "e3", "sed", "io.neovim.nvim", "kwrite", "org.kde.kwrite"),
	sameEditor(detached, "xdg-open", "open", "gio", "gvfs-open", "gnome-open", "kde-open", "exo-open", "mimeopen", "wslview", "run-mailcap"),
)

func sameEditor(e editor, names ...string) map[string]editor {
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

// starters maps programs that run the program after their own flags to those flags that take a
// value as the next word.
var starters = map[string][]string{
	"env": {"-u", "--unset", "-C", "--chdir"}, "nice": {"-n", "--adjustment"}, "ionice": {"-c", "-n"}, "nohup": nil, "exec": nil, "command": nil,
}

// program returns the index of the word that names the editor: the first one after assignments,
// starters such as env, "flatpak run" and "snap run"; -1 if there is none.
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

// names returns the names to look up a program by, best first: its own name, that name without
// version or suffix, and the same for the target if the program is a link.
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

// word is one word of a shell line without its quotes, and its position line[start:end].
type word struct {
	text       string
	start, end int
}

// split splits a line into words as a POSIX shell does. ok is false if the line is more than one
// simple command.
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
