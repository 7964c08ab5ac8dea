package editor

import (
	"bytes"
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// BrowserOpener returns the command that opens an HTML file of the host in the user's browser: an
// entry of $BROWSER, else xdg-open. If the browser could not read the file, or another program would
// open it, argv is empty and why gives the reason.
//
// It runs xdg-mime twice if $BROWSER is not set.
func BrowserOpener(ctx context.Context, env Env, file string) (argv []string, why string) {
	if list := env.Getenv("BROWSER"); list != "" {
		for _, entry := range filepath.SplitList(list) {
			words := strings.Fields(entry)
			if len(words) == 0 {
				continue
			}
			path, err := env.LookPath(words[0])
			if err != nil {
				continue
			}
			if why := confinedProgram(path); why != "" {
				return nil, why
			}
			return withFile(append([]string{path}, words[1:]...), file), ""
		}
		return nil, "no browser listed in $BROWSER is installed"
	}
	opener, err := env.LookPath("xdg-open")
	if err != nil {
		return nil, "xdg-open is not installed"
	}
	page, web := handler(ctx, env, "text/html"), handler(ctx, env, "x-scheme-handler/http")
	if page != "" && web != "" && page != web {
		return nil, "HTML files open in " + page + ", not in the browser"
	}
	if page != "" {
		if why := confinedEntry(env, page); why != "" {
			return nil, why
		}
	}
	return []string{opener, file}, ""
}

// withFile replaces %s in an entry of $BROWSER by the file, or appends the file if there is no %s.
func withFile(argv []string, file string) []string {
	found := false
	for i, a := range argv[1:] {
		if strings.Contains(a, "%s") {
			argv[i+1], found = strings.ReplaceAll(a, "%s", file), true
		}
	}
	if !found {
		argv = append(argv, file)
	}
	return argv
}

// handler returns the desktop entry that opens a MIME type, "" if that cannot be found out.
func handler(ctx context.Context, env Env, mime string) string {
	query, err := env.LookPath("xdg-mime")
	if err != nil {
		return ""
	}
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, query, "query", "default", mime)
	cmd.Env, cmd.WaitDelay = Environ(env.Environ()), time.Second
	out, err := cmd.Output()
	name := strings.TrimSpace(string(out))
	if err != nil || !strings.HasSuffix(name, ".desktop") || strings.ContainsAny(name, "/\n") {
		return ""
	}
	return name
}

// confinedEntry returns why the program of a desktop entry cannot read aivm's files, "" if nothing
// indicates that.
func confinedEntry(env Env, name string) string {
	home := env.Getenv("XDG_DATA_HOME")
	if home == "" {
		home = filepath.Join(env.Getenv("HOME"), ".local/share")
	}
	system := env.Getenv("XDG_DATA_DIRS")
	if system == "" {
		system = "/usr/local/share:/usr/share"
	}
	dirs := slices.Concat([]string{home}, filepath.SplitList(system), []string{"/var/lib/snapd/desktop", "/var/lib/flatpak/exports/share"})
	for _, dir := range dirs {
		text, err := readHead(filepath.Join(dir, "applications", name))
		if err != nil {
			continue
		}
		for line := range bytes.Lines(text) {
			command, ok := strings.CutPrefix(strings.TrimSpace(string(line)), "Exec=")
			if !ok {
				continue
			}
			if why := confinedCommand(command); why != "" {
				return why
			}
			for _, word := range strings.Fields(command) {
				if path, err := env.LookPath(strings.Trim(word, `"`)); err == nil && filepath.Base(path) != "env" {
					return confinedProgram(path)
				}
			}
			return "" // the first Exec is the entry's own, further ones belong to its actions
		}
		return ""
	}
	return ""
}

// confinedProgram checks the launcher itself: some distributions have a script at /usr/bin/firefox
// that starts the snap.
func confinedProgram(path string) string {
	resolved, err := filepath.EvalSymlinks(path)
	if err != nil {
		return ""
	}
	if strings.HasPrefix(path, "/snap/") || strings.HasPrefix(resolved, "/snap/") || filepath.Base(resolved) == "snap" {
		return confinedCommand("/snap/")
	}
	if filepath.Base(resolved) == "flatpak" {
		return confinedCommand("flatpak run")
	}
	text, err := readHead(resolved)
	if err != nil || !bytes.HasPrefix(text, []byte("#!")) {
		return ""
	}
	return confinedCommand(string(text))
}

func confinedCommand(text string) string {
	switch {
	case strings.Contains(text, "/snap/"), strings.Contains(text, "snap run "):
		return "the browser is a snap, which cannot read aivm's files"
	case strings.Contains(text, "flatpak") && strings.Contains(text, "run") && !strings.Contains(text, "--file-forwarding"):
		return "the browser is a flatpak, which cannot read aivm's files"
	}
	return ""
}

func readHead(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, 64<<10))
}
