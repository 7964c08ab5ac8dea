package editor

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestBrowserOpener checks the command that opens a file in the browser, and the reasons given for
// browsers that could not read the file.
func TestBrowserOpener(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string, mode os.FileMode) {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), mode)); err != nil {
			t.Fatal(err)
		}
	}
	file("bin/plain", "\x7fELF", 0o755)
	file("bin/wrapper", "#!/bin/sh\nexec /snap/bin/firefox \"$@\"\n", 0o755)
	file("bin/launcher", "#!/bin/sh\nexec /usr/lib/plain \"$@\"\n", 0o755)
	file("bin/xdg-open", "#!/bin/sh\n", 0o755)
	file("bin/xdg-mime", "#!/bin/sh\neval echo \\$$(echo $3 | tr -c a-z _ | sed 's/_*$//')\n", 0o755)
	for name, command := range map[string]string{
		"plain.desktop":           "plain %U",
		"firefox_firefox.desktop": "env BAMF_DESKTOP_FILE_HINT=/var/lib/snapd/x.desktop /snap/bin/firefox %u",
		"wrapper.desktop":         "wrapper %u",
		"org.flatpak.desktop":     "/usr/bin/flatpak run --branch=stable --command=x org.flatpak %u",
		"org.forward.desktop":     "/usr/bin/flatpak run --branch=stable --file-forwarding org.forward @@u %u @@",
		"editor.desktop":          "plain %f",
	} {
		file("share/applications/"+name, "[Desktop Entry]\nExec="+command+"\n[Desktop Action x]\nExec=/snap/bin/other\n", 0o644)
	}
	for _, tc := range []struct {
		name    string
		environ []string
		want    string // the command line after "bin/"
		why     string
	}{
		{"a plain browser", []string{"text_html=plain.desktop", "x_scheme_handler_http=plain.desktop"}, "xdg-open F", ""},
		{"no handler known", nil, "xdg-open F", ""},
		{"an entry that does not exist", []string{"text_html=none.desktop"}, "xdg-open F", ""},
		{"a snap", []string{"text_html=firefox_firefox.desktop"}, "", "a snap"},
		{"a script that starts a snap", []string{"text_html=wrapper.desktop"}, "", "a snap"},
		{"a flatpak", []string{"text_html=org.flatpak.desktop"}, "", "a flatpak"},
		{"a flatpak with file forwarding", []string{"text_html=org.forward.desktop"}, "xdg-open F", ""},
		{"another program for files", []string{"text_html=editor.desktop", "x_scheme_handler_http=plain.desktop"}, "", "HTML files open in editor.desktop"},
		{"$BROWSER", []string{"BROWSER=none:plain", "text_html=org.flatpak.desktop"}, "plain F", ""},
		{"$BROWSER with options", []string{"BROWSER=launcher --new %s --x"}, "launcher --new F --x", ""},
		{"a snap in $BROWSER", []string{"BROWSER=wrapper"}, "", "a snap"},
		{"no browser in $BROWSER", []string{"BROWSER=none"}, "", "no browser listed in $BROWSER"},
	} {
		environ := append(tc.environ, "XDG_DATA_HOME="+dir+"/share", "PATH="+os.Getenv("PATH"))
		env := Env{
			Getenv: func(name string) string {
				i := slices.IndexFunc(environ, func(kv string) bool { return strings.HasPrefix(kv, name+"=") })
				if i < 0 {
					return ""
				}
				return environ[i][len(name)+1:]
			},
			Environ: func() []string { return environ },
			LookPath: func(name string) (string, error) {
				path := filepath.Join(dir, "bin", name)
				if _, err := os.Stat(path); err != nil || strings.Contains(name, "/") {
					return "", fs.ErrNotExist
				}
				return path, nil
			},
		}
		argv, why := BrowserOpener(t.Context(), env, "F")
		got := strings.TrimPrefix(strings.Join(argv, " "), dir+"/bin/")
		if got != tc.want || (tc.why == "") != (why == "") || !strings.Contains(why, tc.why) {
			t.Errorf("%s: %q %q", tc.name, got, why)
		}
	}
}
