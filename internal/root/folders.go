package root

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"

	"aivm.dev/aivm/internal/root/mountinfo"
	"aivm.dev/aivm/internal/ui"
)

// VMManifest is what of this machine a VM has: its folders, as they were last
// bound. Bind and Unbind write it; libvirt's hook puts back what it says before
// the VM starts. It belongs to a person through the VM's key and holds no
// secret.
type VMManifest struct {
	Version int    `json:"version"`
	Folders []Bind `json:"folders"` // by token; Dev and Ino are of the day they were bound
}

func vmManifest(vmKey string) string { return filepath.Join(ManifestDir, "vm-"+vmKey+".json") }

// ReadVMManifest reads a VM's manifest; fs.ErrNotExist when there is none. Any
// user may.
func ReadVMManifest(vmKey string) (VMManifest, error) {
	var m VMManifest
	if err := readManifest(vmManifest(vmKey), &m); err != nil {
		return m, err
	}
	if m.Version != manifestVersion {
		return m, versionError(vmManifest(vmKey), m.Version)
	}
	for _, o := range m.Folders {
		if o.VMKey != vmKey {
			return m, fmt.Errorf("%s is of VM %q", vmManifest(vmKey), o.VMKey)
		}
		if err := validate(o, -1); err != nil {
			return m, fmt.Errorf("%s: %w", vmManifest(vmKey), err)
		}
	}
	return m, nil
}

// noteFolders changes a VM's manifest; nothing is written if that changes
// nothing. One that cannot be read is replaced: it is an aid, and what it said
// is said again by the next binds.
func noteFolders(vmKey string, change func([]Bind) []Bind) error {
	release, err := manifests()
	if err != nil {
		return err
	}
	defer release()
	m, err := ReadVMManifest(vmKey)
	if errors.Is(err, errNewer) {
		return err
	}
	was := slices.Clone(m.Folders)
	if err != nil {
		was, m = nil, VMManifest{}
	}
	m.Version = manifestVersion
	m.Folders = change(m.Folders)
	if err == nil && slices.EqualFunc(was, m.Folders, sameBind) {
		return nil
	}
	return writeManifest(vmManifest(vmKey), m)
}

func sameBind(a, b Bind) bool {
	protect := slices.Equal(a.Protect, b.Protect)
	a.Protect, b.Protect = nil, nil
	return protect && a.Own == b.Own && a.Src == b.Src && a.VMKey == b.VMKey && a.Token == b.Token && a.RO == b.RO &&
		a.UID == b.UID && a.GID == b.GID && a.Dev == b.Dev && a.Ino == b.Ino
}

// bindAndNote binds a folder and notes it for the VM's next start.
func bindAndNote(o Bind) (string, error) {
	note, err := bind(o)
	if err != nil {
		return "", err
	}
	return note, noteFolders(o.VMKey, func(fs []Bind) []Bind { return with(fs, o) })
}

// unbindAndForget forgets a folder first: a run that is killed in between
// leaves a mount that everybody can see, and nothing that comes back by itself.
func unbindAndForget(o Unbind) error {
	var was []Bind
	err := noteFolders(o.VMKey, func(fs []Bind) []Bind {
		was = slices.Clone(fs)
		return without(fs, o.Token)
	})
	if err != nil {
		return err
	}
	if o.Forget {
		return nil
	}
	if err := unbind(o); err != nil {
		back := noteFolders(o.VMKey, func(fs []Bind) []Bind {
			for _, f := range was {
				if f.Token == o.Token {
					fs = with(fs, f)
				}
			}
			return fs
		})
		return errors.Join(err, back)
	}
	return nil
}

func with(fs []Bind, o Bind) []Bind {
	fs = slices.Clone(fs)
	if i := slices.IndexFunc(fs, func(f Bind) bool { return f.Token == o.Token }); i >= 0 {
		fs[i] = o
		return fs
	}
	return append(fs, o)
}

func without(fs []Bind, token string) []Bind {
	return slices.DeleteFunc(slices.Clone(fs), func(f Bind) bool { return f.Token == token })
}

// forgetVM removes a VM's manifest with its export root.
func forgetVM(vmKey string) error {
	if err := ignoreMissing(os.Remove(deviceGuardPath(vmKey))); err != nil {
		return err
	}
	if _, err := os.Lstat(vmManifest(vmKey)); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	release, err := manifests()
	if err != nil {
		return err
	}
	defer release()
	return ignoreMissing(os.Remove(vmManifest(vmKey)))
}

