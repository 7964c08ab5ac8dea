package snapshots

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"aivm.dev/aivm/provision/image"
)

// qemu-img converts three layers to one file, and does not follow the backing files that their
// headers name.
func TestConvert(t *testing.T) {
	dir := t.TempDir()
	at := func(n string) string { return filepath.Join(dir, n) }
	run := func(argv ...string) {
		t.Helper()
		if out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", argv, err, out)
		}
	}
	run("qemu-img", "create", "-q", "-f", "raw", at("base"), "1M")
	f, err := os.OpenFile(at("base"), os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	mark := func(b []byte, off int64) {
		if _, err := f.WriteAt(b, off); err != nil {
			t.Fatal(err)
		}
	}
	mark([]byte("BASE"), 4096)
	mark([]byte{0x55, 0xaa}, 510)
	f.Close()
	run("qemu-img", "create", "-q", "-f", "qcow2", "-b", at("base"), "-F", "raw", at("disk"), "2M")
	run("qemu-io", "-c", "write -P 0x41 65536 512", at("disk"))
	run("qemu-img", "create", "-q", "-f", "qcow2", "-b", at("disk"), "-F", "qcow2", at("copy"))
	run("qemu-io", "-c", "write -P 0x42 131072 512", at("copy"))
	// The files named in the headers no longer exist, as after a download.
	for _, n := range []string{"base", "disk", "copy"} {
		if err := os.Rename(at(n), at(n+".got")); err != nil {
			t.Fatal(err)
		}
	}
	argv, err := convertArgv([]layer{{at("copy.got"), "qcow2"}, {at("disk.got"), "qcow2"}, {at("base.got"), "raw"}}, at("out"))
	if err != nil {
		t.Fatal(err)
	}
	var reported []float64
	fl := diskExporter{report: func(_ string, f float64) { reported = append(reported, f) }}
	if err := fl.convert(context.Background(), argv); err != nil {
		t.Fatal(err)
	}
	if len(reported) == 0 {
		t.Error("no progress")
	}
	run("qemu-img", "convert", "-O", "raw", at("out"), at("flat"))
	b, err := os.ReadFile(at("flat"))
	if err != nil || len(b) != 2<<20 || string(b[4096:4100]) != "BASE" || b[65536] != 'A' || b[131072] != 'B' {
		t.Errorf("%v, %d bytes", err, len(b))
	}
	out, err := os.Open(at("out"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	st, _ := out.Stat()
	if format, size, err := image.Inspect(out, st.Size()); err != nil || format != image.QCOW2 || size != 2<<20 {
		t.Errorf("%s %d %v", format, size, err)
	}
	if _, err := convertArgv([]layer{{"a", "raw"}, {"b", "qcow2"}}, "c"); err == nil {
		t.Error("a raw file with a backing file was accepted")
	}
	bad, _ := convertArgv([]layer{{at("none"), "qcow2"}}, at("out2"))
	if err := fl.convert(context.Background(), bad); err == nil || !strings.Contains(err.Error(), "qemu-img") {
		t.Error(err)
	}
	var p bytes.Buffer
	w := &countingWriter{w: &p, ctx: context.Background(), report: func(string, float64) {}}
	if _, err := w.Write([]byte("abc")); err != nil || w.done != 3 || p.String() != "abc" {
		t.Error(err, w.done)
	}
}
