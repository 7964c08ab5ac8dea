package onlyinvm

import (
	_ "embed"
	"os"
	"path/filepath"
	"regexp"

	"aivm.dev/aivm/gitsync/compare"
	"aivm.dev/aivm/gitsync/hostgit"
)

// onlyLFS lists the names of what git-lfs keeps for the clone. A fetch brings
// pointers to it, and nothing that can be fetched through git has the content.
//
//go:embed lfs.sh
var onlyLFS string

// maxLFS bounds what onlyLFS may answer: some 15,000 names.
const maxLFS = 1_000_000

var lfsName = regexp.MustCompile(`^[0-9a-f]{64}$`)

// onlyLFS counts the files of git-lfs whose content the repository h lacks, all
// of them where h is not known.
func (o *Only) onlyLFS(h compare.Host, hostKnown bool, said []byte) {
	if len(said) == maxLFS {
		o.Incomplete = append(o.Incomplete, "it has more files of git-lfs than are read")
	}
	seen := map[string]bool{}
	for _, oid := range hostgit.Lines(said) {
		if oid == "closed" {
			o.Incomplete = append(o.Incomplete, "files of git-lfs in it cannot be read by its user")
		}
		if !lfsName.MatchString(oid) || seen[oid] {
			continue
		}
		seen[oid] = true
		if hostKnown {
			if st, err := os.Lstat(filepath.Join(h.Repo.CommonDir, "lfs/objects", hostgit.LFSPath(oid))); err == nil && st.Mode().IsRegular() {
				continue
			}
		}
		o.LFS++
	}
}
