package textedit

import (
	"os"
	"path/filepath"
	"testing"

	"al.essio.dev/pkg/shellescape"
)

func TestParse(t *testing.T) {
	for in, want := range map[string]struct {
		shell string
		kind  Kind
	}{
		"code":                              {"code --wait", Window},
		"code -w":                           {"code -w", Window},
		"code --wait --new-window":          {"code --wait --new-window", Window},
		"code -n --":                        {"code --wait -n --", Window},
		"/no/where/bin/codium -n":           {"/no/where/bin/codium --wait -n", Window},
		`"/opt/My Editor/code" -r`:          {`"/opt/My Editor/code" --wait -r`, Window},
		`/opt/My\ Editor/cursor`:            {`/opt/My\ Editor/cursor --wait`, Window},
		"$HOME/bin/code":                    {"$HOME/bin/code --wait", Window},
		"env X=y code":                      {"env X=y code --wait", Window},
		"env -u DISPLAY -i X=y code":        {"env -u DISPLAY -i X=y code --wait", Window},
		"X=y code":                          {"X=y code --wait", Window},
		"nice -n 5 subl":                    {"nice -n 5 subl --wait", Window},
		"flatpak run com.visualstudio.code": {"flatpak run com.visualstudio.code --wait", Window},
		"flatpak run --branch=stable --command code com.vscodium.codium -n": {"flatpak run --branch=stable --command code com.vscodium.codium --wait -n", Window},
		"snap run code":                 {"snap run code --wait", Window},
		"/snap/bin/sublime-text.subl":   {"/snap/bin/sublime-text.subl --wait", Window},
		"Cursor-0.50.5-x86_64.AppImage": {"Cursor-0.50.5-x86_64.AppImage --wait", Window},
		"zed":                           {"zed --wait", Window}, "atom": {"atom --wait", Window}, "mate": {"mate --wait", Window}, "idea": {"idea --wait", Window},
		"gvim": {"gvim -f", Window}, "gvim -f": {"gvim -f", Window}, "gvim --nofork": {"gvim --nofork", Window}, "gvim -gf": {"gvim -gf", Window},
		"vim": {"vim", Terminal}, "vim -g": {"vim -f -g", Window}, "vim --remote": {"vim --remote-wait", Window}, "gvim --remote-silent": {"gvim --remote-wait-silent", Window},
		"kate": {"kate --block", Window}, "kate -b": {"kate -b", Window}, "gedit": {"gedit --wait", Window},
		"emacsclient": {"emacsclient", Window}, "emacsclient -n": {"emacsclient ", Window}, "emacsclient -nc": {"emacsclient -c", Window},
		"emacsclient -nw": {"emacsclient -nw", Window}, "emacsclient -t -a ''": {"emacsclient -t -a ''", Window}, "emacsclient -no-wait -nw": {"emacsclient  -nw", Window},
		"emacsclient -cna ''": {"emacsclient -ca ''", Window}, "emacsclient -alternate-editor=nano": {"emacsclient -alternate-editor=nano", Window},
		"emacsclient --no-wait -a '' -c": {"emacsclient  -a '' -c", Window},
		"vim.basic":                      {"vim.basic", Terminal}, "nano": {"nano", Terminal}, "hx": {"hx", Terminal}, "sed -i s/x/y/": {"sed -i s/x/y/", Terminal},
		"xdg-open": {"xdg-open", Detached}, "open": {"open", Detached}, "gio open": {"gio open", Detached},
		"my-editor --x": {"my-editor --x", Unknown}, "flatpak run": {"flatpak run", Unknown}, "env": {"env", Unknown},
		"code; true": {"code; true", Unknown}, "code | cat": {"code | cat", Unknown}, "$(which code)": {"$(which code)", Unknown}, `code "x`: {`code "x`, Unknown},
	} {
		got := Parse(in)
		if got.Shell != want.shell || got.Kind != want.kind {
			t.Errorf("%q: %q of kind %d, want %q of kind %d", in, got.Shell, got.Kind, want.shell, want.kind)
		}
		if again := Parse(got.Shell); again.Shell != got.Shell || again.Kind != got.Kind {
			t.Errorf("%q: parsed a second time: %+v", got.Shell, again)
		}
	}
}

// TestParsePrograms parses paths of existing programs: with blanks, and through a link of another
// name.
func TestParsePrograms(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "My Editor")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	code, link := filepath.Join(dir, "code"), filepath.Join(dir, "e")
	if err := os.WriteFile(code, []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(code, link); err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{code, link} {
		if got, want := Parse(p).Shell, shellescape.Quote(p)+" --wait"; got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
