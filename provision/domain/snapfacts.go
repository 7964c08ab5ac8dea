package domain

import (
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"slices"
	"sort"
	"strings"
	"time"

	"aivm.dev/aivm/internal/virt"
)

// Snapshots has the libvirt calls of the snapshot commands.
type Snapshots interface {
	Domain(ctx context.Context, name string) (*virt.Domain, error)
	InactiveXML(ctx context.Context, name string) (string, error)
	CreateSnapshot(ctx context.Context, name, desc string) error
	ForgetSnapshot(ctx context.Context, name, snapshot string) error
	RedefineSnapshot(ctx context.Context, name, snapshot, desc string) error
	RevertSnapshot(ctx context.Context, name, snapshot string) error
	DeleteSnapshot(ctx context.Context, name, snapshot string) error
	Snapshots(ctx context.Context, name string) ([]string, error)
	Metadata(ctx context.Context, name, uri string) (string, error)
	SetMetadata(ctx context.Context, name, prefix, uri, element string) error
	ReadVolume(ctx context.Context, path string, offset, n uint64) ([]byte, error)
}

// Snapshot is one saved state of a disk.
type Snapshot struct {
	Name    string
	Parent  string // "" = it has none, or it is not known
	At      time.Time
	Own     uint64 // bytes that only this snapshot holds
	Current bool   // the present disk is based on it
}

// SnapFacts is what is known about the snapshots of a VM's disk. What is in the disk's
// file counts; libvirt's list and the tree are corrected by it.
type SnapFacts struct {
	Disk      virt.Disk
	Snapshots []Snapshot // oldest first
	Kept      uint64     // bytes held for snapshots and not used by the present disk
	Counted   bool       // Own and Kept are known
	Changed   bool       // the present disk differs from the snapshot it is based on
}

// Find returns the snapshot of that name.
func (f *SnapFacts) Find(name string) (Snapshot, bool) {
	i := slices.IndexFunc(f.Snapshots, func(s Snapshot) bool { return s.Name == name })
	if i < 0 {
		return Snapshot{}, false
	}
	return f.Snapshots[i], true
}

// Current returns the name of the snapshot the present disk is based on; "" for none.
func (f *SnapFacts) Current() string {
	for _, s := range f.Snapshots {
		if s.Current {
			return s.Name
		}
	}
	return ""
}

const (
	treeNS     = "urn:aivm:snapshots:1"
	treePrefix = "aivms"
)

// tree records which snapshot is based on which. Only aivm knows that, and stores it in the
// domain's metadata. libvirt adds and removes the XML namespace.
type tree struct {
	XMLName xml.Name `xml:"snapshots"`
	Current string   `xml:"current,attr,omitempty"`
	Known   []branch `xml:"snapshot"`
}

type branch struct {
	Name   string `xml:"name,attr"`
	Parent string `xml:"parent,attr,omitempty"`
}

// parseTree parses the metadata element; an invalid one gives an empty tree.
func parseTree(element string) tree {
	var t tree
	if element == "" || xml.Unmarshal([]byte(element), &t) != nil {
		return tree{}
	}
	return t
}

func (t *tree) add(name, parent string) { t.Known = append(t.Known, branch{name, parent}) }

func (t *tree) has(name string) bool {
	return slices.ContainsFunc(t.Known, func(k branch) bool { return k.Name == name })
}

// ObserveSnapshots reads the snapshots of a domain's disk. With sizes it also reads their
// sizes, for which it reads more of the file.
func ObserveSnapshots(ctx context.Context, l Snapshots, d *virt.Domain, sizes bool) (*SnapFacts, error) {
	f := &SnapFacts{}
	disk, ok := mainDisk(d)
	if !ok {
		return nil, fmt.Errorf("the VM %q has no disk in a file", d.Name)
	}
	f.Disk = disk
	element, err := l.Metadata(ctx, d.Name, treeNS)
	if err != nil {
		return nil, err
	}
	t := parseTree(element)
	read := func(at, n uint64) ([]byte, error) { return l.ReadVolume(ctx, disk.File, at, n) }
	q, err := readQcow2(read)
	if errors.Is(err, virt.ErrNotFound) {
		// The disk is not in a pool: libvirt's list is the only source.
		names, err := l.Snapshots(ctx, d.Name)
		if err != nil {
			return nil, err
		}
		for _, n := range names {
			f.Snapshots = append(f.Snapshots, Snapshot{Name: n})
		}
		f.Changed = true
		f.applyTree(t)
		return f, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the snapshots in %s: %w", disk.File, err)
	}
	f.fill(q, t)
	if !sizes {
		return f, nil
	}
	u, err := q.count(read)
	if err != nil {
		return nil, fmt.Errorf("reading the sizes of the snapshots in %s: %w", disk.File, err)
	}
	f.Counted, f.Kept = true, u.kept
	for i, s := range q.snapshots {
		if k := slices.IndexFunc(f.Snapshots, func(o Snapshot) bool { return o.Name == s.name }); k >= 0 {
			f.Snapshots[k].Own += u.own[i]
		}
	}
	return f, nil
}

