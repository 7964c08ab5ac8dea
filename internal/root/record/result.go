package record

import (
	"context"
	"os"
)

// A Result is what an action returns to its caller.
type Result struct {
	File *os.File // an open descriptor passed back, or nil; the caller closes it
	Note string   // a remark for the user on an action that succeeded, or ""
}

// Progress receives what an action is doing. fraction is 0 to 1, or less than 0
// when it is not known.
type Progress = func(line string, fraction float64)

// A BuildFunc makes a bootable image inside dir (an empty directory of root's)
// and returns the path of the finished file in it. When it returns, nothing is
// mounted below dir, also when ctx ended.
type BuildFunc func(ctx context.Context, dir string, progress Progress) (path string, err error)
