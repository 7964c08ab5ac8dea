package record

import (
	"encoding/binary"
	"fmt"
	"slices"

	libvirt "github.com/digitalocean/go-libvirt"
	"libvirt.org/go/libvirtxml"
)

// qcow is a simulated qcow2 file with the parts that aivm reads for snapshots. Each state of the disk
// is a generation with its own L2 table and one cluster.
type qcow struct {
	capacity uint64
	now      int
	last     int
	snaps    []snap
}

type snap struct {
	name string
	gen  int
	at   uint32
}

const cluster = 4 << 10

// bytes encodes the file in the format of QEMU's docs/interop/qcow2.txt.
func (q *qcow) bytes() []byte {
	const l1At, tableAt, l2At = 1, 2, 20
	dataAt := l2At + q.last + 1
	b := make([]byte, (dataAt+q.last+1)*cluster)
	be := binary.BigEndian
	copy(b, "QFI\xfb")
	be.PutUint32(b[4:], 3)
	be.PutUint32(b[20:], 12)
	be.PutUint64(b[24:], q.capacity)
	be.PutUint32(b[36:], 1)
	be.PutUint64(b[40:], l1At*cluster)
	be.PutUint32(b[60:], uint32(len(q.snaps)))
	be.PutUint64(b[64:], tableAt*cluster)
	be.PutUint32(b[96:], 4)
	be.PutUint32(b[100:], 104)
	table := func(gen int) uint64 { return uint64(l2At+gen) * cluster }
	be.PutUint64(b[l1At*cluster:], table(q.now)|1<<63)
	for g := range q.last + 1 {
		be.PutUint64(b[table(g):], uint64(dataAt+g)*cluster|1<<63)
	}
	at := tableAt * cluster
	for i, s := range q.snaps {
		l1 := (3 + i) * cluster
		be.PutUint64(b[l1:], table(s.gen)|1<<63)
		id := fmt.Sprint(i + 1)
		be.PutUint64(b[at:], uint64(l1))
		be.PutUint32(b[at+8:], 1)
		be.PutUint16(b[at+12:], uint16(len(id)))
		be.PutUint16(b[at+14:], uint16(len(s.name)))
		be.PutUint32(b[at+16:], s.at)
		copy(b[at+40:], id+s.name)
		at = (at + 40 + len(id) + len(s.name) + 7) &^ 7
	}
	return b
}

// write changes the disk: its present state becomes a new generation.
func (q *qcow) write() { q.last++; q.now = q.last }

func (l *libvirtd) diskOf(d *domain) *qcow {
	for _, k := range d.config.Devices.Disks {
		if k.Source != nil && k.Source.File != nil {
			if v := l.volumeAt(k.Source.File.File); v != nil && v.disk != nil {
				return v.disk
			}
		}
	}
	return &qcow{}
}

func (l *libvirtd) snapshotCalls() {
	find := func(ref libvirt.DomainSnapshot) (*domain, error) {
		d, err := l.domain(ref.Dom)
		if err == nil && !slices.Contains(d.snaps, ref.Name) {
			err = fail(libvirt.ErrNoDomainSnapshot, "Domain snapshot not found: no domain snapshot with matching name '%s'", ref.Name)
		}
		return d, err
	}
	on(l, 185, func(a libvirt.DomainSnapshotCreateXMLArgs) (r libvirt.DomainSnapshotCreateXMLRet, err error) {
		d, err := l.domain(a.Dom)
		if err != nil {
			return r, err
		}
		l.note(fmt.Sprintf("snapshot (flags %d) of domain %s", a.Flags, d.name), a.XMLDesc)
		var x libvirtxml.DomainSnapshot
		if err := x.Unmarshal(a.XMLDesc); err != nil {
			return r, err
		}
		if a.Flags&uint32(libvirt.DomainSnapshotCreateRedefine) == 0 {
			q := l.diskOf(d)
			q.snaps = append(q.snaps, snap{x.Name, q.now, 1803800000 + 60*uint32(len(q.snaps))})
		}
		d.snaps = append(d.snaps, x.Name)
		r.Snap = libvirt.DomainSnapshot{Name: x.Name, Dom: d.ref()}
		return r, nil
	})
	on(l, 189, func(a libvirt.DomainSnapshotLookupByNameArgs) (r libvirt.DomainSnapshotLookupByNameRet, err error) {
		d, err := find(libvirt.DomainSnapshot{Name: a.Name, Dom: a.Dom})
		if err == nil {
			r.Snap = libvirt.DomainSnapshot{Name: a.Name, Dom: d.ref()}
		}
		return r, err
	})
	on(l, 193, func(a libvirt.DomainSnapshotDeleteArgs) (none, error) {
		d, err := find(a.Snap)
		if err != nil {
			return none{}, err
		}
		l.note(fmt.Sprintf("delete snapshot %s (flags %d) of domain %s", a.Snap.Name, a.Flags, d.name), "")
		d.snaps = slices.DeleteFunc(d.snaps, func(s string) bool { return s == a.Snap.Name })
		if a.Flags&libvirt.DomainSnapshotDeleteMetadataOnly == 0 {
			q := l.diskOf(d)
			q.snaps = slices.DeleteFunc(q.snaps, func(s snap) bool { return s.name == a.Snap.Name })
		}
		return none{}, nil
	})
	on(l, 192, func(a libvirt.DomainRevertToSnapshotArgs) (none, error) {
		d, err := find(a.Snap)
		if err != nil {
			return none{}, err
		}
		l.note(fmt.Sprintf("revert domain %s to snapshot %s", d.name, a.Snap.Name), "")
		q := l.diskOf(d)
		for _, s := range q.snaps {
			if s.name == a.Snap.Name {
				q.now = s.gen
			}
		}
		return none{}, nil
	})
	on(l, 274, func(a libvirt.DomainListAllSnapshotsArgs) (r libvirt.DomainListAllSnapshotsRet, err error) {
		d, err := l.domain(a.Dom)
		if err != nil {
			return r, err
		}
		for _, s := range d.snaps {
			r.Snapshots = append(r.Snapshots, libvirt.DomainSnapshot{Name: s, Dom: d.ref()})
		}
		r.Ret = int32(len(r.Snapshots))
		return r, nil
	})
}
