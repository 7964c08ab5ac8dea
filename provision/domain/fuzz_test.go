package domain

import (
	"encoding/binary"
	"encoding/xml"
	"errors"
	"io"
	"strings"
	"testing"
	"time"
)

var errBeyond = errors.New("beyond the end")

// fileOf reads from bytes as libvirt reads from a volume: all n bytes or an error. It
// counts the bytes.
func fileOf(b []byte, asked *uint64) readAt {
	return func(at, n uint64) ([]byte, error) {
		*asked += n
		if at > uint64(len(b)) || n > uint64(len(b))-at {
			return nil, errBeyond
		}
		return b[at : at+n], nil
	}
}

// qcowSeed is a small qcow2 file with one snapshot.
func qcowSeed() []byte {
	b := make([]byte, 8192)
	be := binary.BigEndian
	copy(b, "QFI\xfb")
	be.PutUint32(b[4:], 3)
	be.PutUint32(b[20:], 9)
	be.PutUint64(b[24:], 1<<20)
	be.PutUint32(b[36:], 2)
	be.PutUint64(b[40:], 512)
	be.PutUint32(b[60:], 1)
	be.PutUint64(b[64:], 1024)
	be.PutUint32(b[100:], 104)
	be.PutUint64(b[512:], 2048|1<<63)
	be.PutUint64(b[520:], 2560|1<<63)
	s := b[1024:]
	be.PutUint64(s, 1536)
	be.PutUint32(s[8:], 2)
	be.PutUint16(s[12:], 1)
	be.PutUint16(s[14:], 4)
	be.PutUint32(s[36:], 16)
	copy(s[56:], "1base")
	be.PutUint64(b[1536:], 2048)
	be.PutUint64(b[1544:], 3072)
	be.PutUint64(b[2048:], 4096|1<<63)
	be.PutUint64(b[3072:], 4608)
	return b
}

// FuzzQcow2 checks that reading any file ends and reads a bounded number of bytes, and that
// the snapshots hold no more than the disk could.
func FuzzQcow2(f *testing.F) {
	f.Add(qcowSeed())
	f.Add(qcowSeed()[:104])
	f.Add([]byte("QFI\xfb"))
	f.Fuzz(func(t *testing.T, b []byte) {
		var asked uint64
		q, err := readQcow2(fileOf(b, &asked))
		if asked > maxTables*8+maxSnapshots*(40+2<<16)+104 {
			t.Errorf("%d bytes were asked for", asked)
		}
		if err != nil {
			return
		}
		if len(q.snapshots) > maxSnapshots {
			t.Errorf("%d snapshots", len(q.snapshots))
		}
		facts := &SnapFacts{}
		facts.fill(q, tree{})
		current := 0
		for _, s := range facts.Snapshots {
			if s.Current {
				current++
			}
		}
		if current > 1 {
			t.Errorf("%d snapshots are current", current)
		}
		u, err := q.count(fileOf(b, &asked))
		if err != nil {
			return
		}
		sum := uint64(0)
		for _, n := range u.own {
			sum += n
		}
		if sum > u.kept {
			t.Errorf("%d bytes are held by one snapshot alone, and %d by all", sum, u.kept)
		}
	})
}

// FuzzTree checks that a recorded tree is read back as it was written. From any metadata,
// each snapshot gets at most one parent, which exists, and no snapshot is its own ancestor.
func FuzzTree(f *testing.F) {
	f.Add(`<aivms:snapshots xmlns:aivms="urn:aivm:snapshots:1" current="b"><aivms:snapshot name="a"/><aivms:snapshot name="b" parent="a"/></aivms:snapshots>`, "a b c")
	f.Add(`<snapshots current="x"><snapshot name="x" parent="y"/><snapshot name="y" parent="x"/></snapshots>`, "x y z")
	f.Add("<snapshots", "a")
	f.Fuzz(func(t *testing.T, element, there string) {
		tr := parseTree(element)
		text, err := tr.encode()
		if err != nil {
			return
		}
		// XML cannot hold every character; those it can hold are read back.
		if back := parseTree(text); !tr.equal(back) && printable(element) {
			t.Errorf("%+v, written %q, read %+v", tr, text, back)
		}
		facts := &SnapFacts{}
		for i, n := range strings.Fields(there) {
			if _, twice := facts.Find(n); !twice {
				facts.Snapshots = append(facts.Snapshots, Snapshot{Name: n, At: time.Unix(int64(i), 0)})
			}
		}
		facts.applyTree(tr)
		current := 0
		for _, s := range facts.Snapshots {
			if _, ok := facts.Find(s.Parent); s.Parent != "" && !ok {
				t.Errorf("%q has parent %q, which does not exist", s.Name, s.Parent)
			}
			if s.Current {
				current++
			}
			up := s.Name
			for i := 0; up != ""; i++ {
				if i > len(facts.Snapshots) {
					t.Fatalf("%q is its own ancestor: %+v of %q", s.Name, facts.Snapshots, element)
				}
				p, _ := facts.Find(up)
				up = p.Parent
			}
		}
		if current > 1 {
			t.Errorf("%d are current", current)
		}
		// Written and read again, the tree is the same.
		again := &SnapFacts{Snapshots: append([]Snapshot(nil), facts.Snapshots...)}
		again.applyTree(facts.tree(facts.Current()))
		for i := range again.Snapshots {
			if again.Snapshots[i] != facts.Snapshots[i] {
				t.Errorf("%+v became %+v", facts.Snapshots[i], again.Snapshots[i])
			}
		}
		for _, s := range facts.Snapshots {
			rest := facts.treeWithout(s.Name)
			if rest.has(s.Name) || rest.Current == s.Name {
				t.Errorf("%q still exists: %+v", s.Name, rest)
			}
		}
	})
}

func (t tree) equal(o tree) bool {
	if t.Current != o.Current || len(t.Known) != len(o.Known) {
		return false
	}
	for i := range t.Known {
		if t.Known[i] != o.Known[i] {
			return false
		}
	}
	return true
}

func printable(s string) bool {
	d := xml.NewDecoder(strings.NewReader(s))
	for {
		if _, err := d.Token(); err != nil {
			return errors.Is(err, io.EOF)
		}
	}
}