// fill sets the snapshots from the disk's file and the tree.
func (f *SnapFacts) fill(q *qcow2, t tree) {
	order := slices.Clone(q.snapshots)
	sort.SliceStable(order, func(i, j int) bool { return order[i].at.Before(order[j].at) })
	f.Changed = true
	same := ""
	for _, s := range order {
		if _, twice := f.Find(s.name); twice || s.name == "" {
			continue // libvirt knows snapshots by their names
		}
		f.Snapshots = append(f.Snapshots, Snapshot{Name: s.name, At: s.at})
		if q.equals(s) && (same == "" || s.name == t.Current || same != t.Current) {
			same = s.name
		}
	}
	f.applyTree(t)
	if same != "" {
		// The disk's content counts, not the tree: a run may have been killed before it
		// recorded what it had done.
		f.Changed = false
		for i := range f.Snapshots {
			f.Snapshots[i].Current = f.Snapshots[i].Name == same
		}
	}
}

// applyTree sets parents and the current snapshot from the recorded tree. A snapshot that is
// not recorded was made by a run that was killed right after: its parent is the snapshot
// that was current then, and the present disk is based on it.
func (f *SnapFacts) applyTree(t tree) {
	parents := map[string]string{}
	for _, k := range t.Known {
		parents[k.Name] = k.Parent
	}
	current := t.Current
	for i := range f.Snapshots {
		s := &f.Snapshots[i]
		if t.has(s.Name) {
			s.Parent = parents[s.Name]
		} else {
			s.Parent, current = current, s.Name
		}
	}
	// The children of a deleted snapshot get its parent.
	exists := func(n string) bool { _, ok := f.Find(n); return ok }
	up := func(n string) string {
		for range len(t.Known) + 1 {
			if n == "" || exists(n) {
				return n
			}
			n = parents[n]
		}
		return ""
	}
	for i := range f.Snapshots {
		f.Snapshots[i].Parent = up(f.Snapshots[i].Parent)
		f.Snapshots[i].Current = f.Snapshots[i].Name == up(current)
	}
	f.breakCycles()
}

// breakCycles removes the parent of a snapshot that is its own ancestor. Everybody who may
// talk to libvirt can write the metadata, and snapshots in a cycle would be missing from
// every listing.
func (f *SnapFacts) breakCycles() {
	for i := range f.Snapshots {
		s := &f.Snapshots[i]
		up := s.Parent
		for range f.Snapshots {
			if up == "" {
				break
			}
			if up == s.Name {
				s.Parent = ""
				break
			}
			p, _ := f.Find(up)
			up = p.Parent
		}
	}
}

// tree returns the tree to record for f, with the given current snapshot.
func (f *SnapFacts) tree(current string) tree {
	t := tree{Current: current}
	for _, s := range f.Snapshots {
		t.add(s.Name, s.Parent)
	}
	return t
}

// treeWithout returns the tree after a snapshot is deleted: its children get its parent.
func (f *SnapFacts) treeWithout(name string) tree {
	gone, _ := f.Find(name)
	to := func(n string) string {
		if n == name {
			return gone.Parent
		}
		return n
	}
	t := tree{Current: to(f.Current())}
	for _, s := range f.Snapshots {
		if s.Name != name {
			t.add(s.Name, to(s.Parent))
		}
	}
	return t
}

func (t tree) encode() (string, error) {
	b, err := xml.Marshal(t)
	return strings.TrimSpace(string(b)), err
}
