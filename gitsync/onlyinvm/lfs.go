package onlyinvm

import (
	_ "embed"
	"os"
	"path/filepath"
	"regexp"

	"aivm.dev/aivm/gitsync/compare"
	"aivm.dev/aivm/gitsync/hostgit"
)

// lfsScript lists the names of the clone's git-lfs objects. A fetch transfers only pointers to
// them; git cannot fetch their content.
//
//go:embed lfs.sh
var lfsScript string

// maxLFS bounds the output of lfsScript, in bytes: about 15,000 names.
const maxLFS = 1_000_000

var lfsName = regexp.MustCompile(`^[0-9a-f]{64}$`)

// countLFS counts the git-lfs objects that the repository h lacks, or all of them if h was not
// read.
func (o *Only) countLFS(h compare.Host, hostKnown bool, answer []byte) {
	if len(answer) == maxLFS {
		o.Incomplete = append(o.Incomplete, "it has more git-lfs objects than aivm reads")
	}
	seen := map[string]bool{}
	for _, oid := range hostgit.Lines(answer) {
		if oid == "closed" {
			o.Incomplete = append(o.Incomplete, "the guest user cannot read some of its git-lfs objects")
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
