package root

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestProtectMoreThanIsCounted: a guest that fills a protected directory keeps
// nothing else of the folder from being protected again, and no mount stays here
// in the person's way.
func TestProtectMoreThanIsCounted(t *testing.T) {
	work, ok := privately(t)
	if !ok {
		return
	}
	maxCovered = 300 // in this process alone
	stage(t, work, unix.MS_PRIVATE)
	do(t, Export{VMKey: testKey})
	d := daemonFor(t, work)
	src, o := project(t, work)
	at := filepath.Join(ExportRoot(testKey), o.Token)
	do(t, o)
	husky := filepath.Join(src, ".husky")
	must(t, os.Mkdir(husky, 0o755))
	for i := range maxCovered + 1 {
		must(t, os.WriteFile(filepath.Join(husky, fmt.Sprint(i)), nil, 0o644))
	}
	o.Protect = append(o.Protect, ".husky")
	replace(t, src, "Makefile", "all:\n")
	refuses(t, o, "more than 300 files")
	d.fails("echo evil >"+at+"/Makefile", "Read-only")
	d.fails("echo evil >"+at+"/.husky/new", "Read-only")
	if err := stands(t, src, o); !errors.As(err, new(*FailedError)) || !strings.Contains(err.Error(), "more than 300 files") {
		t.Errorf("%v", err)
	}
	replace(t, src, "Makefile", "more:\n")
	must(t, os.Rename(filepath.Join(src, "web"), filepath.Join(src, "web2")))
	must(t, os.Rename(filepath.Join(src, "web2"), filepath.Join(src, "web")))

	// The same where it is the first time, and the daemon starts after it.
	d.end()
	refuses(t, o, "more than 300 files")
	d = daemonFor(t, work)
	holdsInGuest(d, at)
	refuses(t, o, "more than 300 files")
	holdsInGuest(d, at)
	replace(t, src, "Makefile", "mine:\n")
	replace(t, src, "web/package.json", "{}\n")
}
