package image

import (
	"bufio"
	"context"
	_ "embed" // build.sh
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"aivm.dev/aivm/internal/root"
	"aivm.dev/aivm/internal/ui"
)

//go:embed build.sh
var buildScript string

// gptmbrs are where the packages extlinux and syslinux-common put the boot
// code for a GPT disk.
var gptmbrs = []string{"/usr/lib/EXTLINUX/gptmbr.bin", "/usr/lib/syslinux/mbr/gptmbr.bin"}

// Builders are the images that can be built, for root.Options.
func Builders() map[string]root.BuildFunc {
	m := map[string]root.BuildFunc{}
	for distro := range recipes {
		m[distro] = func(ctx context.Context, dir string, progress root.Progress) (string, error) {
			return Build(ctx, distro, dir, progress)
		}
	}
	return m
}

// Build makes a bootable qcow2 of distro in workDir, an empty directory of
// root's, from this machine's package mirror, and returns its path. It runs as
// root. All its mounts, loop devices and processes live in namespaces that end
// with it, also when ctx ends or this process is killed; only files in workDir
// remain, which belong to the caller.
func Build(ctx context.Context, distro, workDir string, progress func(string, float64)) (string, error) {
	recipe, ok := recipes[distro]
	if !ok {
		return "", ui.Refused("no image of %q can be built", distro)
	}
	if os.Geteuid() != 0 {
		return "", ui.Refused("building an image needs root's rights")
	}
	if runtime.GOARCH != "amd64" {
		return "", ui.Refused("images are built for x86-64 only so far, and this machine is %s", runtime.GOARCH)
	}
	if progress == nil {
		progress = func(string, float64) {}
	}
	vars, err := recipe.prepare(ctx, workDir)
	if err != nil {
		return "", err
	}
	if err := runScript(ctx, buildScript, environment(os.Environ(), vars), newWatch(progress)); err != nil {
		return "", err
	}
	path := filepath.Join(workDir, "image.qcow2")
	f, err := os.Open(path)
	if err != nil {
		return "", ui.Failed("the image was built and is not there: %w", err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return "", err
	}
	if _, _, err := Inspect(f, st.Size()); err != nil {
		return "", fmt.Errorf("the image that was built: %w", err)
	}
	return path, nil
}

// prepare checks what the script needs and writes the files it copies.
func (r recipe) prepare(ctx context.Context, workDir string) (map[string]string, error) {
	for _, tool := range []string{"bash", "mmdebstrap", "extlinux", "sfdisk", "mke2fs", "qemu-img", "mount", "fstrim"} {
		if _, err := exec.LookPath(tool); err != nil {
			return nil, ui.Refused("building an image needs %s, which is not on this machine", tool).
				Hint(ui.Cmd("sudo apt-get install --no-install-recommends mmdebstrap extlinux fdisk e2fsprogs qemu-utils debian-archive-keyring"))
		}
	}
	mbr := ""
	for _, p := range gptmbrs {
		if _, err := os.Stat(p); err == nil && mbr == "" {
			mbr = p
		}
	}
	if mbr == "" {
		return nil, ui.Refused("building an image needs gptmbr.bin, which is not on this machine").
			Hint(ui.Cmd("sudo apt-get install --no-install-recommends extlinux"))
	}
	v := r.vendor
	ms := v.mirrors(os.DirFS("/etc/apt"))
	keyring := v.keyring
	if _, err := os.Stat(keyring); err != nil {
		// A machine of that vendor's without the package trusts its keys through
		// trusted.gpg.d, as apt does; elsewhere nothing would vouch for them.
		if keyring = ""; ms == nil {
			return nil, ui.Refused("this machine has neither a mirror of %s nor its keys, so packages could not be verified", v.name).
				Hint(ui.Cmd("sudo apt-get install " + v.keyPackage))
		}
	}
	dump, err := exec.CommandContext(ctx, "apt-config", "dump").Output()
	if err != nil {
		return nil, ui.Failed("apt-config dump: %w", err)
	}
	buildConf, guestConf := hostApt(string(dump))
	buildConf += "APT::Install-Recommends \"false\";\nAcquire::Languages \"none\";\n"
	// Passwords for a mirror are asked for where the machine keeps them.
	buildConf += "Dir::Etc::netrc \"/etc/apt/auth.conf\";\nDir::Etc::netrcparts \"/etc/apt/auth.conf.d\";\n"

	id := uuid.NewString()
	vars := map[string]string{
		"WORK": workDir, "CODENAME": r.codename, "PACKAGES": strings.Join(r.packages, ","), "COMPONENTS": strings.ReplaceAll(v.components, " ", ","),
		"KERNEL": r.kernel, "INITRD": r.initrd, "ROOT_UUID": id, "GPTMBR": mbr,
		"DISK_SECTORS": strconv.Itoa(diskSectors), "PART_START": strconv.Itoa(partStart), "PART_SECTORS": strconv.Itoa(partSectors),
	}
	list, source := r.packageSource(ms, keyring, workDir)
	maps.Copy(vars, source)
	if err := errors.Join(
		os.WriteFile(filepath.Join(workDir, "apt.conf"), []byte(buildConf), 0o600),
		os.WriteFile(filepath.Join(workDir, "sources.list"), []byte(list), 0o600),
		writeTree(filepath.Join(workDir, "early"), early(id)),
		writeTree(filepath.Join(workDir, "late"), r.late(id, r.deb822(ms), guestConf)),
	); err != nil {
		return nil, ui.Failed("preparing the build: %w", err)
	}
	return vars, nil
}

// packageSource says where mmdebstrap gets the packages: from list, the content of
// sources.list in workDir, or from its own default mirror.
//
// For the default it is given the vendor's keys by name. It could look for them
// itself, but only where gpg is installed, and the entries it writes for the
// guest would then name the file of this machine.
func (r recipe) packageSource(ms []mirror, keyring, workDir string) (list string, vars map[string]string) {
	if ms == nil {
		return "", map[string]string{"SOURCES": "", "KEYRING": keyring}
	}
	return r.oneLine(ms, keyring), map[string]string{"SOURCES": filepath.Join(workDir, "sources.list"), "KEYRING": ""}
}

// runScript runs a bash script as process 1 of a process namespace, in a
// private mount namespace. When it ends or is killed the kernel ends every
// process in it and undoes its mounts; Pdeathsig makes it end with us.
func runScript(ctx context.Context, script string, env []string, w *watch) error {
	pr, pw, err := os.Pipe()
	if err != nil {
		return err
	}
	defer pr.Close()
	c := exec.CommandContext(ctx, "bash", "-c", script)
	c.Env, c.ExtraFiles = env, []*os.File{pw} // descriptor 3
	c.Stdout, c.Stderr = w, w
	c.SysProcAttr = confinement()

	// The parent-death signal follows the thread that started the child.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	err = c.Start()
	pw.Close()
	if err != nil {
		return ui.Failed("starting the build: %w", err)
	}
	var steps sync.WaitGroup
	steps.Go(func() {
		sc := bufio.NewScanner(pr)
		for sc.Scan() {
			w.step(sc.Text())
		}
	})
	err = c.Wait()
	steps.Wait()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		return w.failure(err)
	}
	return nil
}

func confinement() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{
		Cloneflags:   unix.CLONE_NEWPID,
		Unshareflags: unix.CLONE_NEWNS, // Go makes the mounts private, too
		Pdeathsig:    unix.SIGKILL,
	}
}
