// Package hookinstall installs libvirt's hook scripts and the program they start,
// signals running daemons to load them, and removes them again.
//
// It never replaces a hook of another program.
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

	"al.essio.dev/pkg/shellescape"
	"golang.org/x/sys/unix"

	"aivm.dev/aivm/internal/root/manifest"
	"aivm.dev/aivm/internal/root/record"
	"aivm.dev/aivm/internal/root/rootfile"
	"aivm.dev/aivm/internal/ui"
)

// hookMark is a line of aivm's hook scripts by which Install and Remove recognise them,
// also those of other versions. It must not change.
const hookMark = "# aivm keeps the rules and folders of its VMs in place here."

// Known reports whether hooks of any version were ever installed on this machine.
func Known() bool {
	_, err := os.Stat(loadedPath())
	return err == nil
}

// Current reports whether the hooks are installed, loaded by the daemons, and run the
// same program as self, the running one. Any user may call it.
func Current(self string) (bool, error) {
	loaded, err := os.ReadFile(loadedPath())
	if err != nil || !bytes.Equal(loaded, scriptsDigest()) {
		return false, rootfile.IgnoreMissing(err)
	}
	for _, k := range rootfile.HookKinds {
		b, err := os.ReadFile(rootfile.HookScript(k))
		// Where users may not read /etc/libvirt, only the digest that root recorded
		// counts.
		if errors.Is(err, fs.ErrPermission) {
			continue
		}
		if err != nil || string(b) != scriptText(k) {
			return false, rootfile.IgnoreMissing(err)
		}
	}
	return sameProgram(self, rootfile.HookProgram)
}

// sameProgram compares the contents of two files; a missing b is different.
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

// hooksLock makes the manifest directory if it is missing, and takes the lock for
// changes of the hooks. The hooks themselves do not take this lock: a daemon may have
// to finish a hook before it can answer reloadDaemon.
func hooksLock() (release func(), err error) {
	fd, err := rootfile.StepDown(rootfile.ManifestDir, rootfile.ManifestMode)
	if err != nil {
		return nil, err
	}
	unix.Close(fd)
	return rootfile.Lock("hooks")
}

// Install installs the program and the scripts, and makes running daemons load them. It
// records last that they have: after a kill before that, the next run signals them
// again.
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
			return ui.Refused("%s is a hook of another program", path).Hint(ui.CmdFor("to give it another name", "sudo mv "+path+" "+path+"-local"))
		case err == nil && string(b) == scriptText(k):
			if err := os.Chmod(path, 0o755); err != nil {
				return err
			}
			continue
		case err != nil && !errors.Is(err, fs.ErrNotExist):
			return err
		}
		// A daemon may have started while the script was missing.
		if err := os.Remove(loadedPath()); rootfile.IgnoreMissing(err) != nil {
			return err
		}
		if err := rootfile.WriteAtomic(path, []byte(scriptText(k)), 0o755); err != nil {
			return err
		}
	}
	loaded, err := os.ReadFile(loadedPath())
	if err == nil && bytes.Equal(loaded, scriptsDigest()) {
		return nil
	}
	if err := reloadDaemons(ctx, progress); err != nil {
		return err
	}
	// An older aivm takes another lock, and the administrator none.
	for _, k := range rootfile.HookKinds {
		if b, err := os.ReadFile(rootfile.HookScript(k)); err != nil || string(b) != scriptText(k) {
			return ui.Failed("%s was changed while the daemons were loading it", rootfile.HookScript(k)).Hint(ui.Remark("run the command again"))
		}
	}
	return rootfile.WriteAtomic(loadedPath(), scriptsDigest(), 0o644)
}

// Remove removes what Install made. It refuses while a network or VM has a manifest.
// A daemon that still has the hooks loaded ignores that the scripts are missing.
func Remove() error {
	releaseHooks, err := hooksLock()
	if err != nil {
		return err
	}
	defer releaseHooks()
	release, err := manifest.Lock()
	if err != nil {
		return err
	}
	defer release()
	manifests, err := filepath.Glob(filepath.Join(rootfile.ManifestDir, "*.json"))
	if err != nil {
		return err
	}
	if len(manifests) > 0 {
		return ui.Refused("networks or VMs still need the hooks: %s", strings.Join(manifests, ", "))
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
	for _, p := range []string{rootfile.HookProgram, filepath.Dir(rootfile.HookProgram), loadedPath()} {
		if err := os.Remove(p); rootfile.IgnoreMissing(err) != nil {
			return err
		}
	}
	return nil
}

// rootDir makes a directory and its parents, and refuses one that users other than root
// can change.
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
	// Group staff may write /usr/local on Debian; its members are equivalent to root by
	// Debian's policy (9.1.2).
	if st.Uid != 0 || st.Mode&0o002 != 0 && st.Mode&unix.S_ISVTX == 0 {
		return ui.Refused("users other than root can change directory %s", dir).Hint(ui.Cmd("ls -ld " + shellescape.Quote(dir)))
	}
	return nil
}

// installProgram copies the running program from /proc/self/exe: its path may name
// another file by now.
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
		return ui.Refused("users other than root can change directory %s", dir).Hint(ui.Cmd("ls -ld " + shellescape.Quote(dir)))
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
	return rootfile.WriteAtomic(rootfile.HookProgram, b, 0o755)
}
