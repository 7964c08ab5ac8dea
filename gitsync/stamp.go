package gitsync

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// Stamp is a digest of all that a look at the repository hangs on: what is
// checked out, the refs that matter, the configuration. Where it is what it was
// when there was nothing to do, the look can be left out, and with it every
// process. ok is false where refs are not files.
func Stamp(r Repo, remote string) (stamp string, ok bool) {
	if _, err := os.Lstat(filepath.Join(r.CommonDir, "reftable")); !errors.Is(err, fs.ErrNotExist) {
		return "", false
	}
	h := sha256.New()
	content := func(path string) bool {
		st, err := os.Lstat(path)
		if errors.Is(err, fs.ErrNotExist) {
			fmt.Fprintf(h, "%q none\n", path)
			return true
		}
		if err != nil || !st.Mode().IsRegular() || st.Size() > 4096 {
			return false
		}
		b, err := os.ReadFile(path)
		fmt.Fprintf(h, "%q %q\n", path, b)
		return err == nil
	}
	// Files that may be long are known by what every write of git's changes.
	identity := func(path string) bool {
		st, err := os.Stat(path)
		if errors.Is(err, fs.ErrNotExist) {
			fmt.Fprintf(h, "%q none\n", path)
			return true
		}
		if err != nil {
			return false
		}
		fmt.Fprintf(h, "%q %d %d %s\n", path, st.Size(), st.ModTime().UnixNano(), inode(st))
		return true
	}
	tree := func(dir string) bool {
		n := 0
		err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
			if n++; errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			if err != nil || n > 5000 {
				return errors.Join(err, errTooBig)
			}
			if !d.IsDir() && !content(p) {
				return errTooBig
			}
			return nil
		})
		return err == nil
	}
	head := filepath.Join(r.GitDir, "HEAD")
	if !content(head) {
		return "", false
	}
	text, err := readSmall(head)
	branch, isRef := strings.CutPrefix(strings.TrimRight(text, "\n"), "ref: refs/heads/")
	if err != nil || !isRef || !BranchName(branch) {
		return "", false
	}
	ok = content(filepath.Join(r.CommonDir, "refs/heads", branch)) && identity(filepath.Join(r.CommonDir, "packed-refs")) &&
		identity(filepath.Join(r.CommonDir, "config")) && identity(filepath.Join(r.CommonDir, "shallow")) &&
		tree(filepath.Join(r.CommonDir, "refs/tags")) && tree(filepath.Join(r.CommonDir, "refs/remotes", remote))
	return hex.EncodeToString(h.Sum(nil)), ok
}

// GuestStamp is a digest of what the guest's probe said.
func GuestStamp(answer []byte) string {
	sum := sha256.Sum256(answer)
	return hex.EncodeToString(sum[:])
}

func inode(st fs.FileInfo) string {
	if s, ok := st.Sys().(*syscall.Stat_t); ok {
		return fmt.Sprint(s.Dev, " ", s.Ino, " ", s.Ctim.Nano())
	}
	return ""
}
