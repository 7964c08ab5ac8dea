package image

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"aivm.dev/aivm/internal/ui"
)

var debian = Ref{Kind: KindPackages, Name: Debian12}

func names(t *testing.T, dir string) []string {
	t.Helper()
	es, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range es {
		if !strings.HasSuffix(e.Name(), ".lock") {
			out = append(out, e.Name())
		}
	}
	return out
}

func TestCacheAdd(t *testing.T) {
	c := Cache{Dir: filepath.Join(t.TempDir(), "a", "b")}
	if _, ok, err := c.Lookup(debian); ok || err != nil {
		t.Fatalf("found in an empty cache: %v %v", ok, err)
	}
	data := qcow2(nil)
	sum := sha256.Sum256(data)
	e, err := c.Add(context.Background(), bytes.NewReader(data), debian, "built on this machine", nil)
	if err != nil {
		t.Fatal(err)
	}
	want := Entry{
		Path: filepath.Join(c.Dir, hex.EncodeToString(sum[:])+".qcow2"), SHA256: hex.EncodeToString(sum[:]),
		Format: QCOW2, VirtualSize: 1 << 30, Size: int64(len(data)), Source: debian.String(), Verified: "built on this machine",
		Added: e.Added, Release: e.Added[:10],
	}
	if e != want {
		t.Errorf("got  %+v\nwant %+v", e, want)
	}
	st, err := os.Stat(e.Path)
	if err != nil || st.Mode().Perm() != 0o400 {
		t.Errorf("%v %v", st.Mode(), err)
	}
	if got, ok, err := c.Lookup(debian); got != want || !ok || err != nil {
		t.Errorf("%+v %v %v", got, ok, err)
	}
	// The same content from another source: one file with two names.
	if _, err := c.Add(context.Background(), bytes.NewReader(data), Ref{Kind: KindLocal, Name: "other"}, "", nil); err != nil {
		t.Fatal(err)
	}
	if got := names(t, c.Dir); !slices.Equal(got, []string{filepath.Base(e.Path), "index.json"}) {
		t.Errorf("%v", got)
	}
	if err := os.Remove(e.Path); err != nil {
		t.Fatal(err)
	}
	if _, ok, err := c.Lookup(debian); ok || err != nil {
		t.Errorf("a removed image is found: %v", err)
	}
}

