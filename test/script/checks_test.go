package script

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
)

// A check that finds nothing may be a check that does not work. So these tests give each check what it
// must find.

func TestRealCommandCatches(t *testing.T) {
	for line, ok := range map[string]bool{
		"aivm code .":                          true,
		"aivm vm create work --cpus 4":         true,
		"aivm vm delete NAME --yes":            true,
		"aivm ssh . --yes -- make --unknown":   true,
		"aivm help vm create":                  true,
		"aivm list --config 'a b' -v":          true,
		"aivm fly":                             false,
		"aivm vm fly":                          false,
		"aivm help fly":                        false,
		"aivm code . --dry-runs":               false,
		"aivm vm up --cpus 4":                  false,
		"aivm config fly --defaults":           false,
		"aivm host image-fetch --guest-dst /x": false,
	} {
		if c := realCommand(line); (c == "") != ok {
			t.Errorf("%s: %q", line, c)
		}
	}
}

func TestCompareShapeCatches(t *testing.T) {
	var want any
	if err := json.Unmarshal([]byte(shapes["list"]), &want); err != nil {
		t.Fatal(err)
	}
	for text, bad := range map[string]int{
		`{"schema":1,"store":"/s","active_vm":"","vms":[],"networks":[],"folders":[],"templates":[],"runs":[]}`:                                                                                                    0,
		`{"schema":2,"store":"/s","active_vm":"","vms":[],"networks":[],"folders":[],"templates":[],"runs":[]}`:                                                                                                    1,
		`{"schema":1,"store":"/s","vms":[],"networks":[],"folders":[],"templates":[],"runs":[]}`:                                                                                                                   1,
		`{"schema":1,"store":7,"active_vm":null,"vms":[],"networks":[],"folders":[],"templates":[],"runs":[]}`:                                                                                                     2,
		`{"schema":1,"store":"/s","active_vm":"","vms":null,"networks":{},"folders":[],"templates":[],"runs":[]}`:                                                                                                  2,
		`{"schema":1,"store":"/s","active_vm":"","vms":[],"networks":[],"folders":[],"more":1,"templates":[],"runs":[]}`:                                                                                           1,
		`{"schema":1,"store":"/s","active_vm":"","vms":[],"networks":[],"folders":[{"host_path":"/p","vm":"a","mode":"tunnel","access":"rw","guest_dst":"/p","state":"ok"}],"templates":[],"runs":[]}`:             1,
		`{"schema":1,"store":"/s","active_vm":"","vms":[],"networks":[{"name":"n","bridge":"b","subnet":"s","firewall":"yes","vms":"1"}],"folders":[],"templates":[],"runs":[]}`:                                   2,
		`{"schema":1,"store":"/s","active_vm":"","vms":[{"name":"a","state":"running","alias":"a","address":"","network":"n","cpus":1,"ram_mb":1}],"networks":[],"folders":[],"extra":0,"templates":[],"runs":[]}`: 3,
	} {
		var got any
		if err := json.Unmarshal([]byte(text), &got); err != nil {
			t.Fatal(err)
		}
		if out := compareShape("", want, got); len(out) != bad {
			t.Errorf("%s:\n%d errors, want %d: %v", text, len(out), bad, out)
		}
	}
}

func TestTreeCatches(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "f")
	state := func() string {
		s, err := tree([]string{dir})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	seen := map[string]bool{state(): true}
	for _, change := range []func() error{
		func() error { return os.WriteFile(file, []byte("a"), 0o600) },
		func() error { return os.WriteFile(file, []byte("b"), 0o600) },
		func() error { return os.Chmod(file, 0o640) },
		func() error { return os.Chown(file, 12, 34) },
		func() error { return os.Symlink("f", filepath.Join(dir, "l")) },
		func() error { return os.Rename(file, filepath.Join(dir, "g")) },
		func() error { return os.Chmod(dir, 0o701) },
		func() error { return os.Mkdir(file, 0o700) },
	} {
		if err := change(); err != nil {
			t.Fatal(err)
		}
		if now := state(); seen[now] {
			t.Errorf("tree does not show a change:\n%s", now)
		} else {
			seen[now] = true
		}
	}
}
