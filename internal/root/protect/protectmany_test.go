package protect_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"aivm.dev/aivm/internal/root/mount"
	"aivm.dev/aivm/internal/root/mountinfo"
	"aivm.dev/aivm/internal/root/protect"
	"aivm.dev/aivm/internal/root/record"
	"aivm.dev/aivm/internal/root/rootfile"
	"aivm.dev/aivm/internal/root/roottest"
)

// A guest that fills a protected directory cannot keep other paths of the folder from
// being protected again, and no mount remains on this machine.
func TestProtectWithTooManyFiles(t *testing.T) {
	work, ok := roottest.Privately(t)
	if !ok {
		return
	}
	const most = protect.MaxCovered
	roottest.Stage(t, work, unix.MS_PRIVATE)
	roottest.Do(t, record.Export{VMKey: roottest.Key})
	d := startDaemon(t, work)
	src, o := project(t, work)
	at := filepath.Join(rootfile.ExportRoot(roottest.Key), o.Token)
	roottest.Do(t, o)
	husky := filepath.Join(src, ".husky")
	roottest.Must(t, os.Mkdir(husky, 0o755))
	for i := range most + 1 {
		roottest.Must(t, os.WriteFile(filepath.Join(husky, fmt.Sprint(i)), nil, 0o644))
	}
	o.Protect = append(o.Protect, ".husky")
	replace(t, src, "Makefile", "all:\n")
	roottest.Refuses(t, o, "more than 20000 files", "stopped in .husky")
	d.Fails("echo evil >"+at+"/Makefile", "Read-only")
	d.Fails("echo evil >"+at+"/.husky/new", "Read-only")
	if err := check(t, src, o); !errors.As(err, new(*protect.FailedError)) || !strings.Contains(err.Error(), "more than 20000 files") {
		t.Errorf("%v", err)
	}
	replace(t, src, "Makefile", "more:\n")
	roottest.Must(t, os.Rename(filepath.Join(src, "web"), filepath.Join(src, "web2")))
	roottest.Must(t, os.Rename(filepath.Join(src, "web2"), filepath.Join(src, "web")))

	// The same if the first bind fails and the daemon starts after it.
	d.End()
	roottest.Refuses(t, o, "more than 20000 files")
	d = startDaemon(t, work)
	checkProtected(d, at)
	roottest.Refuses(t, o, "more than 20000 files")
	checkProtected(d, at)
	replace(t, src, "Makefile", "host:\n")
	replace(t, src, "web/package.json", "{}\n")
}

// A path that cannot be mounted does not keep the others from being protected.
func TestProtectContinuesAfterAFailure(t *testing.T) {
	work, ok := roottest.Privately(t)
	if !ok {
		return
	}
	roottest.Stage(t, work, unix.MS_PRIVATE)
	roottest.Do(t, record.Export{VMKey: roottest.Key})
	d := startDaemon(t, work)
	src, o := project(t, work)
	at := filepath.Join(rootfile.ExportRoot(roottest.Key), o.Token)
	roottest.Do(t, o)
	long := strings.Repeat("x", 300) // no file system has such a name
	all := o
	all.Protect = append([]string{long, ".git/" + long}, o.Protect...)
	for _, rel := range o.Protect[1:] {
		replace(t, src, rel, "host\n")
	}
	roottest.Refuses(t, all, "protecting paths in the running VM", "xxx")
	for _, rel := range o.Protect[1:] {
		d.Fails("echo evil >"+at+"/"+rel, "Read-only")
		replace(t, src, rel, "host again\n") // no mount remains on this machine
	}
	if err := check(t, src, o); !errors.As(err, new(*protect.FailedError)) {
		t.Errorf("%v", err)
	}
	roottest.Do(t, o)
	roottest.Must(t, check(t, src, o))
	checkProtected(d, at)
}

// A file is mounted although it is replaced all the time.
func TestProtectWhileItIsReplaced(t *testing.T) {
	work, ok := roottest.Privately(t)
	if !ok {
		return
	}
	roottest.Stage(t, work, unix.MS_PRIVATE)
	roottest.Do(t, record.Export{VMKey: roottest.Key})
	startDaemon(t, work)
	src, o := project(t, work)
	at := filepath.Join(rootfile.ExportRoot(roottest.Key), o.Token)
	roottest.Do(t, o)
	ms, err := mountinfo.Read(mountinfo.Self)
	roottest.Must(t, err)
	all, err := mount.Copies(roottest.One(t, at), mountinfo.At(ms, rootfile.ExportRoot(roottest.Key))[0])
	roottest.Must(t, err)
	all = slices.DeleteFunc(all, func(c mount.Copy) bool { return !c.RootVirtiofsd })
	if len(all) != 1 {
		t.Fatalf("%d daemons", len(all))
	}
	var replaced atomic.Int64
	stop, stopped := make(chan bool), make(chan bool)
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			case <-time.After(time.Millisecond):
			}
			tmp := filepath.Join(src, "M")
			if os.WriteFile(tmp, nil, 0o644) == nil {
				_ = os.Rename(tmp, filepath.Join(src, "Makefile"))
			}
			replaced.Add(1)
		}
	}()
	failed := int64(0)
	// On one processor the other goroutine may not run for a while.
	for i, began := 0, time.Now(); i < 500 || replaced.Load() < 5 && time.Since(began) < 20*time.Second; i++ {
		if i >= 500 {
			time.Sleep(time.Millisecond)
		}
		if _, _, err := protect.AddMissing(all[0], o.Protect); err != nil {
			if failed++; failed == 1 {
				t.Log(err)
			}
		}
	}
	close(stop)
	<-stopped
	if n := replaced.Load(); n < 5 || failed*20 > n {
		t.Errorf("replaced %d times, %d failures", n, failed)
	}
}
