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

// gptmbrs lists where the packages extlinux and syslinux-common install the boot code for a GPT
// disk.
var gptmbrs = []string{"/usr/lib/EXTLINUX/gptmbr.bin", "/usr/lib/syslinux/mbr/gptmbr.bin"}

// Builders returns the build function of each image that can be built, by distribution, for
// root.Options.
func Builders() map[string]root.BuildFunc {
	m := map[string]root.BuildFunc{}
	for distro := range recipes {
		m[distro] = func(ctx context.Context, dir string, progress root.Progress) (string, error) {
			return Build(ctx, distro, dir, progress)
		}
	}
	return m
}

// Build makes a bootable qcow2 of distro in workDir, an empty directory owned by root, from this
// machine's package mirror, and returns its path. It runs as root. All its mounts, loop devices and
// processes live in namespaces that end with it, also when ctx ends or this process is killed; only
// files in workDir remain, and the caller removes them.
func Build(ctx context.Context, distro, workDir string, progress func(string, float64)) (string, error) {
	recipe, ok := recipes[distro]
	if !ok {
		return "", ui.Refused("no image of %q can be built", distro)
	}
	if os.Geteuid() != 0 {
		return "", ui.Refused("building an image needs root")
	}
	if runtime.GOARCH != "amd64" {
		return "", ui.Refused("images can be built for x86-64 only, and this machine is %s", runtime.GOARCH)
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
		return "", ui.Failed("the build succeeded but its image is missing: %w", err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return "", err
	}
	if _, _, err := Inspect(f, st.Size()); err != nil {
		return "", fmt.Errorf("the built image: %w", err)
	}
	return path, nil
}

// prepare checks that the programs build.sh needs are installed, writes the files it copies into
// workDir, and returns its environment variables.
func (r recipe) prepare(ctx context.Context, workDir string) (map[string]string, error) {
	for _, tool := range []string{"bash", "mmdebstrap", "extlinux", "sfdisk", "mke2fs", "qemu-img", "mount", "fstrim"} {
		if _, err := exec.LookPath(tool); err != nil {
			return nil, ui.Refused("building an image needs %s, which is not installed", tool).
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
		return nil, ui.Refused("building an image needs gptmbr.bin, which is not installed").
			Hint(ui.Cmd("sudo apt-get install --no-install-recommends extlinux"))
	}
	v := r.vendor
	ms := v.mirrors(os.DirFS("/etc/apt"))
	keyring := v.keyring
	if _, err := os.Stat(keyring); err != nil {
		// Without the keyring package, a Debian or Ubuntu machine trusts its own vendor's keys
		// through trusted.gpg.d, as apt does. On any other machine nothing would verify the
		// packages.
		if keyring = ""; ms == nil {
			return nil, ui.Refused("the packages of %s cannot be verified: this machine has neither their mirror nor their keys", v.name).
				Hint(ui.Cmd("sudo apt-get install " + v.keyPackage))
		}
	}
	dump, err := exec.CommandContext(ctx, "apt-config", "dump").Output()
	if err != nil {
		return nil, ui.Failed("apt-config dump: %w", err)
	}
	buildConf, guestConf := hostApt(string(dump))
	buildConf += "APT::Install-Recommends \"false\";\nAcquire::Languages \"none\";\n"
	// apt reads the passwords of a mirror from where this machine keeps them.
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

// packageSource returns the package source of mmdebstrap and build.sh's variables for it: list is
// the content of sources.list in workDir; an empty one means mmdebstrap's default mirror.
//
// For the default mirror the keyring is passed explicitly. mmdebstrap finds the keyring itself only
// where gpg is installed, and the entries it then writes for the guest would name the host's
// keyring file.
func (r recipe) packageSource(ms []mirror, keyring, workDir string) (list string, vars map[string]string) {
	if ms == nil {
		return "", map[string]string{"SOURCES": "", "KEYRING": keyring}
	}
	return r.oneLine(ms, keyring), map[string]string{"SOURCES": filepath.Join(workDir, "sources.list"), "KEYRING": ""}
}

// runScript runs a bash script as process 1 of a PID namespace, in a private mount namespace. When
// the script ends or is killed, the kernel ends every process in the namespace and undoes its
// mounts; Pdeathsig kills it when aivm ends.
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

	// The kernel sends the parent-death signal when the thread that started the child ends.
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
		Unshareflags: unix.CLONE_NEWNS, // Go also makes the mounts private
		Pdeathsig:    unix.SIGKILL,
	}
}
