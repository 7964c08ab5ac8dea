package hostgit

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"aivm.dev/aivm/gitsync/gittest"
)

// Stores that name each other many times are read once each; git's limit of depth holds.
func TestAlternatesThatNameEachOther(t *testing.T) {
	dir := gittest.Real(t, t.TempDir())
	store := func(n string) string { return filepath.Join(dir, n) }
	for _, n := range []string{"a", "b", "c"} {
		gittest.WriteFile(t, store(n)+"/info/alternates", strings.Repeat(store("a")+"\n"+store("b")+"\n../c\n", 3000))
	}
	began := time.Now()
	if got := alternates(store("a")); !slices.Equal(got, []string{store("b"), store("c")}) {
		t.Errorf("%q", got)
	}
	if d := time.Since(began); d > 20*time.Second {
		t.Errorf("it took %v", d)
	}
	for i, n := range []string{"0", "1", "2", "3", "4", "5", "6"} {
		gittest.WriteFile(t, store(n)+"/info/alternates", store(string(rune('0'+i+1)))+"\n")
	}
	if got := alternates(store("0")); len(got) != 5 {
		t.Errorf("%q", got)
	}
}
