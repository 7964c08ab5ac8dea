package protect

import "aivm.dev/aivm/internal/root/mountinfo"

// Unexported names that the tests of this package use.

var (
	AddMissing       = addMissing
	KeepsDescriptors = keepsDescriptors
)

// MaxCovered is the most entries of protected directories that are counted.
const MaxCovered = maxCovered

// CoveredFiles returns the device and inode of all files that count as protected
// below the mount, each with the protected path it belongs to.
func CoveredFiles(paths []string, m mountinfo.Mount) (map[[2]uint64]string, error) {
	s := openScan{paths: readOnly(paths), found: map[string]string{}}
	err := s.listProtected(m)
	out := map[[2]uint64]string{}
	for id, of := range s.files {
		out[[2]uint64{id.dev, id.ino}] = of
	}
	return out, err
}
