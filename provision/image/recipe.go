package image

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// A recipe says how to build an image of a distribution.
type recipe struct {
	codename   string
	vendor     *vendor
	packages   []string
	kernel     string // the distribution's link to the newest kernel
	initrd     string
	aptSources string
}

// recipes holds the images Build can build, by distribution.
//
// Ubuntu's was written from Ubuntu's package lists and has never been run: no test machine reaches
// Ubuntu's archive.
var recipes = map[string]recipe{
	Debian12: {
		codename: "bookworm", vendor: &debianVendor, kernel: "/vmlinuz", initrd: "/initrd.img",
		// The cloud kernel has virtio, virtiofs and FUSE, and boots fastest.
		packages: append([]string{"linux-image-cloud-amd64"}, packages...), aptSources: "debian.sources",
	},
	Debian13: {
		codename: "trixie", vendor: &debianVendor, kernel: "/vmlinuz", initrd: "/initrd.img",
		packages: append([]string{"linux-image-cloud-amd64", "linux-sysctl-defaults"}, packages...), aptSources: "debian.sources",
	},
	Ubuntu2404: {
		codename: "noble", vendor: &ubuntuVendor, kernel: "/boot/vmlinuz", initrd: "/boot/initrd.img",
		packages: append([]string{"linux-image-virtual", "initramfs-tools", "ubuntu-keyring"}, packages...), aptSources: "ubuntu.sources",
	},
}

// The disk: GPT with one partition, as large as the finished system plus some room; cloud-init
// grows partition and file system at the first boot.
const (
	sector      = 512
	diskSectors = 3 << 30 / sector
	partStart   = 2048                                // at 1 MiB, behind the boot loader's sectors
	partSectors = (diskSectors - partStart - 34) &^ 7 // the backup GPT takes the last 33
)

// packages are installed in every image: what a boot needs, what cloud-init and aivm need in the
// guest, and a few programs that people expect in a shell. Everything else is one apt-get away.
var packages = []string{
	"systemd-sysv", "udev", "dbus", "e2fsprogs",
	"cloud-init", "cloud-guest-utils", "fdisk", // growpart resizes with sfdisk
	"netplan.io", "iproute2", "systemd-resolved", "systemd-timesyncd",
	"openssh-server", "sudo", "qemu-guest-agent",
	"git", "rsync", "curl", "ca-certificates",
	"less", "nano", "procps", "iputils-ping", "bash-completion", "zstd",
}

// A file of the guest: its path there and its content.
type file struct{ path, content string }

// early returns the files to copy before the packages are configured, so that the only initramfs
// made is the right one.
func early(uuid string) []file {
	return []file{
		// A short list instead of "most" (28 MB, slow to load under emulation) or "dep" (which
		// would inspect the machine that builds).
		{"/etc/initramfs-tools/conf.d/aivm", "MODULES=list\nCOMPRESS=zstd\n"},
		{"/etc/initramfs-tools/modules", "virtio_pci\nvirtio_blk\nvirtio_scsi\nsd_mod\next4\n"},
		{"/etc/fstab", "UUID=" + uuid + " / ext4 defaults,errors=remount-ro 0 1\n"},
	}
}

// late returns the files that replace those of the packages. With empty sources the guest keeps the
// entries that mmdebstrap wrote for its default mirror.
func (r recipe) late(uuid, sources, aptConf string) []file {
	files := []file{
		// Every kernel package updates these links to itself, so an upgraded kernel is what boots
		// next. With KVM the kernel skips the timer check by itself. Without it, no_timer_check is
		// needed: on a busy machine an emulated timer gives too few ticks, and the kernel panics
		// while counting them.
		{"/boot/extlinux/extlinux.conf", "SERIAL 0 115200\nDEFAULT linux\nPROMPT 0\nTIMEOUT 1\n\nLABEL linux\n" +
			"  LINUX " + r.kernel + "\n  INITRD " + r.initrd + "\n  APPEND root=UUID=" + uuid + " ro console=ttyS0,115200 no_timer_check\n"},
		// The seed is on a disk; a guest without a seed boots all the same. apt keeps the mirror
		// the image was built from.
		{"/etc/cloud/cloud.cfg.d/90_aivm.cfg", "datasource_list: [NoCloud, None]\napt: {preserve_sources_list: true}\n"},
		{"/etc/default/locale", "LANG=C.UTF-8\n"},
		{"/etc/hostname", "localhost\n"},
		{"/etc/hosts", "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n"},
		// Empty, not absent: systemd creates the ID at the first boot and keeps it.
		{"/etc/machine-id", ""},
	}
	if sources != "" {
		files = append(files, file{"/etc/apt/sources.list.d/" + r.aptSources, sources})
	}
	if aptConf != "" {
		files = append(files, file{"/etc/apt/apt.conf.d/90aivm-mirror", aptConf})
	}
	return files
}

// writeTree writes files below dir, with the modes they have in the guest.
func writeTree(dir string, files []file) error {
	for _, f := range files {
		p := filepath.Join(dir, f.path)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(p, []byte(f.content), 0o644); err != nil {
			return err
		}
		// The umask of this process may be stricter than the modes a guest's / and /etc need.
		if err := os.Chmod(p, 0o644); err != nil {
			return err
		}
		for d := p; d != dir; {
			d = filepath.Dir(d)
			if err := os.Chmod(d, 0o755); err != nil {
				return err
			}
		}
	}
	return nil
}

// hostApt selects lines of "apt-config dump" about reaching the mirror. build has all of them,
// including proxies and their passwords. guest has only what the mirror itself requires: the guest
// may not be able to use the host's proxy.
func hostApt(dump string) (build, guest string) {
	reach := []string{"Acquire::http::", "Acquire::https::", "Acquire::ForceIPv4", "Acquire::ForceIPv6", "Acquire::Retries"}
	dates := []string{"Acquire::Check-Valid-Until", "Acquire::Check-Date"}
	has := func(line string, prefixes []string) bool {
		return slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(line, p) })
	}
	for line := range strings.Lines(dump) {
		if strings.HasSuffix(strings.TrimSpace(line), ` "";`) {
			continue
		}
		if has(line, reach) || has(line, dates) {
			build += line
		}
		if has(line, dates) {
			guest += line
		}
	}
	return build, guest
}

// environment returns the environment of the build: vars, and of the caller's variables only the
// proxies.
func environment(environ []string, vars map[string]string) []string {
	env := []string{
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"HOME=/root", "LC_ALL=C.UTF-8", "DEBIAN_FRONTEND=noninteractive",
	}
	for _, kv := range environ {
		k, _, _ := strings.Cut(kv, "=")
		switch strings.ToLower(k) {
		case "http_proxy", "https_proxy", "no_proxy", "all_proxy":
			env = append(env, kv)
		}
	}
	for k, v := range vars {
		env = append(env, fmt.Sprintf("%s=%s", k, v))
	}
	slices.Sort(env)
	return env
}
