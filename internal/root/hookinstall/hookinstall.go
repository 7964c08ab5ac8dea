// Package hookinstall puts libvirt's hook scripts and the program they start in
// place, has running daemons look for them, and takes them away again.
//
// It replaces no hook of somebody else's.
package hookinstall

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"aivm.dev/aivm/internal/root/manifest"
	"aivm.dev/aivm/internal/root/record"
	"aivm.dev/aivm/internal/root/rootfile"
	"aivm.dev/aivm/internal/ui"
)

// hookMark begins what only aivm writes.
const hookMark = "# aivm keeps the rules and folders of its VMs in place here."

// Known reports whether hooks were ever put in place here, of whatever
// version.
func Known() bool {
	_, err := os.Stat(hooksTold())
	return err == nil
}

// Current reports whether the hooks are in place and run this program.
// Any user may ask; self is the running program.
func Current(self string) (bool, error) {
	told, err := os.ReadFile(hooksTold())
	if err != nil || !bytes.Equal(told, toldText()) {
		return false, rootfile.IgnoreMissing(err)
	}
	for _, k := range rootfile.HookKinds {
		b, err := os.ReadFile(rootfile.HookScript(k))
		// Where /etc/libvirt is closed to users, what root noted counts.
		if errors.Is(err, fs.ErrPermission) {
			continue
		}
		if err != nil || string(b) != scriptText(k) {
			return false, rootfile.IgnoreMissing(err)
		}
	}
	return sameProgram(self, rootfile.HookProgram)
}

// sameProgram compares two files; one that is not there is another.
func sameProgram(a, b string) (bool, error) {
	fa, err := os.Open(a)
	if err != nil {
		return false, err
	}
	defer fa.Close()
	fb, err := os.Open(b)
	if err != nil {
		return false, rootfile.IgnoreMissing(err)
	}
	defer fb.Close()
	sa, err1 := fa.Stat()
	sb, err2 := fb.Stat()
	if err := errors.Join(err1, err2); err != nil || sa.Size() != sb.Size() {
		return false, err
	}
	ba, bb := make([]byte, 1<<20), make([]byte, 1<<20)
	for {
		na, errA := io.ReadFull(fa, ba)
		nb, errB := io.ReadFull(fb, bb)
		if !bytes.Equal(ba[:na], bb[:nb]) {
			return false, nil
		}
		if errA != nil || errB != nil {
			return errors.Is(errA, io.EOF) || errors.Is(errA, io.ErrUnexpectedEOF), nil
		}
	}
}

// hooksLock makes the manifest directory if it is not there, and keeps everybody
// else who changes the hooks off until release. It is no lock of a hook's: a
// daemon may have to run one to its end before it can answer tellDaemon.
func hooksLock() (release func(), err error) {
	fd, err := rootfile.StepDown(rootfile.ManifestDir, rootfile.ManifestMode)
	if err != nil {
		return nil, err
	}
	unix.Close(fd)
	return rootfile.Lock("hooks")
}

// Install puts program and scripts in place and tells the daemons that
// run. The note that they know comes last: killed before it, the next run tells
// them again.
func Install(ctx context.Context, progress record.Progress) error {
	release, err := hooksLock()
	if err != nil {
		return err
	}
	defer release()
	progress("copying the program", -1)
	if err := installProgram(); err != nil {
		return err
	}
	for _, k := range rootfile.HookKinds {
		path := rootfile.HookScript(k)
		if err := rootDir(filepath.Dir(path)); err != nil {
			return err
		}
		b, err := os.ReadFile(path)
		switch {
		case err == nil && !strings.Contains(string(b), hookMark):
			return ui.Refused("%s is a hook of somebody else's", path).Hint(ui.CmdFor("give it another name", "sudo mv "+path+" "+path+"-mine"))
		case err == nil && string(b) == scriptText(k):
			if err := os.Chmod(path, 0o755); err != nil {
				return err
			}
			continue
		case err != nil && !errors.Is(err, fs.ErrNotExist):
			return err
		}
		// A daemon may have started while it was not there.
		if err := os.Remove(hooksTold()); rootfile.IgnoreMissing(err) != nil {
			return err
		}
		if err := rootfile.WriteWhole(path, []byte(scriptText(k)), 0o755); err != nil {
			return err
		}
	}
	told, err := os.ReadFile(hooksTold())
	if err == nil && bytes.Equal(told, toldText()) {
		return nil
	}
	if err := tellDaemons(ctx, progress); err != nil {
		return err
	}
	// An older aivm knows another lock, and the administrator none.
	for _, k := range rootfile.HookKinds {
		if b, err := os.ReadFile(rootfile.HookScript(k)); err != nil || string(b) != scriptText(k) {
			return ui.Failed("%s was changed while the daemons were told of it", rootfile.HookScript(k)).Hint(ui.Remark("run the command again"))
		}
	}
	return rootfile.WriteWhole(hooksTold(), toldText(), 0o644)
}

// Remove takes away what Install made, unless a network still has a
// wall. A daemon that goes on calling a hook that is gone finds none.
func Remove() error {
	done, err := hooksLock()
	if err != nil {
		return err
	}
	defer done()
	release, err := manifest.Lock()
	if err != nil {
		return err
	}
	defer release()
	left, err := filepath.Glob(filepath.Join(rootfile.ManifestDir, "*.json"))
	if err != nil {
		return err
	}
	if len(left) > 0 {
		return ui.Refused("the hooks still keep something in place: %s", strings.Join(left, ", "))
	}
	for _, k := range rootfile.HookKinds {
		b, err := os.ReadFile(rootfile.HookScript(k))
		if err == nil && strings.Contains(string(b), hookMark) {
			err = os.Remove(rootfile.HookScript(k))
		}
		if rootfile.IgnoreMissing(err) != nil {
			return err
		}
	}
	for _, p := range []string{rootfile.HookProgram, filepath.Dir(rootfile.HookProgram), hooksTold()} {
		if err := os.Remove(p); rootfile.IgnoreMissing(err) != nil {
			return err
		}
	}
	return nil
}

// rootDir makes a directory and those above it, and refuses one that somebody
// but root could change.
func rootDir(dir string) error {
	if dir == "/" {
		return nil
	}
	if err := rootDir(filepath.Dir(dir)); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return err
	}
	// Group staff may write /usr/local on Debian; its members are root's
	// equals by Debian's policy (9.1.2).
	if st.Uid != 0 || st.Mode&0o002 != 0 && st.Mode&unix.S_ISVTX == 0 {
		return ui.Refused("directory %s can be changed by others than root", dir).Hint(ui.Cmd("ls -ld " + dir))
	}
	return nil
}

// installProgram copies the running program, by the descriptor the kernel has
// of it: the path may name another file by now.
func installProgram() error {
	dir := filepath.Dir(rootfile.HookProgram)
	if err := rootDir(dir); err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Lstat(dir, &st); err != nil {
		return err
	}
	if st.Uid != 0 || st.Mode&0o022 != 0 || st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return ui.Refused("directory %s can be changed by others than root", dir).Hint(ui.Cmd("ls -ld " + dir))
	}
	const self = "/proc/self/exe"
	same, err := sameProgram(self, rootfile.HookProgram)
	if err != nil {
		return err
	}
	if same {
		return errors.Join(os.Chown(rootfile.HookProgram, 0, 0), os.Chmod(rootfile.HookProgram, 0o755))
	}
	b, err := os.ReadFile(self)
	if err != nil {
		return err
	}
	return rootfile.WriteWhole(rootfile.HookProgram, b, 0o755)
}
