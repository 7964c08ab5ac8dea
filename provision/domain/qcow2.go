package domain

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"time"
)

// readAt reads n bytes at an offset of a disk's file.
type readAt func(offset, n uint64) ([]byte, error)

// qcow2 has the parts of a disk's file that describe its snapshots. QEMU's
// docs/interop/qcow2.txt has the format.
type qcow2 struct {
	clusterBits uint
	entry       uint64 // bytes of an L2 entry
	capacity    uint64
	active      []uint64 // the L1 table of the present disk
	snapshots   []innerSnapshot
	leastExtra  uint64 // bytes of further data that each entry of the snapshot table has at least
}

// innerSnapshot is one snapshot inside the file.
type innerSnapshot struct {
	id, name string
	at       time.Time
	l1       []uint64
}

const (
	// maxSnapshots is how many snapshots are read, maxL1 the entries of one L1 table (a disk
	// of 64 TB has 131072), and maxTables the entries of all L1 tables together, which take
	// 128 MB: a damaged file can name one table 4096 times.
	maxSnapshots = 4096
	maxL1        = 1 << 17
	maxTables    = 1 << 24
	offsetMask   = 0x00fffffffffffe00
	extendedL2   = 1 << 4
	compressed   = 1 << 62
)

var errNotQcow2 = errors.New("not a qcow2 file")

// readQcow2 reads header, snapshot table and L1 tables.
func readQcow2(read readAt) (*qcow2, error) {
	h, err := read(0, 104)
	if err != nil {
		return nil, err
	}
	be32, be64 := binary.BigEndian.Uint32, binary.BigEndian.Uint64
	version := be32(h[4:])
	q := &qcow2{clusterBits: uint(be32(h[20:])), capacity: be64(h[24:]), entry: 8, leastExtra: math.MaxUint64}
	if string(h[:4]) != "QFI\xfb" || version < 2 || version > 3 || q.clusterBits < 9 || q.clusterBits > 21 {
		return nil, errNotQcow2
	}
	if version == 3 && be64(h[72:])&extendedL2 != 0 {
		q.entry = 16
	}
	if q.active, err = readL1(read, be64(h[40:]), be32(h[36:])); err != nil {
		return nil, err
	}
	n, at := be32(h[60:]), be64(h[64:])
	if n > maxSnapshots {
		return nil, fmt.Errorf("%w: its header claims %d snapshots", errNotQcow2, n)
	}
	total := len(q.active)
	for range n {
		e, err := read(at, 40)
		if err != nil {
			return nil, err
		}
		idLen, nameLen, extra := uint64(binary.BigEndian.Uint16(e[12:])), uint64(binary.BigEndian.Uint16(e[14:])), uint64(be32(e[36:]))
		if extra > 1<<16 {
			return nil, fmt.Errorf("%w: damaged snapshot table", errNotQcow2)
		}
		q.leastExtra = min(q.leastExtra, extra)
		text, err := read(at+40+extra, idLen+nameLen)
		if err != nil {
			return nil, err
		}
		s := innerSnapshot{id: string(text[:idLen]), name: string(text[idLen:]), at: time.Unix(int64(be32(e[16:])), int64(be32(e[20:])))}
		if total += int(be32(e[8:])); total > maxTables {
			return nil, fmt.Errorf("%w: the tables of its snapshots are too large", errNotQcow2)
		}
		if s.l1, err = readL1(read, be64(e), be32(e[8:])); err != nil {
			return nil, err
		}
		q.snapshots = append(q.snapshots, s)
		at = (at + 40 + extra + idLen + nameLen + 7) &^ 7
	}
	return q, nil
}

// readL1 reads an L1 table of n entries at an offset, and masks the flags off.
func readL1(read readAt, at uint64, n uint32) ([]uint64, error) {
	if n > maxL1 {
		return nil, fmt.Errorf("%w: damaged table", errNotQcow2)
	}
	if n == 0 {
		return nil, nil
	}
	b, err := read(at, uint64(n)*8)
	if err != nil {
		return nil, err
	}
	out := make([]uint64, n)
	for i := range out {
		out[i] = binary.BigEndian.Uint64(b[i*8:]) & offsetMask
	}
	return out, nil
}

// equals reports whether the present disk is exactly what a snapshot holds. A write to the
// disk after the snapshot would have given it an L2 table of its own.
func (q *qcow2) equals(s innerSnapshot) bool {
	for i := range max(len(q.active), len(s.l1)) {
		if tableAt(q.active, i) != tableAt(s.l1, i) {
			return false
		}
	}
	return true
}

// tableAt returns the ith entry of an L1 table, 0 beyond its end.
func tableAt(l1 []uint64, i int) uint64 {
	if i < len(l1) {
		return l1[i]
	}
	return 0
}

// usage is how many bytes of the file the snapshots hold.
type usage struct {
	own  []uint64 // by snapshot: what deleting it frees
	kept uint64   // held by snapshots and not by the present disk
}

// count adds up which snapshots hold which clusters. A cluster is at the same guest offset
// for all its holders, so it is enough to compare one column of L2 tables at a time.
func (q *qcow2) count(read readAt) (usage, error) {
	owners := [][]uint64{q.active}
	for _, s := range q.snapshots {
		owners = append(owners, s.l1)
	}
	u := usage{own: make([]uint64, len(q.snapshots))}
	cluster := uint64(1) << q.clusterBits
	columns := 0
	for _, l1 := range owners {
		columns = max(columns, len(l1))
	}
	for i := range columns {
		tables := map[uint64][]byte{}
		at := make([]uint64, len(owners))
		for o, l1 := range owners {
			if at[o] = tableAt(l1, i); at[o] != 0 && tables[at[o]] == nil {
				tables[at[o]] = []byte{}
			}
		}
		u.add(at, cluster) // the table itself
		if len(tables) < 2 && at[0] != 0 {
			continue // all have the same table
		}
		for t := range tables {
			b, err := read(t, cluster)
			if err != nil {
				return u, err
			}
			tables[t] = b
		}
		held := make([]uint64, len(owners))
		for e := uint64(0); e < cluster; e += q.entry {
			for o := range owners {
				held[o] = 0
				if at[o] == 0 {
					continue
				}
				if v := binary.BigEndian.Uint64(tables[at[o]][e:]); v&compressed == 0 {
					held[o] = v & offsetMask
				}
			}
			u.add(held, cluster)
		}
	}
	return u, nil
}

// add counts one guest offset: held[0] is the cluster of the present disk, the others those
// of the snapshots; 0 means none.
func (u *usage) add(held []uint64, size uint64) {
	for o := 1; o < len(held); o++ {
		if held[o] == 0 || held[o] == held[0] {
			continue
		}
		first, unshared := true, true
		for k := 1; k < len(held); k++ {
			if k != o && held[k] == held[o] {
				unshared = false
				first = first && k > o
			}
		}
		if unshared {
			u.own[o-1] += size
		}
		if first {
			u.kept += size
		}
	}
}
