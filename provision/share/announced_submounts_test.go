package share

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"aivm.dev/aivm/internal/root/mountinfo"
)

// announcedP are replacements that turn the probe's output from a guest with QEMU's own
// virtiofsd into that from a guest whose virtiofsd announces the tokens.
var announcedP = []string{
	"41 27 0:31 /" + tokP + ` /srv/my\040p rw - virtiofs aivm-root rw`,
	"41 40 0:47 / /run/aivm/share/" + tokP + " rw - virtiofs none rw\n" + `42 27 0:47 / /srv/my\040p rw - virtiofs none rw`,
}

func TestAnnouncedMountsAreTheirTokens(t *testing.T) {
	if err := Verify(guestP(t, announcedP...), hostP(), attP); err != nil {
		t.Fatal(err)
	}
	if script, steps, err := PlanGuest(guestP(t, announcedP...), hostP(), []Attachment{attP}); err != nil || script != "" || len(steps) != 0 {
		t.Errorf("warm, but planned %v %v", steps, err)
	}
	// Only the file system of this token is accepted.
	for want, edit := range map[string][]string{
		`device "none"`:  {"41 40 0:47", "41 40 0:48"},
		`shows "/other"`: {"share/" + tokP, "share/other"},
		`shows "/` + tokP + `/sub"`: {
			`0:47 / /srv`, `0:47 /sub /srv`,
		},
	} {
		if err := Verify(guestP(t, announcedP[0], strings.NewReplacer(edit...).Replace(announcedP[1])), hostP(), attP); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v", want, err)
		}
	}
	// A directory announced inside a folder is not a token.
	deep := guestP(t, announcedP[0], strings.Replace(announcedP[1], "share/"+tokP, "share/"+tokP+"/.git", 1))
	if err := Verify(deep, hostP(), attP); err == nil {
		t.Error("a mount in a folder counted as a token")
	}
}

// announce makes a token its own file system, as the guest's kernel does for an announced
// one.
func (g *guest) announce(a *Attachment, fill func(dir string)) {
	g.t.Helper()
	dir := filepath.Join(ExportMount, Token(a.HostPath))
	must(g.t, unix.Mount("none", dir, "tmpfs", 0, "mode=755,uid=1000,gid=1000"))
	fill(dir)
	var st unix.Stat_t
	must(g.t, unix.Stat(dir, &st))
	g.host.Folders[a.HostPath] = Folder{Ino: st.Ino}
}

func TestGuestScriptsWithAnnouncedMounts(t *testing.T) {
	work, ok := privately(t)
	if !ok {
		return
	}
	g := newGuest(t)
	a := g.token("/h/a", filepath.Join(work, "a"))
	g.announce(&a, func(dir string) { must(t, os.WriteFile(filepath.Join(dir, "f"), nil, 0o644)) })
	g.mounts(1, a)
	if _, err := os.Stat(filepath.Join(a.GuestDst, "f")); err != nil {
		t.Error(err)
	}
	// Releasing unmounts both mounts; else the host could not unmount its own.
	if exit, err := g.release(a); exit != 0 || err != nil {
		t.Fatalf("%d %v", exit, err)
	}
	table, err := mountinfo.Read("/proc/self/mountinfo")
	must(t, err)
	if len(mountinfo.At(table, a.GuestDst)) != 0 || len(mountinfo.At(table, filepath.Join(ExportMount, Token(a.HostPath)))) != 0 {
		t.Errorf("still mounted: %v", table)
	}

	// A folder that its parent shows too has another file system and the same inode.
	parent := g.token("/h/p", filepath.Join(work, "p"))
	g.announce(&parent, func(dir string) {
		must(t, os.Mkdir(filepath.Join(dir, "child"), 0o755))
		must(t, os.WriteFile(filepath.Join(dir, "child/f"), nil, 0o644))
	})
	g.mounts(1, parent)
	child := g.token("/h/p/child", filepath.Join(work, "p/child"))
	g.announce(&child, func(string) {})
	g.refuses(child, "not empty", parent)
	var st unix.Stat_t
	must(t, unix.Stat(filepath.Join(parent.GuestDst, "child"), &st))
	at := filepath.Join(ExportMount, Token(child.HostPath))
	must(t, unix.Unmount(at, 0))
	for i := range 64 { // until the new file system has an inode of that number
		dir := filepath.Join(work, "src")
		must(t, os.MkdirAll(dir, 0o755))
		if i == 0 {
			must(t, unix.Mount("none", dir, "tmpfs", 0, ""))
		}
		sub := filepath.Join(dir, string(rune('0'+i)))
		must(t, os.Mkdir(sub, 0o755))
		var got unix.Stat_t
		must(t, unix.Stat(sub, &got))
		if got.Ino == st.Ino {
			must(t, unix.Mount(sub, at, "", unix.MS_BIND, ""))
			break
		}
	}
	g.host.Folders[child.HostPath] = Folder{Ino: st.Ino}
	if n, err := g.run(parent, child); n != 1 || err != nil {
		t.Errorf("%d %v", n, err)
	}
	if _, err := os.Stat(filepath.Join(child.GuestDst, "f")); err == nil {
		t.Error("the parent's view is still on top")
	}
}