// hookFolders runs before a VM starts: its export root and what was bound
// there are put back, as after a reboot of this machine. A folder that is gone,
// has another owner now, or has a link on its way is left out and keeps nobody
// from starting his VM: the next aivm command names it. Without the export root
// the VM must not start, for it could never see a folder again while it runs;
// nor where another process holds the lock, for then none of them comes back.
func hookFolders(owner int, vm string) error {
	key := VMKey(owner, vm)
	if !vmKeyRE.MatchString(key) {
		return nil
	}
	m, err := ReadVMManifest(key)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		// Its folders come back with the next aivm command.
		fmt.Fprintf(os.Stderr, "aivm: the folders of VM %s are not known: %v\n", vm, err)
		return nil
	}
	path, err := ResolvedExport(key)
	if err != nil {
		return err
	}
	ms, err := mountinfo.Read(mountinfo.Self)
	if err != nil {
		return err
	}
	if !exportedAt(ms, path) {
		if err := export(Export{VMKey: key}); err != nil {
			return ui.Failed("the place for the folders of VM %q cannot be made: %w", vm, err)
		}
	}
	for _, o := range m.Folders {
		// One with protected paths may be there without the mounts that protect
		// them: they are taken off here once a daemon has them.
		if len(mountinfo.At(ms, filepath.Join(path, o.Token))) > 0 && len(o.Protect) == 0 {
			continue
		}
		err := bindAgain(o, owner)
		if errors.Is(err, errLocked) {
			return err
		}
		if err != nil {
			fmt.Fprintf(os.Stderr, "aivm: folder %s stays away from VM %s: %v\n", o.Src, vm, err)
		}
	}
	return nil
}

// hookSettle runs when a VM has started: its daemons have the mounts that
// protect paths, and here they are only in the way. Where another process holds
// the lock they stay until the next aivm command: that is no reason to end the
// VM.
func hookSettle(owner int, vm string) {
	key := VMKey(owner, vm)
	if !vmKeyRE.MatchString(key) {
		return
	}
	m, err := ReadVMManifest(key)
	if err != nil {
		return // said when it was about to start
	}
	for _, o := range m.Folders {
		if len(o.Protect) == 0 {
			continue
		}
		if err := bindAgain(o, owner); err != nil {
			fmt.Fprintf(os.Stderr, "aivm: protecting folder %s from VM %s: %v\n", o.Src, vm, err)
			if errors.Is(err, errLocked) {
				return // so would be the next
			}
		}
	}
}

func exportedAt(ms []mountinfo.Mount, path string) bool {
	at := mountinfo.At(ms, path)
	if len(at) != 1 {
		return false
	}
	_, shared := at[0].Shared()
	return shared
}

// bindAgain binds a folder as it was, if it is still the same person's: it may
// have been made anew since, but not by somebody else, and the person must
// still be able to get there.
func bindAgain(o Bind, owner int) error {
	fd, err := openFolderAs(o.Src, owner)
	if err != nil {
		return err
	}
	var st unix.Stat_t
	err = unix.Fstat(fd, &st)
	unix.Close(fd)
	if err != nil {
		return err
	}
	if int(st.Uid) != o.UID || int(st.Gid) != o.GID {
		return fmt.Errorf("it belongs to %d:%d now, and belonged to %d:%d when it was shared", st.Uid, st.Gid, o.UID, o.GID)
	}
	o.Dev, o.Ino = st.Dev, st.Ino
	_, err = bind(o)
	return err
}

// openFolderAs is openFolder with no more rights than the user has, on a thread
// of its own: the kernel takes root's own away from one with another fsuid.
func openFolderAs(path string, uid int) (fd int, err error) {
	if uid == 0 {
		return openFolder(path)
	}
	gid, groups := nobody, []int{}
	if u, err := user.LookupId(strconv.Itoa(uid)); err == nil {
		if n, err := strconv.Atoi(u.Gid); err == nil {
			gid = n
		}
		ids, _ := u.GroupIds() // a group that cannot be found gives no right
		for _, g := range ids {
			if n, err := strconv.Atoi(g); err == nil {
				groups = append(groups, n)
			}
		}
	}
	err = onThread(func() error {
		// unix.Setgroups would change all threads.
		list := make([]uint32, len(groups)+1)
		for i, g := range groups {
			list[i] = uint32(g)
		}
		if _, _, e := unix.RawSyscall(unix.SYS_SETGROUPS, uintptr(len(groups)), uintptr(unsafe.Pointer(&list[0])), 0); e != 0 {
			return e
		}
		if err := errors.Join(unix.Setfsgid(gid), unix.Setfsuid(uid)); err != nil {
			return err
		}
		fd, err = openFolder(path)
		return err
	})
	if err != nil {
		return -1, err
	}
	return fd, nil
}
