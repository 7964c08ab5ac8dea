package share

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"sort"
	"strconv"

	"al.essio.dev/pkg/shellescape"
	"golang.org/x/sys/unix"

	"aivm.dev/aivm/internal/plan"
	"aivm.dev/aivm/internal/root"
	"aivm.dev/aivm/internal/root/mountinfo"
	"aivm.dev/aivm/internal/ui"
)

// A Folder is what is known about one host folder.
type Folder struct {
	Err                error  // why it cannot be shared; the other fields are then not valid
	Dev, Ino           uint64 // of the directory itself
	UID, GID           int
	Groups             []int    // other groups that the guest's user gets in the folder (ownerGroups)
	Type               string   // of its file system: "ext4"
	MountDev           string   // "major:minor" as the mount table has it
	MountRoot          string   // the folder's path inside its file system
	SourceRO           bool     // it lies on a read-only mount, and so will the mount made from it
	Readable, Writable bool     // by the user who runs aivm
	Submounts          []string // mounts below it: the guest sees the directories under them
}

// HostFacts are what ObserveHost read.
type HostFacts struct {
	ExportPath string
	Export     []mountinfo.Mount            // mounts on the export directory, in order
	Tokens     map[string][]mountinfo.Mount // mounts in it, by token
	Folders    map[string]Folder            // by HostPath

	GroupNames map[int]string // of the groups in Folders that have a name

	// Noted is what libvirt's hook mounts before the VM starts, by token; nil if that is
	// not known, as for a VM that an older aivm made.
	Noted map[string]root.Bind

	OpenFiles int // how many files the VM's virtiofsd processes may have open; 0: not known

	vmRuns     bool                       // the VM runs (WithRunning)
	mounts     []mountinfo.Mount          // the complete mount table
	wrongOwner map[string]bool            // tokens whose owner the guest sees wrongly (WithGuestOwners)
	protection map[string]ProtectionFacts // by token (WithProtection)
}

// ObserveHost reads, without any privileges, the mount table (/proc/self/mountinfo if
// table is nil) and the folders. A folder that cannot be used is no error of ObserveHost:
// its Folder.Err says why.
func ObserveHost(vmKey string, atts []Attachment, table []byte) (HostFacts, error) {
	var ms []mountinfo.Mount
	var err error
	if table == nil {
		ms, err = mountinfo.Read(mountinfo.Self)
	} else {
		ms, err = mountinfo.Parse(table)
	}
	if err != nil {
		return HostFacts{}, fmt.Errorf("reading this machine's mounts: %w", err)
	}
	f := HostFacts{Tokens: map[string][]mountinfo.Mount{}, Folders: map[string]Folder{}, mounts: ms}
	if f.ExportPath, err = root.ResolvedExport(vmKey); err != nil {
		return HostFacts{}, err
	}
	f.Export = mountinfo.At(ms, f.ExportPath)
	for _, m := range mountinfo.Below(ms, f.ExportPath) {
		if filepath.Dir(m.Point) == f.ExportPath {
			t := filepath.Base(m.Point)
			f.Tokens[t] = append(f.Tokens[t], m)
		}
	}
	groups := groupLookup{}
	for _, a := range atts {
		folder := observeFolder(a.HostPath, ms)
		if folder.Err == nil && a.Mode.Mounts() {
			folder.Groups = groups.ofOwner(folder.UID, folder.GID)
			f.nameGroups(folder.Groups)
		}
		f.Folders[a.HostPath] = folder
	}
	if m, err := root.ReadVMManifest(vmKey); err == nil {
		f.Noted = map[string]root.Bind{}
		for _, o := range m.Folders {
			f.Noted[o.Token] = o
		}
	}
	return f, nil
}

