package record

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// A row is one case: a state, and a command line.
type row struct {
	name  string       // of the golden file
	state func(*world) // brings a new world into the state; may be nil
	line  string       // the arguments of aivm, separated by spaces
	dry   bool         // the command has --dry-run, whose plan is recorded too
}

func TestRecord(t *testing.T) {
	startMirror(t)
	rows := slices.Concat(codeRows, folderRows, vmRows, gitRows, hostRows, settingsRows, storeRows, oddRows, mirrorRows)
	var known []string
	for _, r := range rows {
		if slices.Contains(known, r.name) {
			t.Fatalf("two cases have the name %s", r.name)
		}
		known = append(known, r.name)
		t.Run(r.name, func(t *testing.T) { record(t, r) })
	}
	if strings.Contains(strings.Join(os.Args, " "), "test.run") {
		return
	}
	files, err := os.ReadDir(goldenDir)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		name := strings.TrimSuffix(f.Name(), ".golden")
		if slices.Contains(known, name) || textFiles[f.Name()] {
			continue
		}
		if !*update {
			t.Errorf("%s/%s belongs to no case", goldenDir, f.Name())
		} else if err := os.Remove(filepath.Join(goldenDir, f.Name())); err != nil {
			t.Fatal(err)
		}
	}
}

func record(t *testing.T, r row) {
	w := newWorld(t)
	if r.state != nil {
		r.state(w)
	}
	args := strings.Fields(r.line)
	if w.args != nil {
		args = w.args
	}
	var b strings.Builder
	add := func(title, text string) {
		if text != "" {
			b.WriteString("== " + title + "\n" + strings.TrimRight(text, "\n") + "\n")
		}
	}
	before := tree(t)
	if r.dry {
		w.resetNotes()
		o := w.try(dryArgs(args)...)
		add("plan", fmt.Sprintf("status %d\n%s%s", o.status, pretty(o.out), o.err))
		if len(w.notes[sectionRoot])+len(w.notes[sectionVirt]) > 0 {
			t.Errorf("a dry run changed something: %q", w.notes)
		}
		if d := treeDiff(before, tree(t)); d != "" {
			add("files of the dry run", d)
		}
		before = tree(t)
	}
	w.resetNotes()
	o := w.try(args...)
	add("command", fmt.Sprintf("aivm %s\nstatus %d", strings.Join(args, " "), o.status))
	add("stdout", pretty(o.out))
	add("stderr", o.err)
	for s, title := range []string{"privileged records", "libvirt", "guest", "guest, started beside the rest"} {
		add(title, strings.Join(w.notes[s], "\n"))
	}
	if c, err := os.ReadFile(calls); err == nil {
		add("programs started", startedText(string(c)))
	}
	add("files", treeDiff(before, tree(t)))
	got := splitLongTexts(t, normalize(b.String()))
	w.checkHints(t, o)
	path := filepath.Join(goldenDir, r.name+".golden")
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs (go test ./test/record -update rewrites it):\n%s", path, firstDifference(string(want), got))
	}
}

// startedText sorts consecutive calls of ssh -G, because aivm starts them concurrently.
func startedText(s string) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	for i := 0; i < len(lines); {
		j := i
		for j < len(lines) && strings.HasPrefix(lines[j], "ssh [-G]") {
			j++
		}
		slices.Sort(lines[i:j])
		i = max(j, i+1)
	}
	return strings.Join(lines, "\n")
}

// pretty indents JSON.
func pretty(s string) string {
	var b bytes.Buffer
	if !strings.HasPrefix(s, "{") || json.Indent(&b, []byte(s), "", "\t") != nil {
		return s
	}
	return b.String()
}

// dryArgs inserts --dry-run --json before "--", or at the end.
func dryArgs(args []string) []string {
	at := slices.Index(args, "--")
	if at < 0 {
		at = len(args)
	}
	return slices.Insert(slices.Clone(args), at, "--dry-run", "--json")
}

func firstDifference(want, got string) string {
	a, b := strings.Split(want, "\n"), strings.Split(got, "\n")
	for i := range max(len(a), len(b)) {
		if i >= len(a) || i >= len(b) || a[i] != b[i] {
			show := func(l []string) string { return strings.Join(l[min(i, len(l)):min(i+6, len(l))], "\n") }
			return fmt.Sprintf("line %d, it was:\n%s\nnow it is:\n%s", i+1, show(a), show(b))
		}
	}
	return ""
}
