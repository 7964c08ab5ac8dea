package hostexec

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

// FuzzList checks that files of any names survive encoding and decoding, and that two scans of the
// same folder find no change.
func FuzzList(f *testing.F) {
	f.Add("Makefile", ".git/hooks/pre-commit", []byte(`{"path":"\"a\\xff\"","kind":"silent"}`))
	f.Add("\xff\xfe.envrc", "\"quoted\"", []byte(`{"path":"\"unfinished"}`))
	f.Add("a\nb", ".vscode/tasks.json", []byte("{}"))
	f.Fuzz(func(t *testing.T, a, b string, text []byte) {
		for _, name := range []string{a, b} {
			in := File{Path: name, Kind: Silent, Type: "file", Sum: "x"}
			out, err := json.Marshal(in)
			if err != nil {
				t.Fatal(err)
			}
			var back File
			if err := json.Unmarshal(out, &back); err != nil || !reflect.DeepEqual(in, back) {
				t.Errorf("%+v, as %s, became %+v: %v", in, out, back, err)
			}
		}
		var file File
		_ = json.Unmarshal(text, &file)

		dir := t.TempDir()
		for i, name := range []string{a, b} {
			p := filepath.Join(dir, name)
			if name == "" || strings.ContainsRune(name, 0) || len(name) > 200 || !strings.HasPrefix(p, dir+"/") {
				continue
			}
			if os.MkdirAll(filepath.Dir(p), 0o700) == nil {
				_ = os.WriteFile(p, text[:len(text)/(i+1)], 0o600) // fails if it is the other file's directory
			}
		}
		then, err := Scan(context.Background(), dir)
		if err != nil {
			t.Fatal(err)
		}
		now, err := Scan(context.Background(), dir)
		if err != nil {
			t.Fatal(err)
		}
		if c := Diff(then, now); len(c) > 0 {
			t.Errorf("nothing was changed: %+v", c)
		}
		for _, k := range then.Files {
			if p := filepath.Join(dir, k.Path); !strings.HasPrefix(p, dir+"/") {
				t.Errorf("%q is outside of the folder", k.Path)
			}
		}
	})
}