// observeFolder reads one folder and finds the mount it lies on.
func observeFolder(path string, ms []mountinfo.Mount) Folder {
	if err := checkPath("folder", path); err != nil {
		return Folder{Err: err}
	}
	fd, err := unix.Openat2(unix.AT_FDCWD, path, &unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return Folder{Err: folderError(path, err)}
	}
	defer unix.Close(fd)
	var st unix.Statx_t
	if err := unix.Statx(fd, "", unix.AT_EMPTY_PATH, unix.STATX_BASIC_STATS|unix.STATX_MNT_ID, &st); err != nil {
		return Folder{Err: fmt.Errorf("reading folder %s: %w", path, err)}
	}
	var full unix.Stat_t
	if err := unix.Fstat(fd, &full); err != nil {
		return Folder{Err: fmt.Errorf("reading folder %s: %w", path, err)}
	}
	f := Folder{Dev: full.Dev, Ino: full.Ino, UID: int(full.Uid), GID: int(full.Gid)}
	may := func(mode uint32) bool {
		return unix.Faccessat(unix.AT_FDCWD, path, mode, unix.AT_EACCESS) == nil
	}
	f.Readable, f.Writable = may(unix.R_OK|unix.X_OK), may(unix.W_OK)
	if st.Mask&unix.STATX_MNT_ID == 0 {
		f.Err = ui.Refused("this kernel is too old to share folders safely (5.12 or newer is needed)")
		return f
	}
	// By the mount id, not by the longest prefix of the path: mounts can hide each other.
	m, ok := mountinfo.ByID(ms, int(st.Mnt_id))
	if !ok {
		f.Err = ui.Failed("the mounts around %s changed while they were read", path).Hint(ui.Remark("run the command again"))
		return f
	}
	rel, err := filepath.Rel(m.Point, path)
	if err != nil {
		f.Err = fmt.Errorf("folder %s on mount %s: %w", path, m.Point, err)
		return f
	}
	f.Type, f.MountDev, f.MountRoot, f.SourceRO = m.Type, m.Dev, filepath.Join(m.Root, rel), m.Has("ro")
	for _, sub := range mountinfo.Below(ms, path) {
		f.Submounts = append(f.Submounts, sub.Point)
	}
	return f
}

// folderError words the error of opening a folder.
func folderError(path string, err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return ui.Refused("%w", &kindError{"folder " + path + " does not exist", fs.ErrNotExist})
	case errors.Is(err, unix.ENOTDIR):
		return ui.Refused("%s is not a folder", path)
	case errors.Is(err, unix.ELOOP):
		return ui.Refused("%w", &kindError{"a part of " + path + " is a symbolic link now", ErrLink}).
			Hint(ui.Remark("if that is what you want, attach the folder the link points to"))
	case errors.Is(err, fs.ErrPermission):
		return ui.Refused("you have no permission to access folder %s", path)
	}
	return fmt.Errorf("reading folder %s: %w", path, err)
}

// Mapped reports whether the folder is mounted with mapped owners. If not, guest root
// can create files owned by root on the host.
func (f HostFacts) Mapped(a Attachment) bool {
	l := f.Tokens[Token(a.HostPath)]
	return len(l) == 1 && l[0].Has("idmapped")
}

// Bound reports whether the token of a is mounted as it should be, as far as the host's
// mount table shows, and its protection holds. The table does not show which owner was
// mapped: only the guest sees that (WithGuestOwners).
func (f HostFacts) Bound(a Attachment) bool { return f.Mounted(a) && f.isProtected(a) }

// Mounted reports the same as Bound without the protection.
func (f HostFacts) Mounted(a Attachment) bool {
	folder, ok := f.Folders[a.HostPath]
	token := Token(a.HostPath)
	l := f.Tokens[token]
	if !ok || folder.Err != nil || !f.exportMounted() || len(l) != 1 || f.wrongOwner[token] {
		return false
	}
	m := l[0]
	// The table shows the present path of a mount's root, or "//deleted" for a removed
	// one: the same path on the same file system is the same directory.
	return m.Parent == f.Export[0].ID && m.Dev == folder.MountDev && m.Root == folder.MountRoot &&
		m.Has("nosuid") && m.Has("nodev") && m.Has("ro") == (a.Access == string(ReadOnly) || folder.SourceRO)
}

// hookBinds reports whether libvirt's hook mounts a before the VM starts. A run that was
// killed may have mounted a folder without recording that for the hook; mounting it again
// records it.
func (f HostFacts) hookBinds(a Attachment) bool {
	o, ok := f.Noted[Token(a.HostPath)]
	return f.Noted == nil || ok && o.Src == a.HostPath && o.RO == (a.Access == string(ReadOnly)) && slices.Equal(o.Groups, f.groups(a))
}

// WithRunning returns f for a VM that runs or not. The mount of a folder keeps its groups
// while the VM runs: it cannot be replaced while the guest uses it.
func (f HostFacts) WithRunning(runs bool) HostFacts {
	f.vmRuns = runs
	return f
}

// groups returns the groups that the mount of a should map.
func (f HostFacts) groups(a Attachment) []int {
	if o, ok := f.Noted[Token(a.HostPath)]; ok && f.vmRuns && f.Mounted(a) {
		return o.Groups
	}
	return f.Folders[a.HostPath].Groups
}

