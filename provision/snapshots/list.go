package snapshots

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"github.com/dustin/go-humanize"

	"aivm.dev/aivm/internal/config"
	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/internal/virt"
	"aivm.dev/aivm/provision/domain"
	"aivm.dev/aivm/provision/target"
)

// SnapshotList is the JSON of `vm snapshots`.
type SnapshotList struct {
	Schema    int              `json:"schema"`
	VM        string           `json:"vm"`
	State     string           `json:"state"`
	Disk      ListedDisk       `json:"disk"`
	Snapshots []ListedSnapshot `json:"snapshots"`
	Present   Present          `json:"present"`
}

// ListedDisk is a disk with the space it uses. Sizes are bytes; -1: unknown.
type ListedDisk struct {
	Path      string `json:"path"`
	Capacity  int64  `json:"capacity"`
	Used      int64  `json:"used"`      // on the host
	Snapshots int64  `json:"snapshots"` // the part of Used that only snapshots need
	Free      int64  `json:"free"`      // what QEMU may still write to the file system of Path
}

// ListedSnapshot is one snapshot. Own is how many bytes its deletion frees; -1: unknown.
type ListedSnapshot struct {
	Name    string `json:"name"`
	Parent  string `json:"parent,omitempty"`
	Created string `json:"created,omitempty"`
	Own     int64  `json:"own"`
}

// Present is the disk as it is now.
type Present struct {
	On      string `json:"on,omitempty"` // the snapshot that the disk is based on
	Changed bool   `json:"changed"`
}

// SnapshotListing reads the snapshots of a VM and the space that its disk uses.
func (e Part) SnapshotListing(ctx context.Context, vm string) (SnapshotList, error) {
	out := SnapshotList{Schema: 1, Snapshots: []ListedSnapshot{}}
	var l *virt.Conn
	var f *domain.SnapFacts
	w, d, err := e.findDisk(ctx, vm, func(_ *target.Target, d *virt.Domain) (err error) {
		if l, err = e.Libvirt(ctx); err == nil {
			f, err = domain.ObserveSnapshots(ctx, l, d, true)
		}
		return err
	})
	if err != nil {
		return out, err
	}
	out.VM, out.State = w.Name, string(d.State)
	out.Disk = ListedDisk{Path: f.Disk.File, Capacity: -1, Used: -1, Snapshots: -1, Free: -1}
	// libvirt's figure for the pool includes the blocks that only root may use.
	if free, err := e.Host.DiskFree(filepath.Dir(f.Disk.File)); err == nil {
		out.Disk.Free = int64(free)
	}
	if pool, err := l.PoolAt(ctx, e.BaseDir(w.Record.Paths)); err == nil {
		for _, v := range pool.Volumes {
			if v.Path == f.Disk.File {
				out.Disk.Capacity, out.Disk.Used = int64(v.Capacity), int64(v.Allocation)
			}
		}
	}
	if f.Counted {
		out.Disk.Snapshots = int64(f.Kept)
	}
	for _, s := range f.Snapshots {
		k := ListedSnapshot{Name: s.Name, Parent: s.Parent, Own: -1}
		if !s.At.IsZero() {
			k.Created = s.At.Format(time.RFC3339)
		}
		if f.Counted {
			k.Own = int64(s.Own)
		}
		out.Snapshots = append(out.Snapshots, k)
	}
	out.Present = Present{On: f.Current(), Changed: f.Changed || d.State != virt.Off}
	return out, nil
}

// Names returns the names of a VM's snapshots, newest first, each with its time, for completion: it
// asks no person, uses no root, and returns nothing if anything is missing.
func (e Part) Names(ctx context.Context, vm string) (names, times []string) {
	store, err := config.Load(e.StorePath)
	if err != nil {
		return nil, nil
	}
	r, err := store.Resolve(target.Cwd(), vm)
	if err != nil {
		return nil, nil
	}
	w, err := target.Recorded(store, r.VM)
	if err != nil {
		return nil, nil
	}
	l, err := e.LibvirtAt(ctx, w.Libvirt)
	if err != nil {
		return nil, nil
	}
	d, err := l.Domain(ctx, w.Name)
	if err != nil || !d.Mark.By(e.UID) {
		return nil, nil
	}
	f, err := domain.ObserveSnapshots(ctx, l, d, false)
	if err != nil {
		return nil, nil
	}
	for _, s := range slices.Backward(f.Snapshots) {
		at := ""
		if !s.At.IsZero() {
			at = s.At.Local().Format("2006-01-02 15:04")
		}
		names, times = append(names, s.Name), append(times, at)
	}
	return names, times
}

// Tree returns the listing as lines of text.
func (l SnapshotList) Tree() []string {
	out := []string{fmt.Sprintf("Snapshots of VM %s (%s)", l.VM, l.State)}
	if len(l.Snapshots) == 0 {
		out = append(out, "  (none)")
	}
	var walk func(parent, indent string)
	walk = func(parent, indent string) {
		for _, s := range l.Snapshots {
			if s.Parent != parent {
				continue
			}
			created := "unknown time"
			if t, err := time.Parse(time.RFC3339, s.Created); err == nil {
				created = t.Local().Format("2006-01-02 15:04:05")
			}
			out = append(out, fmt.Sprintf("%s- %s | %s | own=%s", indent, ui.Clean(s.Name), created, size(s.Own)))
			if s.Name == l.Present.On {
				out = append(out, indent+"  - "+l.Present.text())
			}
			walk(s.Name, indent+"  ")
		}
	}
	walk("", "  ")
	if l.Present.On == "" && len(l.Snapshots) > 0 {
		out = append(out, "  - "+l.Present.text())
	}
	disk := fmt.Sprintf("Disk: %s of at most %s used", size(l.Disk.Used), size(l.Disk.Capacity))
	if len(l.Snapshots) > 0 {
		disk += fmt.Sprintf(", %s of it only for snapshots", size(l.Disk.Snapshots))
	}
	return append(out, disk+fmt.Sprintf("; %s free in %s", size(l.Disk.Free), ui.Clean(filepath.Dir(l.Disk.Path))))
}

func (p Present) text() string {
	if p.Changed {
		return "the disk as it is now"
	}
	return "the disk as it is now, unchanged since"
}

func size(n int64) string {
	if n < 0 {
		return "unknown"
	}
	return humanize.IBytes(uint64(n))
}
