package image

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

// An older aivm or a user may have left the cache readable for others: the next image removes those
// permissions.
func TestOpenCacheIsClosed(t *testing.T) {
	c := Cache{Dir: filepath.Join(t.TempDir(), "images")}
	for _, step := range []error{
		os.Mkdir(c.Dir, 0o755), os.Chmod(c.Dir, 0o755),
		os.WriteFile(filepath.Join(c.Dir, "old.qcow2"), []byte("tokens"), 0o444),
		os.WriteFile(filepath.Join(c.Dir, "index.json"), []byte(`{"schema":1}`), 0o644),
	} {
		if step != nil {
			t.Fatal(step)
		}
	}
	if err := c.makeDir(); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]os.FileMode{"": 0o700, "old.qcow2": 0o400, "index.json": 0o600} {
		if st, err := os.Stat(filepath.Join(c.Dir, name)); err != nil || st.Mode().Perm() != want {
			t.Errorf("%q: %v %v, want %v", name, st.Mode(), err, want)
		}
	}
	if b, err := os.ReadFile(filepath.Join(c.Dir, "old.qcow2")); err != nil || !bytes.Equal(b, []byte("tokens")) {
		t.Errorf("%q %v", b, err)
	}
}