// MappedGroups returns the other groups that the folder's present mount maps, or if it is
// not mounted, those that its next mount will map.
func (f HostFacts) MappedGroups(a Attachment) []int { return f.WithRunning(true).groups(a) }

// Unwanted returns the tokens that libvirt's hook would mount although they belong to
// none of atts and are not mounted: an interrupted run recorded them.
func (f HostFacts) Unwanted(atts []Attachment) []string {
	var out []string
	for t := range f.Noted {
		wanted := slices.ContainsFunc(atts, func(a Attachment) bool { return Token(a.HostPath) == t })
		if !wanted && len(f.Tokens[t]) == 0 {
			out = append(out, t)
		}
	}
	slices.Sort(out)
	return out
}

// exportMounted reports whether the export directory is a single mount with shared
// propagation.
func (f HostFacts) exportMounted() bool {
	if len(f.Export) != 1 {
		return false
	}
	_, shared := f.Export[0].Shared()
	return shared
}

// Strays returns the tokens that are mounted and belong to none of atts.
func (f HostFacts) Strays(atts []Attachment) []string {
	wanted := map[string]bool{}
	for _, a := range atts {
		wanted[Token(a.HostPath)] = true
	}
	var out []string
	for t := range f.Tokens {
		if !wanted[t] {
			out = append(out, t)
		}
	}
	sort.Strings(out)
	return out
}

// PlanHost plans the host's mounts for atts; no actions if they are all as they should
// be. isNew (nil: none) reports which folders were not approved before: only they need
// consent. Folders that cannot be shared are left out and returned as joined
// FolderErrors together with the actions for the others.
func PlanHost(f HostFacts, vmKey string, atts []Attachment, isNew func(Attachment) bool) ([]plan.Action, error) {
	if err := check(atts); err != nil {
		return nil, err
	}
	consent := func(a Attachment) plan.Consent {
		if isNew != nil && isNew(a) {
			return plan.Ask
		}
		return plan.None
	}
	var binds []plan.Action
	var errs []error
	anyNew := plan.None
	for _, a := range atts {
		folder, ok := f.Folders[a.HostPath]
		if !ok {
			return nil, fmt.Errorf("share: folder %s was not observed", a.HostPath)
		}
		if err := usable(a, folder); err != nil {
			errs = append(errs, &FolderError{a.HostPath, err})
			continue
		}
		if consent(a) == plan.Ask {
			anyNew = plan.Ask
		}
		if f.Bound(a) && f.hookBinds(a) {
			continue
		}
		op := root.Bind{
			Src: a.HostPath, VMKey: vmKey, Token: Token(a.HostPath), RO: a.Access == string(ReadOnly),
			UID: folder.UID, GID: folder.GID, Groups: f.groups(a), Dev: folder.Dev, Ino: folder.Ino,
		}
		op.Own = a.Mode == Shared
		how := "read and write"
		if op.RO {
			how = "read only"
		}
		if a.Protect {
			op.Protect = f.protection[op.Token].Paths
			how = "read and write, " + strconv.Itoa(len(op.Protect)) + " paths protected"
		}
		binds = append(binds, plan.Action{
			ID:      "share.bind:" + op.Token,
			Why:     fmt.Sprintf("share folder %s with VM %s (%s)", a.HostPath, a.VM, how),
			Shows:   op.Shows(),
			Consent: consent(a),
			Root:    op,
			Timing:  "share",
		})
	}
	var out []plan.Action
	// A VM without folders also needs the export directory: its device serves it.
	if !f.exportMounted() || !f.Export[0].Has("ro") {
		op := root.Export{VMKey: vmKey}
		out = append(out, plan.Action{
			ID: "share.export", Why: "create the export directory for this VM's shared folders",
			Shows: op.Shows(), Consent: anyNew, Root: op, Timing: "share",
		})
	}
	return append(out, binds...), errors.Join(errs...)
}

// usable checks that the user who runs aivm may do with the folder what the guest will
// be able to do: root mounts it, but must not give the guest more rights than the user
// has.
func usable(a Attachment, f Folder) error {
	switch {
	case f.Err != nil:
		return f.Err
	case !f.Readable:
		return ui.Refused("folder %s cannot be shared: you have no permission to read it", a.HostPath)
	case a.Access == string(ReadWrite) && !f.Writable:
		return ui.Refused("folder %s can only be shared read-only: you have no permission to write it", a.HostPath).
			Hint(ui.Remark("to share it read-only: --access ro"))
	}
	return nil
}

func quote(s string) string { return shellescape.Quote(s) }
