package record

import (
	"context"
	"os"
)

// A Result is what an action leaves behind for its caller.
type Result struct {
	File *os.File // an open descriptor passed back, or nil; the caller closes it
	Note string   // what a person should know although it worked, or ""
}

// Progress is told what an action is doing now. fraction is 0 to 1, or less
// than 0 when it is not known.
type Progress = func(line string, fraction float64)

// A BuildFunc makes a bootable image inside dir (an empty directory of root's)
// and returns the path of the finished file in it. It leaves nothing mounted
// below dir, also when ctx ends.
type BuildFunc func(ctx context.Context, dir string, progress Progress) (path string, err error)
