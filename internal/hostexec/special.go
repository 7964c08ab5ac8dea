package hostexec

import (
	"context"
	"fmt"
	"io/fs"
	"sort"
	"time"

	"golang.org/x/sys/unix"

	"aivm.dev/aivm/internal/hostfile"
)

// A Special is a file that can give privileges to a user who opens or runs it: a device node, or a
// file with the setuid or setgid bit.
type Special struct {
	Path  string // relative to the folder; any bytes
	What  string // "block device 8:0", "character device 1:3", "setuid", "setgid", "setuid and setgid"
	Owner uint32 // uid
}

// Specials is the result of one search of a folder for such files.
type Specials struct {
	Files []Special // sorted by Path
	Cut   string    // why the search is incomplete, "" if it is complete
}

// Limits of a search (hostfile.Search).
const (
	maxSpecials    = 200
	specialEntries = 300_000
	specialTime    = 4 * time.Second
)

// FindSpecial searches a folder for device nodes, and for setuid and setgid files whose inode
// changed after since: older ones existed before the guest could write.
func FindSpecial(ctx context.Context, dir string, since time.Time) (Specials, error) {
	found := Specials{}
	search := hostfile.Search{Entries: specialEntries, Time: specialTime}
	search.Visit = func(v hostfile.Visited) {
		if v.IsDir() || v.Type()&fs.ModeSymlink != 0 {
			return
		}
		st, ok := v.Stat()
		if !ok {
			return
		}
		what := special(st, since)
		switch {
		case what == "":
		case len(found.Files) == maxSpecials:
			search.End("it has more than %d such files", maxSpecials)
		default:
			found.Files = append(found.Files, Special{Path: v.Rel, What: what, Owner: st.Uid})
		}
	}
	if err := search.Run(ctx, dir); err != nil {
		return Specials{}, fmt.Errorf("searching %s for device nodes and setuid files: %w", dir, err)
	}
	found.Cut = search.Cut
	sort.Slice(found.Files, func(i, j int) bool { return found.Files[i].Path < found.Files[j].Path })
	return found, nil
}

// special returns what is special about a file, "" if nothing is.
func special(st unix.Stat_t, since time.Time) string {
	major, minor := unix.Major(st.Rdev), unix.Minor(st.Rdev)
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFBLK:
		return fmt.Sprintf("block device %d:%d", major, minor)
	case unix.S_IFCHR:
		if st.Rdev == 0 {
			return "" // overlayfs marks deleted files with device 0:0, which is no real device
		}
		return fmt.Sprintf("character device %d:%d", major, minor)
	case unix.S_IFREG:
		if !time.Unix(st.Ctim.Unix()).After(since) {
			return ""
		}
		// setgid has no effect unless the group may execute the file.
		setgid := st.Mode&unix.S_ISGID != 0 && st.Mode&unix.S_IXGRP != 0
		switch {
		case st.Mode&unix.S_ISUID != 0 && setgid:
			return "setuid and setgid"
		case st.Mode&unix.S_ISUID != 0:
			return "setuid"
		case setgid:
			return "setgid"
		}
	}
	return ""
}
