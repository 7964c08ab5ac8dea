package script

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestHelp compares every page of --help with its golden file, so that changes of help texts are reviewed
// as diffs (go test ./test/script -run TestHelp -update).
func TestHelp(t *testing.T) {
	var seen []string
	var walk func(path []string)
	walk = func(path []string) {
		name := strings.Join(append([]string{"aivm"}, path...), "-")
		text := help(t, path)
		seen = append(seen, name+".txt")
		golden(t, name+".txt", text)
		checkHelp(t, name, path, text)
		for _, sub := range subcommands(text) {
			walk(append(slices.Clone(path), sub))
		}
	}
	walk(nil)
	walk([]string{"vm", "destroy"}) // hidden, but kept for compatibility
	if len(seen) < 25 {
		t.Errorf("only %d pages were found", len(seen))
	}
	files, err := filepath.Glob("testdata/help/*.txt")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if !slices.Contains(seen, filepath.Base(f)) {
			t.Errorf("%s belongs to no command", f)
		}
	}
}

func help(t *testing.T, path []string) string {
	t.Helper()
	// It works without a home, a config and libvirt.
	cmd := exec.Command("aivm", append(slices.Clone(path), "--help")...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=/nonexistent"}
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil || stderr.String() != "" {
		t.Fatalf("aivm %s --help: %v\n%s", strings.Join(path, " "), err, stderr.String())
	}
	return string(out)
}

func golden(t *testing.T, name, text string) {
	t.Helper()
	file := filepath.Join("testdata", "help", name)
	if *update {
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Errorf("%v (a new command? -update)", err)
		return
	}
	if d := cmp.Diff(strings.Split(string(want), "\n"), strings.Split(text, "\n")); d != "" {
		t.Errorf("%s (-golden +got):\n%s", name, d)
	}
}

var (
	commandLine = regexp.MustCompile(`(?m)^  ([a-z][a-z-]*) +\S`)
	exampleLine = regexp.MustCompile(`(?m)^  (?:.*\| )?(aivm .*)$`)
)

func subcommands(text string) []string {
	_, list, ok := strings.Cut(text, "Available Commands:\n")
	if !ok {
		return nil
	}
	list, _, _ = strings.Cut(list, "\n\n")
	var out []string
	for _, m := range commandLine.FindAllStringSubmatch(list, -1) {
		out = append(out, m[1])
	}
	return out
}

// checkHelp checks that a page has at least two examples with existing commands and flags, the exit
// statuses, and no line of more than 100 characters.
func checkHelp(t *testing.T, name string, path []string, text string) {
	t.Helper()
	_, examples, ok := strings.Cut(text, "Examples:\n")
	examples, _, _ = strings.Cut(examples, "\n\n")
	found := exampleLine.FindAllStringSubmatch(examples, -1)
	if !ok || len(found) < 2 {
		t.Errorf("%s shows %d examples", name, len(found))
	}
	for _, m := range found {
		if !strings.HasPrefix(m[1], strings.Join(append([]string{"aivm"}, path...), " ")) && len(path) > 0 && path[0] != "vm" {
			t.Errorf("%s: the example %q is of another command", name, m[1])
		}
		if c := realCommand(m[1]); c != "" {
			t.Errorf("%s: the example %q: %s", name, m[1], c)
		}
	}
	if !strings.Contains(text, "Exit status: ") {
		t.Errorf("%s does not list exit statuses", name)
	}
	prose, _, _ := strings.Cut(text, "\nFlags:")
	for line := range strings.Lines(prose) {
		if len([]rune(line)) > 100 {
			t.Errorf("%s: a line of %d characters: %s", name, len(line), line)
		}
	}
}

// pages caches help pages by command path, because many hints contain the same command.
var pages sync.Map

func page(path []string) (text, complaint string) {
	key := strings.Join(path, " ")
	if p, ok := pages.Load(key); ok {
		return p.(string), ""
	}
	cmd := exec.Command("aivm", append(slices.Clone(path), "--help")...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=/nonexistent"}
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", "no such command: " + string(out)
	}
	pages.Store(key, string(out))
	return string(out), ""
}

// realCommand checks that the command and the flags of a command line exist. It returns what is missing,
// or "".
func realCommand(line string) string {
	words := strings.Fields(line)
	args := []string{}
	for _, w := range words[1:] {
		if w == "--" || strings.ContainsAny(w, "|>#") {
			break
		}
		args = append(args, w)
	}
	if len(args) > 1 && args[0] == "help" && !slices.Contains([]string{"plan", "tree", "raw", "completion"}, args[1]) {
		args = args[1:] // "help vm create" is about vm create
	}
	// The first word that is not a command ends the path. Flags are searched in the help page of the path.
	text, depth := "", 0
	for {
		var bad string
		if text, bad = page(args[:depth]); bad != "" {
			return bad
		}
		subs := subcommands(text)
		if len(subs) == 0 || depth == len(args) || strings.HasPrefix(args[depth], "-") {
			break
		}
		if !slices.Contains(subs, args[depth]) {
			return "there is no command " + args[depth]
		}
		depth++
	}
	for _, a := range args[depth:] {
		flag, _, _ := strings.Cut(a, "=")
		if strings.HasPrefix(flag, "-") && !regexp.MustCompile(`(?m)(^|[ ,])`+regexp.QuoteMeta(flag)+`([ ,]|$)`).MatchString(text) {
			return "there is no flag " + flag
		}
	}
	return ""
}
