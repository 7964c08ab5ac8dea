package hookrun

import (
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"aivm.dev/aivm/internal/lazyre"
	"aivm.dev/aivm/internal/root/definition"
	"aivm.dev/aivm/internal/root/rootfile"
)

// imageRE matches the names of guest images and their markers in a directory
// of VM disks (provision/domain, Base).
var imageRE = lazyre.New(`^base-[0-9a-f]{32}(-[0-9]+)?(\.done)?$`)

// closeImages removes other users' read permission from the guest images in the
// directories of a VM's disks, before the VM starts: an older aivm made them 0444, and
// libvirt cannot change the mode of a volume. After this hook libvirt gives the VM's
// images to QEMU's user. A failure is reported and does not keep the VM from starting.
func closeImages(d definition.VM) {
	done := map[string]bool{}
	for _, disk := range d.Disks {
		dir := filepath.Dir(disk.Source.File)
		if disk.Source.File == "" || !filepath.IsAbs(dir) || done[dir] {
			continue
		}
		done[dir] = true
		if err := closeImagesIn(dir); err != nil {
			fmt.Fprintf(os.Stderr, "aivm: removing other users' read permission from the guest images in %s: %v\n", dir, err)
		}
	}
}

// closeImagesIn changes files only in a directory that only root can write: in any
// other, a user could replace a file.
func closeImagesIn(dir string) error {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	d := os.NewFile(uintptr(fd), dir)
	defer d.Close()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if st.Uid != 0 || st.Mode&0o022 != 0 {
		return nil
	}
	names, err := d.Readdirnames(-1)
	if err != nil {
		return err
	}
	for _, name := range names {
		if !imageRE.MatchString(name) {
			continue
		}
		if err := closeImage(fd, name); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

func closeImage(dir int, name string) error {
	fd, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG || st.Nlink != 1 || st.Mode&0o277 == 0 {
		return nil
	}
	return unix.Fchmod(fd, 0o400)
}

// closeExport removes other users' permission to list the export roots: an older aivm
// made their directory 0755. A failure is reported and does not keep the VM from
// starting.
func closeExport() {
	fd, err := rootfile.StepDown(rootfile.ExportBase, rootfile.PassMode)
	if err != nil {
		fmt.Fprintf(os.Stderr, "aivm: %v\n", err)
		return
	}
	unix.Close(fd)
}
