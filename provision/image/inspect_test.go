package image

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"aivm.dev/aivm/internal/ui"
)

// qcow2 returns a small valid image after change has modified it.
func qcow2(change func([]byte)) []byte {
	b := make([]byte, 4096)
	be := binary.BigEndian
	copy(b, qcowMagic)
	be.PutUint32(b[4:], 3)
	be.PutUint32(b[qcowClusterBits:], 16)
	be.PutUint64(b[qcowSizeAt:], 1<<30)
	be.PutUint32(b[qcowL1SizeAt:], 2)
	be.PutUint64(b[qcowL1OffsetAt:], 512)
	be.PutUint32(b[qcowLengthAt:], 104)
	if change != nil {
		change(b)
	}
	return b
}

func rawDisk() []byte {
	b := make([]byte, 1000)
	b[510], b[511] = 0x55, 0xaa
	return b
}

func TestInspect(t *testing.T) {
	be := binary.BigEndian
	iso := append(make([]byte, 32769), "CD001"...)
	iso[510], iso[511] = 0x55, 0xaa // a hybrid ISO, as for USB sticks
	for _, tt := range []struct {
		name    string
		data    []byte
		format  string
		virtual int64
		says    string
	}{
		{"qcow2", qcow2(nil), QCOW2, 1 << 30, ""},
		{"version 2", qcow2(func(b []byte) { be.PutUint32(b[4:], 2); be.PutUint32(b[qcowLengthAt:], 0) }), QCOW2, 1 << 30, ""},
		{"compressed with zstd", qcow2(func(b []byte) { be.PutUint64(b[qcowFeaturesAt:], featCompression) }), QCOW2, 1 << 30, ""},
		{"raw", rawDisk(), Raw, 1024, ""},

		{"overlay", qcow2(func(b []byte) { be.PutUint64(b[qcowBackingAt:], 600) }), "", 0, "overlay"},
		{"overlay of version 2", qcow2(func(b []byte) { be.PutUint32(b[4:], 2); be.PutUint64(b[qcowBackingAt:], 600) }), "", 0, "overlay"},
		{"data elsewhere", qcow2(func(b []byte) { be.PutUint64(b[qcowFeaturesAt:], featDataFile) }), "", 0, "another file"},
		{"AES", qcow2(func(b []byte) { be.PutUint32(b[qcowCryptAt:], 1) }), "", 0, "encrypted"},
		{"LUKS", qcow2(func(b []byte) { be.PutUint32(b[qcowCryptAt:], 2) }), "", 0, "encrypted"},
		{"corrupt", qcow2(func(b []byte) { be.PutUint64(b[qcowFeaturesAt:], featCorrupt) }), "", 0, "corrupt"},
		{"dirty", qcow2(func(b []byte) { be.PutUint64(b[qcowFeaturesAt:], featDirty) }), "", 0, "in use"},
		{"from the future", qcow2(func(b []byte) { be.PutUint64(b[qcowFeaturesAt:], 1<<40) }), "", 0, "features"},
		{"version 4", qcow2(func(b []byte) { be.PutUint32(b[4:], 4) }), "", 0, "version 4"},
		{"no size", qcow2(func(b []byte) { be.PutUint64(b[qcowSizeAt:], 0) }), "", 0, "damaged"},
		{"absurd size", qcow2(func(b []byte) { be.PutUint64(b[qcowSizeAt:], 1<<63) }), "", 0, "damaged"},
		{"absurd clusters", qcow2(func(b []byte) { be.PutUint32(b[qcowClusterBits:], 40) }), "", 0, "damaged"},
		{"half a download", qcow2(func(b []byte) { be.PutUint64(b[qcowL1OffsetAt:], 1<<20) }), "", 0, "truncated"},
		{"overflowing table", qcow2(func(b []byte) { be.PutUint64(b[qcowL1OffsetAt:], ^uint64(0)-3) }), "", 0, "truncated"},
		{"a few bytes of it", qcow2(nil)[:50], "", 0, "header"},
		{"version 3 cut short", qcow2(nil)[:90], "", 0, "header"},
		{"empty", nil, "", 0, "neither"},
		{"a text", []byte(strings.Repeat("hello ", 200)), "", 0, "neither"},
		{"a partition, not a disk", make([]byte, 4096), "", 0, "neither"},
		{"VMDK", []byte("KDMV...."), "", 0, "VMDK"},
		{"gzip", []byte("\x1f\x8b\x08rest"), "", 0, "gzip"},
		{"xz", []byte("\xfd7zXZ\x00rest"), "", 0, "xz"},
		{"installer", iso, "", 0, "CD image"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			format, virtual, err := Inspect(bytes.NewReader(tt.data), int64(len(tt.data)))
			if tt.says == "" {
				if err != nil || format != tt.format || virtual != tt.virtual {
					t.Errorf("%s %d %v", format, virtual, err)
				}
				return
			}
			var e *ui.Error
			if !errors.As(err, &e) || e.Exit != ui.ExitRefused || !strings.Contains(e.Message, tt.says) {
				t.Errorf("got %v, want %q", err, tt.says)
			}
		})
	}
}

