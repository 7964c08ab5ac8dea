package bootdisk

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"

	"aivm.dev/aivm/internal/capture"
	"aivm.dev/aivm/internal/ui"
)

// Boot is what a VM is booted with directly.
type Boot struct {
	Kernel   string `json:"kernel"` // path
	Initrd   string `json:"initrd"` // path
	Release  string `json:"release"`
	RootUUID string `json:"root_uuid"`
	Append   string `json:"append"` // the kernel's command line
}

// Version names what Extract makes of an image: it is a part of the key of whatever
// is saved after such a boot.
const Version = "1"

// Bounds of what is taken out of an image.
const (
	maxKernel = 128 << 20
	maxModule = 64 << 20
)

// Extract takes the newest kernel and the modules of an aivm VM out of a qcow2 or raw
// image, and writes kernel and initrd into dir, with agent as the first program of
// the guest. The image is not changed.
func Extract(ctx context.Context, image, dir string, agent []byte) (Boot, error) {
	b, err := extract(ctx, image, dir, agent)
	if err != nil {
		return Boot{}, fmt.Errorf("taking the kernel out of %s: %w", image, err)
	}
	return b, nil
}

func extract(ctx context.Context, image, dir string, agent []byte) (Boot, error) {
	debugfs, err := program("debugfs", "e2fsprogs")
	if err != nil {
		return Boot{}, err
	}
	disk, err := rawDisk(ctx, image, dir)
	if err != nil {
		return Boot{}, err
	}
	defer disk.Close()
	parts, err := ext4Partitions(disk)
	if err != nil {
		return Boot{}, err
	}
	src, err := findKernel(ctx, debugfs, disk, parts)
	if err != nil {
		return Boot{}, err
	}
	modules, err := src.modules(ctx, dir)
	if err != nil {
		return Boot{}, err
	}
	kernel, err := src.kernelFS.read(ctx, dir, []string{src.kernel}, maxKernel)
	if err != nil {
		return Boot{}, err
	}
	b := Boot{
		Kernel: filepath.Join(dir, "vmlinuz"), Initrd: filepath.Join(dir, "initrd"),
		Release: src.release, RootUUID: src.uuid, Append: commandLine(src.uuid),
	}
	if err := os.WriteFile(b.Kernel, kernel[0], 0o600); err != nil {
		return Boot{}, err
	}
	f, err := os.OpenFile(b.Initrd, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return Boot{}, err
	}
	err = writeInitrd(f, agent, modules)
	if e := f.Close(); err == nil {
		err = e
	}
	return b, err
}

// commandLine is the command line of a guest's kernel. A panic ends QEMU, which is
// started with -no-reboot.
func commandLine(uuid string) string {
	console := map[string]string{"arm64": "ttyAMA0"}[runtime.GOARCH]
	if console == "" {
		console = "ttyS0"
	}
	return "console=" + console + " quiet loglevel=3 panic=-1 no_timer_check random.trust_cpu=on aivm.root=UUID=" + uuid
}

// rawDisk opens an image as a raw disk: itself, or a copy in dir that has no name any
// more when rawDisk returns.
func rawDisk(ctx context.Context, image, dir string) (*os.File, error) {
	f, err := os.Open(image)
	if err != nil {
		return nil, err
	}
	info, err := Inspect(f)
	if err != nil || info.Format == "raw" {
		if err != nil {
			_ = f.Close()
			return nil, err
		}
		return f, nil
	}
	defer f.Close()
	tool, err := program("qemu-img", "qemu-utils")
	if err != nil {
		return nil, err
	}
	raw, err := os.CreateTemp(dir, "disk-*.raw")
	if err != nil {
		return nil, err
	}
	defer os.Remove(raw.Name())
	errs := &capture.Tail{Limit: 4096}
	// Unnamed and inherited, so that what was inspected is what is read.
	cmd := exec.CommandContext(ctx, tool, "convert", "-f", "qcow2", "-O", "raw", "-W", "/proc/self/fd/3", "/proc/self/fd/4")
	cmd.ExtraFiles = []*os.File{f, raw}
	cmd.Stderr = errs
	if err := cmd.Run(); err != nil {
		_ = raw.Close()
		return nil, fmt.Errorf("qemu-img: %w: %s", err, ui.CleanTo(capture.LastLines(errs.String(), 2, "; "), 300))
	}
	return raw, nil
}

// source is where a kernel and its modules lie in a disk.
type source struct {
	kernelFS, rootFS filesystem
	kernel           string // path
	release          string
	uuid             string // of the root
}

var kernelName = regexp.MustCompile(`^vmlinuz-([0-9][A-Za-z0-9_+.-]{0,100})$`)

// findKernel finds the root: the file system that has the modules of a kernel, which
// lies in its /boot or at the top of another file system.
func findKernel(ctx context.Context, debugfs string, disk *os.File, parts []partition) (source, error) {
	type found struct {
		fs   filesystem
		path string
	}
	kernels := map[string]found{}
	modules := map[string]partition{}
	for _, p := range parts {
		fs := filesystem{debugfs, disk, p.offset}
		for _, dir := range []string{"/", "/boot"} {
			names, err := fs.list(ctx, dir)
			if err != nil {
				return source{}, err
			}
			for _, n := range names {
				if m := kernelName.FindStringSubmatch(n); m != nil {
					kernels[m[1]] = found{fs, filepath.Join(dir, n)}
				}
			}
		}
		names, err := fs.list(ctx, "/lib/modules")
		if err != nil {
			return source{}, err
		}
		for _, n := range names {
			modules[n] = p
		}
	}
	best := source{}
	for release, k := range kernels {
		if p, ok := modules[release]; ok && (best.release == "" || newer(release, best.release)) {
			best = source{k.fs, filesystem{debugfs, disk, p.offset}, k.path, release, p.uuid}
		}
	}
	if best.release == "" {
		return source{}, fmt.Errorf("the image has no kernel with modules")
	}
	return best, nil
}

var number = regexp.MustCompile(`[0-9]+|[^0-9]+`)

// newer reports whether release a is later than b: numbers in them are compared as
// numbers.
func newer(a, b string) bool {
	x, y := number.FindAllString(a, -1), number.FindAllString(b, -1)
	for i := range min(len(x), len(y)) {
		if x[i] == y[i] {
			continue
		}
		m, err1 := strconv.Atoi(x[i])
		n, err2 := strconv.Atoi(y[i])
		if err1 == nil && err2 == nil && m != n {
			return m > n
		}
		return x[i] > y[i]
	}
	return len(x) > len(y)
}

// modules returns the modules that a VM needs, in the order in which they load.
func (s *source) modules(ctx context.Context, dir string) ([]module, error) {
	base := "/lib/modules/" + s.release
	dep, err := s.rootFS.read(ctx, dir, []string{base + "/modules.dep"}, maxDepBytes)
	if err != nil {
		return nil, err
	}
	order, err := moduleOrder(string(dep[0]), wanted)
	if err != nil || len(order) == 0 {
		return nil, err
	}
	paths := make([]string, len(order))
	for i, f := range order {
		paths[i] = base + "/" + f
	}
	contents, err := s.rootFS.read(ctx, dir, paths, maxModule)
	if err != nil {
		return nil, err
	}
	out := make([]module, len(order))
	for i, f := range order {
		content, err := unpack(ctx, f, contents[i])
		if err != nil {
			return nil, err
		}
		out[i] = module{moduleName(f), content}
	}
	return out, nil
}
