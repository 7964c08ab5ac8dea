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

// Stamp fingerprints everything Observe's result depends on: HEAD, the refs of the branch, tags and
// remote, and the configuration. If the stamp is the same as after a run with nothing to do,
// Observe and its git processes can be skipped. ok is false if the refs are not small files.
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
	// Long files are identified by metadata that changes with every write by git.
	metadata := func(path string) bool {
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
				return errors.Join(err, errNotSmallFiles)
			}
			if !d.IsDir() && !content(p) {
				return errNotSmallFiles
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
	ok = content(filepath.Join(r.CommonDir, "refs/heads", branch)) && metadata(filepath.Join(r.CommonDir, "packed-refs")) &&
		metadata(filepath.Join(r.CommonDir, "config")) && metadata(filepath.Join(r.CommonDir, "shallow")) &&
		tree(filepath.Join(r.CommonDir, "refs/tags")) && tree(filepath.Join(r.CommonDir, "refs/remotes", remote))
	return hex.EncodeToString(h.Sum(nil)), ok
}

// GuestStamp returns a digest of the guest's probe output.
func GuestStamp(answer []byte) string {
	sum := sha256.Sum256(answer)
	return hex.EncodeToString(sum[:])
}

// errNotSmallFiles ends a walk over refs that Stamp cannot read as small files.
var errNotSmallFiles = errors.New("refs are not small files")