// Inspect agrees with what qemu-img writes.
func TestInspectAgainstQemuImg(t *testing.T) {
	qemu, err := exec.LookPath("qemu-img")
	if err != nil {
		t.Fatal("qemu-img is not installed; make test installs it")
	}
	dir := t.TempDir()
	run := func(args ...string) {
		t.Helper()
		for try := 1; ; try++ {
			c := exec.Command(qemu, args...)
			c.Dir = dir
			out, err := c.CombinedOutput()
			if err == nil {
				return
			}
			// LUKS measures its key derivation by the thread's CPU clock, and QEMU gives up if that
			// clock did not advance (crypto/pbkdf.c).
			if try == 20 || !bytes.Contains(out, []byte("accurate CPU usage")) {
				t.Fatalf("qemu-img %v: %v: %s", args, err, out)
			}
		}
	}
	run("create", "-q", "-f", "qcow2", "v3", "3G")
	run("create", "-q", "-f", "qcow2", "-o", "compat=0.10", "v2", "3G")
	run("create", "-q", "-f", "qcow2", "-o", "extended_l2=on,cluster_size=128k", "l2", "3G")
	run("convert", "-c", "-O", "qcow2", "-o", "compression_type=zstd", "v3", "zstd")
	run("create", "-q", "-f", "qcow2", "-b", "v3", "-F", "qcow2", "overlay", "3G")
	run("create", "-q", "-f", "qcow2", "-o", "data_file=elsewhere,data_file_raw=on", "data", "3G")
	run("create", "-q", "-f", "qcow2", "--object", "secret,id=s,data=abc", "-o", "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10", "luks", "3G")
	for name, ok := range map[string]bool{"v3": true, "v2": true, "l2": true, "zstd": true, "overlay": false, "data": false, "luks": false} {
		f, err := os.Open(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		st, err := f.Stat()
		if err != nil {
			t.Fatal(err)
		}
		format, virtual, err := Inspect(f, st.Size())
		f.Close()
		if ok && (err != nil || format != QCOW2 || virtual != 3<<30) || !ok && err == nil {
			t.Errorf("%s: %s %d %v", name, format, virtual, err)
		}
	}
}

func FuzzInspect(f *testing.F) {
	f.Add(qcow2(nil))
	f.Add(rawDisk())
	f.Add(qcow2(nil)[:80])
	f.Add([]byte("KDMV"))
	f.Fuzz(func(t *testing.T, b []byte) {
		format, virtual, err := Inspect(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			return
		}
		if virtual <= 0 || virtual > maxVirtual {
			t.Errorf("%d bytes accepted", virtual)
		}
		isQcow := bytes.HasPrefix(b, []byte(qcowMagic))
		if (format == QCOW2) != isQcow {
			t.Errorf("%q for %q", format, b[:4])
		}
		if isQcow && (binary.BigEndian.Uint64(b[qcowBackingAt:]) != 0 || binary.BigEndian.Uint32(b[qcowCryptAt:]) != 0) {
			t.Error("accepted an image that refers to another file or is encrypted")
		}
	})
}
