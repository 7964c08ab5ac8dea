package editor

import (
	"fmt"
	"strings"

	"al.essio.dev/pkg/shellescape"
)

// Recipe is the instructions to open a guest's folder manually.
type Recipe struct {
	Alias   string   `json:"alias"`
	Path    string   `json:"path"`
	URI     string   `json:"uri"`
	Command string   `json:"command"`
	Shell   string   `json:"shell"`
	Install []string `json:"install"`
	Others  []Other  `json:"others"`
}

// Other is the command with which another editor opens the same folder.
type Other struct {
	Editor  string `json:"editor"`
	Command string `json:"command"`
}

// NewRecipe returns the recipe for a folder of a guest. Like OpenArgs it refuses an alias or path
// that an editor would parse differently.
func NewRecipe(alias, guestPath, user string) (Recipe, error) {
	target, err := folderArg(alias, guestPath)
	if err != nil {
		return Recipe{}, err
	}
	code := Editors()[0]
	var others []Other
	for _, e := range Editors()[1:] {
		switch {
		case e.Kind == Browser:
			others = append(others, Other{e.ID, "aivm code --editor code-server"})
		case !e.Kind.NeedsNoLauncher():
			args, err := OpenArgs(Found{Editor: e}, Target{Alias: alias, Path: guestPath, User: user})
			if err != nil {
				return Recipe{}, err
			}
			others = append(others, Other{e.ID, shellLine(append([]string{e.Commands[0]}, args...))})
		}
	}
	return Recipe{
		Alias: alias, Path: guestPath,
		URI:     "vscode-remote://ssh-remote+" + alias + percentEncode(target),
		Command: shellLine([]string{code.Commands[0], "--remote", "ssh-remote+" + alias, target}),
		Shell:   shellLine([]string{"ssh", alias}),
		Install: []string{
			"install " + code.Name + ": " + code.Install,
			shellLine([]string{code.Commands[0], "--install-extension", code.Extension}),
		},
		Others: others,
	}, nil
}

// All returns Text followed by the commands of the other editors.
func (r Recipe) All() string {
	var b strings.Builder
	b.WriteString(r.Text())
	for _, o := range r.Others {
		fmt.Fprintf(&b, "  %-13s %s\n", o.Editor, o.Command)
	}
	return b.String()
}

// Text returns the recipe as lines for a terminal.
func (r Recipe) Text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "  SSH host  %s\n", r.Alias)
	fmt.Fprintf(&b, "  folder    %s\n", shellWord(r.Path))
	fmt.Fprintf(&b, "  open      %s\n", r.Command)
	fmt.Fprintf(&b, "  URI       %s\n", r.URI)
	fmt.Fprintf(&b, "  shell     %s\n", r.Shell)
	for i, line := range r.Install {
		label := ""
		if i == 0 {
			label = "no editor"
		}
		fmt.Fprintf(&b, "  %-9s %s\n", label, line)
	}
	return b.String()
}

// percentEncode encodes a path for a URI (RFC 3986 3.3), byte by byte. Only letters, digits, "-._~"
// and slashes stay: editors differ in which other characters they accept unencoded.
func percentEncode(p string) string {
	var b strings.Builder
	for i := range len(p) {
		c := p[i]
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', strings.IndexByte("-._~/", c) >= 0:
			b.WriteByte(c)
		default:
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}

// shellLine returns argv as a command line for a shell. A word with control characters is written in
// the shell's $'...' form, so that they have no effect on the terminal.
func shellLine(argv []string) string {
	words := make([]string, len(argv))
	for i, a := range argv {
		words[i] = shellWord(a)
	}
	return strings.Join(words, " ")
}

func shellWord(s string) string {
	if !strings.ContainsFunc(s, func(r rune) bool { return r < 0x20 || r == 0x7f || r >= 0x80 && r < 0xa0 }) {
		return shellescape.Quote(s)
	}
	var b strings.Builder
	b.WriteString("$'")
	for i := range len(s) {
		switch c := s[i]; {
		case c == '\'' || c == '\\':
			b.WriteByte('\\')
			b.WriteByte(c)
		case c < 0x20 || c >= 0x7f:
			fmt.Fprintf(&b, `\%03o`, c)
		default:
			b.WriteByte(c)
		}
	}
	b.WriteString("'")
	return b.String()
}
