package checks

import (
	"path/filepath"
	"strings"
	"testing"
)

// The directory of the templates is tried where it would be created, and a memory file system is named.
func TestTryDirectory(t *testing.T) {
	dir := t.TempDir()
	tried, fileSystem, err := tryDirectory(filepath.Join(dir, "a", "b"))
	if tried != dir || fileSystem == "" || err != nil {
		t.Errorf("%s, %s, %v", tried, fileSystem, err)
	}
	if _, fileSystem, _ := tryDirectory("/dev/shm/x"); !strings.HasSuffix(fileSystem, "fs") {
		t.Errorf("/dev/shm: %s", fileSystem)
	}
	if _, _, err := tryDirectory("/proc/x"); err == nil {
		t.Error("a file without a name in /proc")
	}
}
