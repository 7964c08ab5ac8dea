package oneshot

import (
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"unicode/utf8"

	"aivm.dev/aivm/internal/guestd"
	"aivm.dev/aivm/internal/ui"
)

// Workspace is the second guest path of the folder.
const Workspace = "/workspace"

// GuestHome is the home of the guest user.
const GuestHome = "/home/user"

// Folder is a folder of this machine in the VM.
type Folder struct {
	Host     string // with links resolved
	Guest    string
	Also     []string // further guest paths
	ReadOnly bool
	current  bool // the folder the run was started in
}

// guestSystem are directories of a guest in which no folder is mounted.
var guestSystem = []string{"/bin", "/boot", "/dev", "/etc", "/lib", "/lib32", "/lib64", "/libx32", "/proc", "/run", "/sbin", "/sys", "/usr", "/lost+found", "/var/lib", "/var/cache", "/var/log", "/var/run", "/var/lock"}

// guestTops are directories of a guest that no folder may hide; folders may be mounted below them.
var guestTops = []string{"/", "/home", "/root", "/var", "/tmp", "/opt", "/srv", "/mnt", "/media", GuestHome}

// conflicts reports whether a folder cannot be mounted at a path of the guest.
func conflicts(guest string) bool {
	return slices.Contains(guestTops, guest) || slices.ContainsFunc(guestSystem, func(d string) bool { return guest == d || strings.HasPrefix(guest, d+"/") })
}

// parseMount reads a value of --mount.
func parseMount(s, cwd string) (Folder, error) {
	bad := func(why string) error {
		return ui.Usage("--mount %q: %s", ui.CleanTo(s, 200), why).Hint(ui.Remark("a mount is HOST[:GUEST][:ro]"))
	}
	rest, readOnly := strings.CutSuffix(s, ":ro")
	if !readOnly {
		rest = strings.TrimSuffix(rest, ":rw")
	}
	host, guest, both := strings.Cut(rest, ":")
	if host == "" {
		return Folder{}, bad("the folder on this machine is missing")
	}
	if !filepath.IsAbs(host) {
		host = filepath.Join(cwd, host)
	}
	real, err := realFolder(host)
	if err != nil {
		return Folder{}, bad(err.Error())
	}
	if !both {
		guest = real
	}
	switch {
	case strings.ContainsAny(guest, "\x00\n") || strings.Contains(guest, ":") || !utf8.ValidString(guest):
		return Folder{}, bad("the guest path has a character that it cannot have")
	case !path.IsAbs(guest):
		return Folder{}, bad("the guest path does not begin with /")
	case len(guest) > 4000:
		return Folder{}, bad("the guest path is too long")
	}
	guest = path.Clean(guest)
	if conflicts(guest) || guest == Workspace {
		return Folder{}, bad("the guest has something else at " + guest)
	}
	return Folder{Host: real, Guest: guest, ReadOnly: readOnly}, nil
}

// realFolder returns the path of a folder with its links resolved.
func realFolder(dir string) (string, error) {
	real, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return "", err
	}
	st, err := os.Stat(real)
	switch {
	case err != nil:
		return "", err
	case !st.IsDir():
		return "", fmt.Errorf("%s is not a folder", real)
	case !utf8.ValidString(real) || strings.ContainsAny(real, "\n\x00"):
		return "", fmt.Errorf("the path of the folder is not valid UTF-8 or has a line break")
	}
	return real, nil
}

// Folders returns what a run started in cwd has of this machine. The first one is cwd, unless
// --workspace is none. note is what the user is to know about it.
func (o Options) Folders(cwd string) (folders []Folder, note string, err error) {
	if o.Workspace != WorkspaceNone {
		real, err := realFolder(cwd)
		if err != nil {
			return nil, "", ui.Refused("the folder of the run: %w", err)
		}
		f := Folder{Host: real, Guest: real, Also: []string{Workspace}, ReadOnly: o.Workspace == WorkspaceRO, current: true}
		switch {
		case real == Workspace:
			f.Also = nil
		case conflicts(real):
			f, note = f.onlyWorkspace()
		}
		folders = append(folders, f)
	}
	for _, m := range o.Mounts {
		f, err := parseMount(m, cwd)
		if err != nil {
			return nil, "", err
		}
		if i := slices.IndexFunc(folders, func(g Folder) bool { return g.Guest == f.Guest || slices.Contains(g.Also, f.Guest) }); i >= 0 {
			return nil, "", ui.Usage("%s and %s are both at %s in the guest", ui.Clean(folders[i].Host), ui.Clean(f.Host), ui.Clean(f.Guest))
		}
		folders = append(folders, f)
	}
	return folders, note, checkReadOnly(folders)
}

// checkReadOnly refuses a read-only folder that lies in one that the guest can write.
func checkReadOnly(folders []Folder) error {
	for _, f := range folders {
		if i := slices.IndexFunc(folders, func(g Folder) bool { return f.ReadOnly && !g.ReadOnly && within(f.Host, g.Host) }); i >= 0 {
			return ui.Usage("%s would be read-only, but it lies in %s, which the guest can write", ui.Clean(f.Host), ui.Clean(folders[i].Host))
		}
	}
	return nil
}

// within reports whether p is dir or lies below it.
func within(p, dir string) bool {
	return p == dir || strings.HasPrefix(p, strings.TrimSuffix(dir, "/")+"/")
}

// onlyWorkspace returns the folder with /workspace as its only guest path, and what to say about it.
func (f Folder) onlyWorkspace() (Folder, string) {
	note := fmt.Sprintf("the guest has something else at %s: the folder is at %s in it", ui.Clean(f.Guest), Workspace)
	f.Guest, f.Also = Workspace, nil
	return f, note
}

// mounts returns what the guest mounts, each folder after those that hold its guest path.
func mounts(folders []Folder) []guestd.Mount {
	var out []guestd.Mount
	for i, f := range folders {
		out = append(out, guestd.Mount{Export: i, Path: f.Guest, Also: f.Also, ReadOnly: f.ReadOnly, Transport: "relay"})
	}
	slices.SortStableFunc(out, func(a, b guestd.Mount) int { return strings.Count(a.Path, "/") - strings.Count(b.Path, "/") })
	return out
}
