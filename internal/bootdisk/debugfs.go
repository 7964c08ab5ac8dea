package bootdisk

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"aivm.dev/aivm/internal/capture"
	"aivm.dev/aivm/internal/ui"
)

// program returns the path of a program. Those of administrators are not in every
// user's PATH.
func program(name, pkg string) (string, error) {
	if p, err := exec.LookPath(name); err == nil {
		return p, nil
	}
	for _, dir := range []string{"/usr/sbin", "/sbin"} {
		if p := filepath.Join(dir, name); executable(p) {
			return p, nil
		}
	}
	return "", ui.Failed("%s is not installed", name).Hint(ui.Cmd("sudo apt install " + pkg))
}

func executable(path string) bool {
	st, err := os.Stat(path)
	return err == nil && st.Mode().IsRegular() && st.Mode()&0o111 != 0
}

// filesystem reads an ext4 file system in a raw disk with debugfs. Paths must match
// guestPath, because debugfs splits its commands at blanks.
type filesystem struct {
	debugfs string
	disk    *os.File
	offset  int64
}

var guestPath = regexp.MustCompile(`^(/[A-Za-z0-9_+,.][A-Za-z0-9_+,.-]*)+$`)

// maxListing bounds the listing of a directory.
const maxListing = 4 << 20

// run gives debugfs commands and returns what it writes.
func (f filesystem) run(ctx context.Context, dir string, commands ...string) (string, error) {
	cmd := exec.CommandContext(ctx, f.debugfs, "-f", "-", "/proc/self/fd/3?offset="+strconv.FormatInt(f.offset, 10))
	cmd.Dir = dir
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C", "DEBUGFS_PAGER=cat"}
	cmd.Stdin = strings.NewReader(strings.Join(commands, "\n") + "\n")
	cmd.ExtraFiles = []*os.File{f.disk}
	out, errs := &capture.Head{Limit: maxListing}, &capture.Tail{Limit: 4096}
	cmd.Stdout, cmd.Stderr = out, errs
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("debugfs: %w: %s", err, ui.CleanTo(capture.LastLines(errs.String(), 2, "; "), 300))
	}
	return out.String(), nil
}

// list returns the names in a directory; none if it does not exist.
func (f filesystem) list(ctx context.Context, path string) ([]string, error) {
	if !guestPath.MatchString(path) && path != "/" {
		return nil, fmt.Errorf("%q is not a path that can be listed", path)
	}
	out, err := f.run(ctx, "/", "ls -p "+path)
	if err != nil {
		return nil, err
	}
	var names []string
	for line := range strings.Lines(out) {
		// /inode/mode/uid/gid/name/size/
		part := strings.Split(strings.TrimSpace(line), "/")
		if len(part) == 8 && part[0] == "" && part[1] != "0" {
			names = append(names, part[5])
		}
	}
	return names, nil
}

// dump copies files of the guest to files in dir, which it names 0, 1, 2.
func (f filesystem) dump(ctx context.Context, dir string, paths []string) error {
	var commands []string
	for i, p := range paths {
		if !guestPath.MatchString(p) {
			return fmt.Errorf("%q is not a path that can be read", p)
		}
		commands = append(commands, "dump "+p+" "+strconv.Itoa(i))
	}
	_, err := f.run(ctx, dir, commands...)
	return err
}

// read returns the content of files of the guest, each of at most limit bytes.
func (f filesystem) read(ctx context.Context, dir string, paths []string, limit int64) ([][]byte, error) {
	tmp, err := os.MkdirTemp(dir, "read-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(tmp)
	if err := f.dump(ctx, tmp, paths); err != nil {
		return nil, err
	}
	out := make([][]byte, len(paths))
	for i, p := range paths {
		name := filepath.Join(tmp, strconv.Itoa(i))
		st, err := os.Lstat(name)
		if err != nil || !st.Mode().IsRegular() || st.Size() == 0 {
			return nil, fmt.Errorf("the image has no file %s", p)
		}
		if st.Size() > limit {
			return nil, fmt.Errorf("%s of the image has %d bytes, more than %d", p, st.Size(), limit)
		}
		if out[i], err = os.ReadFile(name); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// unpack returns a module as the kernel loads it.
func unpack(ctx context.Context, file string, content []byte) ([]byte, error) {
	tool, ok := map[string]string{".xz": "xz", ".zst": "zstd", ".gz": "gzip"}[filepath.Ext(file)]
	if !ok {
		return content, nil
	}
	path, err := program(tool, map[string]string{"xz": "xz-utils"}[tool])
	if err != nil {
		return nil, err
	}
	out, errs := &capture.Head{Limit: maxModule}, &capture.Tail{Limit: 1024}
	cmd := exec.CommandContext(ctx, path, "-d", "-c")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(content), out, errs
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("unpacking %s: %w: %s", file, err, ui.CleanTo(errs.String(), 200))
	}
	if out.Over() {
		return nil, fmt.Errorf("unpacking %s: more than %d bytes", file, maxModule)
	}
	return out.Bytes(), nil
}
