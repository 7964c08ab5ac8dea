package config

import (
	"bytes"
	"context"
	"errors"
	"os"
	"strings"
	"testing"
)

func TestMergeEdits(t *testing.T) {
	const base = "a = 1\n[x]\nb = 2\n\n[[vms]]\nname = 'v'\n"
	for name, c := range map[string]struct{ edited, other, want string }{
		"only edited":         {base + "# m\n", base, base + "# m\n"},
		"only other":          {base, base + "[[vms]]\nname = 'w'\n", base + "[[vms]]\nname = 'w'\n"},
		"both at the end":     {base + "cpus = 3", base + "\n[[vms]]\nname = 'w'\n", base + "cpus = 3\n\n[[vms]]\nname = 'w'\n"},
		"before and behind":   {"# m\n" + base, base + "[y]\n", "# m\n" + base + "[y]\n"},
		"behind and before":   {base + "# m\n", strings.Replace(base, "a = 1", "a = 2", 1), strings.Replace(base, "a = 1", "a = 2", 1) + "# m\n"},
		"other removes":       {strings.Replace(base, "a = 1", "a = 9", 1), "a = 1\n[x]\nb = 2\n\n", "a = 9\n[x]\nb = 2\n\n"},
		"the same line":       {strings.Replace(base, "b = 2", "b = 3", 1), strings.Replace(base, "b = 2", "b = 4", 1), ""},
		"around each other":   {"[z]\n", strings.Replace(base, "b = 2", "b = 4", 1), ""},
		"merged is not TOML":  {base + "[y]\n", "[y]\n" + base, ""},
		"edited is not TOML":  {"[[[\n" + base, base + "[y]\n", "[[[\n" + base + "[y]\n"},
		"not TOML, same line": {"[[[" + base, strings.Replace(base, "a = 1", "a = 2", 1), ""},
	} {
		got, ok := mergeEdits([]byte(base), []byte(c.edited), []byte(c.other))
		if ok != (c.want != "") || string(got) != c.want {
			t.Errorf("%s: %v %q", name, ok, got)
		}
	}
	if _, ok := mergeEdits([]byte("a = 1"), []byte("a = 1\nb=2\n"), []byte("a = 1\n[x]\n")); ok {
		t.Error("merged lines after a last line without a newline")
	}
}

// TestEditedWhileOthersWrite checks that records added while an editor is open and the user's edits
// are both kept, and that nothing is written if both changed the same lines.
func TestEditedWhileOthersWrite(t *testing.T) {
	path := write(t, "# mine\nactive_vm = \"a\"\n")
	base, err := Text(path)
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	if err := Update(ctx, path, func(c *Config) error { c.UpsertVM(c.NewVM("b", "n")); return nil }); err != nil {
		t.Fatal(err)
	}
	if err := SaveEdited(ctx, path, base, append([]byte("# edited\n"), base...)); err != nil {
		t.Fatal(err)
	}
	if s := read(t, path); !strings.HasPrefix(s, "# edited\n# mine\n") || !strings.Contains(s, "name = \"b\"") {
		t.Errorf("%q", s)
	}
	base, err = Text(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := Update(ctx, path, func(c *Config) error { c.ActiveVM = "c"; return nil }); err != nil {
		t.Fatal(err)
	}
	was := read(t, path)
	if err := SaveEdited(ctx, path, base, bytes.Replace(base, []byte(`"a"`), []byte(`"d"`), 1)); !errors.Is(err, ErrEditConflict) || read(t, path) != was {
		t.Errorf("%v: %q", err, read(t, path))
	}
	// A file that is not TOML can be replaced, also by text that is not TOML.
	if err := os.WriteFile(path, []byte("[[[\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"active_vm = 7 7\n", "# good\n"} {
		base, err := Text(path)
		if err == nil {
			err = SaveEdited(ctx, path, base, []byte(text))
		}
		if err != nil || read(t, path) != text {
			t.Errorf("%v, %q", err, read(t, path))
		}
	}
}