func TestCacheDamaged(t *testing.T) {
	c := Cache{Dir: t.TempDir()}
	e, err := c.Add(context.Background(), bytes.NewReader(qcow2(nil)), debian, "built on this machine", nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(e.Path); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(e.Path, []byte("short"), 0o400); err != nil {
		t.Fatal(err)
	}
	if _, ok, err := c.Lookup(debian); ok || err != nil {
		t.Errorf("a truncated image is found: %v", err)
	}
	again, err := c.Add(context.Background(), bytes.NewReader(qcow2(nil)), debian, "built on this machine", nil)
	if err != nil || again != e {
		t.Errorf("%+v %v", again, err)
	}
	if _, ok, _ := c.Lookup(debian); !ok {
		t.Error("not repaired")
	}
	for _, text := range []string{"{", `{"schema":99}`} {
		if err := os.WriteFile(c.indexPath(), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		_, _, err := c.Lookup(debian)
		var ue *ui.Error
		if !errors.As(err, &ue) || !strings.Contains(strings.Join(ue.HintLines(), " "), c.indexPath()) {
			t.Errorf("index %q: %v", text, err)
		}
	}
}

func TestCacheFile(t *testing.T) {
	ctx := context.Background()
	c := Cache{Dir: t.TempDir()}
	path := filepath.Join(t.TempDir(), "disk.qcow2") // a misleading name
	disk := make([]byte, 5<<20)
	copy(disk, rawDisk())
	disk[4<<20] = 1
	if err := os.WriteFile(path, disk, 0o600); err != nil {
		t.Fatal(err)
	}
	ref := Ref{Kind: KindFile, Path: path}
	if _, ok, err := c.Lookup(ref); ok || err != nil {
		t.Fatal(ok, err)
	}
	e, err := c.AddFile(ctx, ref, nil)
	if err != nil {
		t.Fatal(err)
	}
	if e.Format != Raw || !strings.HasSuffix(e.Path, ".raw") || e.VirtualSize != 5<<20 {
		t.Errorf("%+v", e)
	}
	if b, err := os.ReadFile(e.Path); err != nil || !bytes.Equal(b, disk) {
		t.Errorf("the copy is different: %v", err)
	}
	var st unix.Stat_t
	if err := unix.Stat(e.Path, &st); err != nil || st.Blocks*512 > 3<<20 {
		t.Errorf("holes were filled: %d blocks, %v", st.Blocks, err)
	}
	if got, ok, err := c.Lookup(ref); !ok || err != nil || got != e {
		t.Errorf("%+v %v %v", got, ok, err)
	}
	wrong := ref
	wrong.SHA256 = strings.Repeat("0", 64)
	if _, _, err := c.Lookup(wrong); err == nil {
		t.Error("another digest was accepted")
	}
	if _, err := c.AddFile(ctx, wrong, nil); err == nil {
		t.Error("another digest was added")
	}

	// Changed content, with the old mtime and size.
	mtime := time.Unix(1e9, 0)
	for range 2 {
		if err := os.Chtimes(path, mtime, mtime); err != nil {
			t.Fatal(err)
		}
		if _, err := c.AddFile(ctx, ref, nil); err != nil {
			t.Fatal(err)
		}
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		_, err = f.WriteAt([]byte{7}, 3<<20)
		f.Close()
		if err := errors.Join(err, os.Chtimes(path, mtime, mtime)); err != nil {
			t.Fatal(err)
		}
		if _, ok, _ := c.Lookup(ref); ok {
			t.Error("the changed file is found as the old one")
		}
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	var ue *ui.Error
	if _, _, err := c.Lookup(ref); !errors.As(err, &ue) || ue.Exit != ui.ExitRefused {
		t.Errorf("missing file: %v", err)
	}
	if _, err := c.AddFile(ctx, Ref{Kind: KindFile, Path: c.Dir}, nil); !errors.As(err, &ue) {
		t.Errorf("a directory: %v", err)
	}
}

func TestCacheLeavesNothing(t *testing.T) {
	c := Cache{Dir: t.TempDir()}
	if err := os.WriteFile(filepath.Join(c.Dir, partPrefix+"killed"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	for name, r := range map[string]io.Reader{
		"not an image": strings.NewReader("hello"),
		"read error":   io.MultiReader(bytes.NewReader(qcow2(nil)), brokenReader{}),
		"cancelled":    cancelReader{bytes.NewReader(append(qcow2(nil), make([]byte, 4<<20)...)), cancel},
	} {
		use := context.Background()
		if name == "cancelled" {
			use = ctx
		}
		if _, err := c.Add(use, r, debian, "built on this machine", nil); err == nil {
			t.Errorf("%s: was added", name)
		}
		if got := names(t, c.Dir); len(got) != 0 {
			t.Errorf("%s: %v remains", name, got)
		}
	}
}

type brokenReader struct{}

func (brokenReader) Read([]byte) (int, error) { return 0, errors.New("read failed") }

type cancelReader struct {
	io.Reader
	cancel func()
}

func (r cancelReader) Read(b []byte) (int, error) {
	r.cancel()
	return r.Reader.Read(b)
}

// Of many processes that want the same image, one makes it.
func TestCacheClaimAtOnce(t *testing.T) {
	dir := t.TempDir()
	ctx := context.Background()
	var made, waited atomic.Int32
	progress := func(line string, _ float64) {
		if strings.Contains(line, "waiting for aivm (process ") {
			waited.Add(1)
		}
	}
	var wg sync.WaitGroup
	for range 6 {
		wg.Go(func() {
			c := Cache{Dir: filepath.Join(dir, "images")}
			e, found, release, err := c.Claim(ctx, debian, progress)
			if err != nil {
				t.Error(err)
				return
			}
			defer release()
			if !found {
				made.Add(1)
				time.Sleep(300 * time.Millisecond)
				if e, err = c.Add(ctx, bytes.NewReader(qcow2(nil)), debian, "built on this machine", nil); err != nil {
					t.Error(err)
				}
			}
			if e.Format != QCOW2 {
				t.Errorf("%+v", e)
			}
		})
	}
	wg.Wait()
	if made.Load() != 1 || waited.Load() == 0 {
		t.Errorf("made %d times, %d reported waiting", made.Load(), waited.Load())
	}
}

func TestCacheClaimStopsWaiting(t *testing.T) {
	c := Cache{Dir: t.TempDir()}
	_, _, release, err := c.Claim(context.Background(), debian, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if _, _, _, err := c.Claim(ctx, debian, nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}
