package projectfile

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

var options = Options{Trusted: "/home/u/.config/aivm/config.toml", MaxMemoryMB: 4096, MaxCPUs: 4}

func read(t *testing.T, text string) Wants {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, Name), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	w := Read(dir, options)
	for i := range w.Files {
		w.Files[i] = filepath.Base(w.Files[i])
	}
	for i := range w.Ignored {
		w.Ignored[i].File = filepath.Base(w.Ignored[i].File)
	}
	return w
}

func TestRead(t *testing.T) {
	if w := Read(t.TempDir(), options); !cmp.Equal(w, Wants{}) {
		t.Errorf("no file: %+v", w)
	}
	for _, text := range []string{
		"memory_mb = 2048\ncpus = 2\npackages = ['make', 'gcc', 'make']\n",
		"\ufeff[run]\r\nmemory_mb = 2048\r\ncpus = 2\r\npackages = ['make', 'gcc']\r\n",
		"run = { memory_mb = 2048, cpus = 2, packages = ['make', 'gcc'] }",
	} {
		want := Wants{MemoryMB: 2048, CPUs: 2, Packages: []string{"gcc", "make"}, Files: []string{Name}}
		if d := cmp.Diff(want, read(t, text)); d != "" {
			t.Errorf("%q: %s", text, d)
		}
	}
}

// TestOnlyThreeKeys checks that every key that would make more reachable, and every value out of its
// limits, has no effect and one remark.
func TestOnlyThreeKeys(t *testing.T) {
	for text, want := range map[string]string{
		"[run]\nworkspace = 'rw'":             ".aivm.toml:2: run.workspace is ignored: a project can only set memory_mb, cpus and packages; the key run.workspace of /home/u/.config/aivm/config.toml has this effect",
		"template = 'x'":                      "the key run.template of /home/u/.config/aivm/config.toml has this effect",
		"[templates.default]\nscript = 'x'":   "the key templates.default.script of /home/u/.config/aivm/config.toml has this effect",
		"[defaults.firewall]\nenabled=false":  "the key defaults.firewall.enabled of",
		"[egress]\nallow = ['*']":             "egress.allow is ignored: a project can only set memory_mb, cpus and packages; /home/u/.config/aivm/config.toml has no such key either",
		"[[vms]]\nname = 'x'":                 "vms is ignored",
		"memory_mb = 4097":                    "4097 is more than a project can ask for here (4096); memory_mb in [run] of",
		"memory_mb = -1":                      "-1 is less than 128",
		"memory_mb = 9223372036854775807":     "is more than",
		"memory_mb = '2048'":                  "it is not an integer",
		"cpus = 5":                            "5 is more than",
		"cpus = 1.5":                          "it is not an integer",
		"packages = 'make'":                   "it is not a list",
		"packages = ['make', 1]":              "1 is not a package name",
		"packages = ['make', '-oDebug::x=y']": `"-oDebug::x=y" is not a package name`,
		"packages = ['make; id']":             "is not a package name",
		"packages = ['./x.deb']":              "is not a package name",
		"packages = [{a=1}]":                  "it is not a list",
		"x = \"\\u001b[2J\"":                  "x is ignored",
		"\"\\u001b[2J\" = 1":                  `"\u001b[2J" is ignored`,
		"memory_mb = ":                        ".aivm.toml:1 is ignored: ",
		"\x00":                                "a NUL byte is not allowed",
		strings.Repeat("[", 60000):            ".aivm.toml:1 is ignored",
		"a = " + strings.Repeat("[", 60000):   ".aivm.toml:1 is ignored",
		strings.Repeat("#", maxSize+1):        ".aivm.toml is ignored: it is larger than 64 KiB",
	} {
		w := read(t, text)
		if w.MemoryMB != 0 || w.CPUs != 0 || w.Packages != nil || len(w.Ignored) != 1 {
			t.Errorf("%.60q: %+v", text, w)
			continue
		}
		if got := w.Ignored[0].String(); !strings.Contains(got, want) || strings.ContainsAny(got, "\n\x1b") {
			t.Errorf("%.60q: %s", text, got)
		}
	}
	var many strings.Builder
	for i := range 500 {
		fmt.Fprintf(&many, "k%d = 1\n", i)
	}
	if r := read(t, many.String()).Remarks(); len(r) != maxShown+1 || r[maxShown] != "492 more keys are ignored" {
		t.Errorf("%q", r)
	}
	many.Reset()
	many.WriteString("packages = [")
	for i := range 101 {
		fmt.Fprintf(&many, "'k%d',", i)
	}
	if w := read(t, many.String()+"]"); w.Packages != nil || !strings.Contains(w.Ignored[0].Why, "101 packages") {
		t.Errorf("%+v", w)
	}
}

// TestHostileFiles puts something else in the place of the file.
func TestHostileFiles(t *testing.T) {
	canary := filepath.Join(t.TempDir(), "canary")
	if err := os.WriteFile(canary, []byte("memory_mb = 1024\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for name, put := range map[string]func(path string) error{
		"a link out of the folder": func(p string) error { return os.Symlink(canary, p) },
		"a link in the folder":     func(p string) error { return os.Symlink("x", p) },
		"a FIFO":                   func(p string) error { return unix.Mkfifo(p, 0o666) },
		"a directory":              func(p string) error { return os.Mkdir(p, 0o755) },
		"a socket":                 func(p string) error { return unix.Mknod(p, unix.S_IFSOCK|0o666, 0) },
	} {
		dir := t.TempDir()
		if err := put(filepath.Join(dir, Name)); err != nil {
			t.Fatal(err)
		}
		done := make(chan Wants, 1)
		go func() { done <- Read(dir, options) }()
		select {
		case w := <-done:
			if w.MemoryMB != 0 || len(w.Ignored) != 1 || len(w.Files) != 0 {
				t.Errorf("%s: %+v", name, w)
			}
		case <-time.After(20 * time.Second):
			t.Fatalf("%s blocks", name)
		}
	}
	if uid, ok := Owner(filepath.Dir(canary), "canary"); !ok || uid != os.Geteuid() {
		t.Errorf("the owner: %d", uid)
	}
	if _, ok := Owner(filepath.Dir(canary), "none"); ok {
		t.Error("the owner of nothing")
	}
}

func TestOr(t *testing.T) {
	a := Wants{MemoryMB: 1, Files: []string{"a"}, Ignored: []Ignored{{Key: "a"}}}
	b := Wants{MemoryMB: 2, CPUs: 2, Packages: []string{"x"}, Files: []string{"b"}}
	if d := cmp.Diff(Wants{MemoryMB: 1, CPUs: 2, Packages: []string{"x"}, Files: []string{"a", "b"}, Ignored: []Ignored{{Key: "a"}}}, a.Or(b)); d != "" {
		t.Error(d)
	}
}

func FuzzRead(f *testing.F) {
	f.Add([]byte("memory_mb = 2048\ncpus = 2\npackages = ['make']\n[x]\ny = {z = [1]}"))
	f.Fuzz(func(t *testing.T, text []byte) {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, Name), text, 0o644); err != nil {
			t.Skip()
		}
		w := Read(dir, options)
		if w.MemoryMB > 4096 || w.CPUs > 4 || w.MemoryMB < 0 || w.CPUs < 0 || len(w.Packages) > maxPackages {
			t.Errorf("%+v", w)
		}
		for _, r := range w.Remarks() {
			if strings.ContainsAny(r, "\n\x1b") {
				t.Errorf("%q", r)
			}
		}
	})
}
