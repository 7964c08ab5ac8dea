package settingsync

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// TestACutArchiveChangesNothing: an archive cut at any byte changes nothing in the guest.
func TestACutArchiveChangesNothing(t *testing.T) {
	m := newMachine(t)
	m.write(m.host, ".bashrc", "the host's\n", 0o644)
	m.write(m.host, ".config/x/deep/f", "f\n", 0o600)
	m.write(m.guest, ".bashrc", "the guest's\n", 0o644)
	m.opts.Paths = []string{"~/.bashrc", "~/.config/x"}
	_, r := m.probe()
	archive, err := r.Archive(nil)
	if err != nil {
		t.Fatal(err)
	}
	m.write(m.guest, stateDir+"/in.killed/0/f", "of a run that was killed", 0o600)
	for cut := 0; cut < len(archive)-1; cut += 1 + len(archive)/40 {
		if _, code := m.receive(archive[:cut]); code != 1 {
			t.Errorf("cut at %d of %d: status %d", cut, len(archive), code)
		}
		var there []string
		err := filepath.WalkDir(m.guest, func(p string, d fs.DirEntry, err error) error {
			if err == nil && !d.IsDir() {
				there = append(there, strings.TrimPrefix(p, m.guest+"/"))
			}
			return err
		})
		want := []string{".bashrc", stateDir + "/lock"}
		if cut == 0 {
			// A receiver that was started but got no data changed nothing.
			want[1] = stateDir + "/in.killed/0/f"
		}
		if err != nil || !slices.Equal(there, want) || m.read(".bashrc") != "the guest's\n" {
			t.Fatalf("cut at %d: %q, %v", cut, there, err)
		}
	}
	if out, code := m.receive(archive); code != 0 || out != "" || m.read(".bashrc") != "the host's\n" || m.read(".config/x/deep/f") != "f\n" {
		t.Errorf("%d %q", code, out)
	}
}

// TestAnotherFileSystem: rename fails across file systems, so the file is copied.
func TestAnotherFileSystem(t *testing.T) {
	m := newMachine(t)
	other, err := os.MkdirTemp("/dev/shm", "aivm-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(other) })
	m.write(m.host, "f", "there\n", 0o640)
	m.opts.Paths = []string{"~/f=" + other + "/f"}
	m.sync()
	b, err := os.ReadFile(filepath.Join(other, "f"))
	if st, serr := os.Stat(filepath.Join(other, "f")); err != nil || serr != nil || string(b) != "there\n" || st.Mode() != 0o640 {
		t.Errorf("%q %v %v", b, err, st)
	}
}

// TestAPipeInThePlaceOfAFile: a pipe must not be read, since that could block indefinitely.
func TestAPipeInThePlaceOfAFile(t *testing.T) {
	m := newMachine(t)
	m.write(m.host, "f", "new\n", 0o644)
	m.write(m.guest, "f", "seen\n", 0o644)
	m.opts.Paths = []string{"~/f"}
	_, r := m.probe()
	at := filepath.Join(m.guest, "f")
	if err := errors.Join(os.Remove(at), syscall.Mkfifo(at, 0o600)); err != nil {
		t.Fatal(err)
	}
	if _, code := m.apply(r); code != StatusChanged {
		t.Errorf("status %d", code)
	}
}

// TestNamesAsTheyAre: no character in a name has a special meaning.
func TestNamesAsTheyAre(t *testing.T) {
	m := newMachine(t)
	names := []string{"two words", "-n", "*", `back\slash`, "$HOME", "'q'", `"`, " lead", "trail ", "|x", ">y", "é"}
	for _, n := range names {
		m.write(m.host, "d/"+n, n, 0o600)
	}
	m.opts.Paths = []string{"~/d"}
	m.sync()
	for _, n := range names {
		if got := m.read("d/" + n); got != n {
			t.Errorf("%q: %q", n, got)
		}
	}
	for _, n := range names {
		m.write(m.host, "d/"+n, "2 "+n, 0o600)
		m.write(m.guest, "d/"+n, "the guest's "+n, 0o600)
	}
	r := m.sync()
	if len(r.Report.Backups) != len(names) {
		t.Errorf("%q", r.Report.Backups)
	}
	for _, n := range names {
		kept := m.read("d/" + n + ".aivm-" + r.stamp)
		if got := m.read("d/" + n); got != "2 "+n || kept != "the guest's "+n {
			t.Errorf("%q: %q, %q kept", n, got, kept)
		}
	}
}

// stepsOf splits an archive into its steps with their fields.
func stepsOf(t *testing.T, b []byte) [][]string {
	t.Helper()
	var out [][]string
	for len(b) > 0 {
		head, rest, ok := bytes.Cut(b, []byte("\n"))
		words := strings.Fields(string(head))
		if !ok || len(words) == 0 {
			t.Fatalf("no step: %q", head)
		}
		step := words[:1:1]
		for _, w := range words[1:] {
			n, err := strconv.Atoi(w)
			if err != nil || n > len(rest) {
				t.Fatalf("no size: %q", head)
			}
			step = append(step, string(rest[:n]))
			rest = rest[n:]
		}
		out = append(out, step)
		b = rest
	}
	return out
}

// TestRecordsCarryAnything: fields may contain any bytes, since their sizes are given.
func TestRecordsCarryAnything(t *testing.T) {
	var r records
	r.step("file", "", "a b\n", "\x00end\n")
	if got := r.Bytes(); !bytes.Equal(got, []byte("file 0 4 5\na b\n\x00end\n")) {
		t.Errorf("%q", got)
	}
}

// TestStatesAsFindSaysThem: the recorded state of a file is compared with find's output in the next
// probe, so both must be the same text, also where the system call number of statx is unknown or
// belongs to another call.
func TestStatesAsFindSaysThem(t *testing.T) {
	names := []string{"a file", "deep/.f", "\xff"}
	for _, number := range []string{"", "0", "39"} { // 39: getpid, on amd64
		m := newMachine(t)
		for _, n := range names {
			m.write(m.host, n, n, 0o640)
			m.opts.Paths = append(m.opts.Paths, "~/"+n)
		}
		_, r := m.probe()
		archive, err := r.Archive(nil)
		if err != nil {
			t.Fatal(err)
		}
		argv := Command()
		if number != "" {
			argv[len(argv)-1] = number
		}
		if number == "" && (runtime.GOARCH == "amd64" || runtime.GOARCH == "arm64") {
			perl, err := exec.LookPath(argv[0])
			if err != nil {
				t.Fatal(err)
			}
			// Without find as the fallback.
			argv = append([]string{"/usr/bin/env", "PATH=/nonexistent", perl}, argv[1:]...)
		}
		if _, code := m.run(argv, archive); code != 0 {
			t.Fatalf("status %d", code)
		}
		_, states, _ := strings.Cut(m.read(stateFile), "\x00")
		want, _ := m.run([]string{"sh", "-c", `cd && exec find "$@" -printf 'S` + statFormat + ` %p\0'`, "sh", "./a file", "./deep/.f", "./\xff"}, nil)
		got := strings.Split(states, "\x00")
		slices.Sort(got)
		exp := strings.Split(want, "\x00")
		slices.Sort(exp)
		if !slices.Equal(got, exp) || len(got) != len(names)+1 {
			t.Errorf("number %q: %q, find prints %q", number, got, exp)
		}
	}
}
