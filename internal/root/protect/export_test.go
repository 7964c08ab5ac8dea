package protect

import "aivm.dev/aivm/internal/root/mountinfo"

// What the tests of this package look at beside what others use.

var (
	Ensure           = ensure
	KeepsDescriptors = keepsDescriptors
)

// MaxCovered is how many entries of protected directories are looked at.
const MaxCovered = maxCovered

// CoveredFiles are the device and inode of all files that count as protected
// below the mount, each with the path it is protected by.
func CoveredFiles(paths []string, m mountinfo.Mount) (map[[2]uint64]string, error) {
	h := holes{paths: readOnly(paths), found: map[string]string{}}
	err := h.wanted(m)
	out := map[[2]uint64]string{}
	for id, of := range h.files {
		out[[2]uint64{id.dev, id.ino}] = of
	}
	return out, err
}
