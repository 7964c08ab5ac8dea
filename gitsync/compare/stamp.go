package compare

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"aivm.dev/aivm/gitsync/hostgit"
)

// Stamp is a digest of all that a look at the repository hangs on: what is
// checked out, the refs that matter, the configuration. Where it is what it was
// when there was nothing to do, the look can be left out, and with it every
// process. ok is false where refs are not files.
func Stamp(r hostgit.Repo, remote string) (stamp string, ok bool) {
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
	known := func(path string) bool {
		st, err := os.Stat(path)
		if errors.Is(err, fs.ErrNotExist) {
			fmt.Fprintf(h, "%q none\n", path)
			return true
		}
		if err != nil {
			return false
		}
		fmt.Fprintf(h, "%q %s\n", path, hostgit.Identity(st))
		return true
	}
	tree := func(dir string) bool {
		n := 0
		err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
			if n++; errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			if err != nil || n > 5000 {
				return errors.Join(err, errUncounted)
			}
			if !d.IsDir() && !content(p) {
				return errUncounted
			}
			return nil
		})
		return err == nil
	}
	head := filepath.Join(r.GitDir, "HEAD")
	if !content(head) {
		return "", false
	}
	text, err := hostgit.ReadSmall(head)
	branch, isRef := strings.CutPrefix(strings.TrimRight(text, "\n"), "ref: refs/heads/")
	if err != nil || !isRef || !BranchName(branch) {
		return "", false
	}
	ok = content(filepath.Join(r.CommonDir, "refs/heads", branch)) && known(filepath.Join(r.CommonDir, "packed-refs")) &&
		known(filepath.Join(r.CommonDir, "config")) && known(filepath.Join(r.CommonDir, "shallow")) &&
		tree(filepath.Join(r.CommonDir, "refs/tags")) && tree(filepath.Join(r.CommonDir, "refs/remotes", remote))
	return hex.EncodeToString(h.Sum(nil)), ok
}

// GuestStamp is a digest of what the guest's probe said.
func GuestStamp(answer []byte) string {
	sum := sha256.Sum256(answer)
	return hex.EncodeToString(sum[:])
}

// errUncounted ends a walk over refs that cannot be told by their files.
var errUncounted = errors.New("refs that are no small files")
