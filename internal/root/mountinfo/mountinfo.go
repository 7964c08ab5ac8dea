// Package mountinfo reads the kernel's mount table, /proc/PID/mountinfo.
//
// It owns only the format (proc_pid_mountinfo(5)) and its octal escapes: it never
// mounts, and opens only the file it is given. Invariant: a line that it cannot parse
// is an error and is never skipped, so that a mount which is not in the result is not
// mounted.
package mountinfo

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Self is the mount table of this process.
const Self = "/proc/self/mountinfo"

// A Mount is one line of the table, unescaped.
type Mount struct {
	ID, Parent int
	Dev        string   // "major:minor" of the file system
	Root       string   // the mounted directory in the file system; ends in "//deleted" when it was deleted
	Point      string   // the mount point, relative to the reader's root
	Options    []string // of this mount: "rw", "nosuid", "idmapped"
	Peers      []string // propagation: "shared:7", "master:3"
	Type       string
	Source     string
	Super      []string // of the file system
}

// Has reports whether this mount (not its file system) has option opt.
func (m Mount) Has(opt string) bool { return slices.Contains(m.Options, opt) }

// Shared returns the peer group to which new mounts below m propagate.
func (m Mount) Shared() (group int, ok bool) { return m.peer("shared:") }

// Master returns the peer group from which m receives mounts.
func (m Mount) Master() (group int, ok bool) { return m.peer("master:") }

func (m Mount) peer(prefix string) (int, bool) {
	for _, p := range m.Peers {
		if v, ok := strings.CutPrefix(p, prefix); ok {
			n, err := strconv.Atoi(v)
			return n, err == nil
		}
	}
	return 0, false
}

// Read parses the file at path.
func Read(path string) ([]Mount, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	return Parse(b)
}

// Parse parses a mount table.
func Parse(b []byte) ([]Mount, error) {
	var out []Mount
	for i, line := range strings.Split(string(b), "\n") {
		if line == "" {
			continue
		}
		m, err := parseLine(line)
		if err != nil {
			return nil, fmt.Errorf("mount table, line %d: %w", i+1, err)
		}
		out = append(out, m)
	}
	return out, nil
}

func parseLine(line string) (Mount, error) {
	f := strings.Split(line, " ")
	if len(f) < 10 {
		return Mount{}, fmt.Errorf("%d fields instead of at least 10", len(f))
	}
	// A field "-" ends the optional fields; none of the six fields before them can be
	// "-".
	dash := slices.Index(f[6:], "-") + 6
	if dash < 6 || len(f) < dash+4 {
		return Mount{}, fmt.Errorf("no separator \"-\" with three fields after it")
	}
	id, err := strconv.Atoi(f[0])
	if err != nil {
		return Mount{}, fmt.Errorf("mount id: %w", err)
	}
	parent, err := strconv.Atoi(f[1])
	if err != nil {
		return Mount{}, fmt.Errorf("parent id: %w", err)
	}
	return Mount{
		ID: id, Parent: parent, Dev: f[2],
		Root: Unescape(f[3]), Point: Unescape(f[4]),
		Options: strings.Split(f[5], ","),
		Peers:   f[6:dash:dash],
		Type:    Unescape(f[dash+1]), Source: Unescape(f[dash+2]),
		Super: strings.Split(f[dash+3], ","),
	}, nil
}

// Unescape decodes the kernel's octal escapes (\040 for a space). It keeps a backslash
// that does not begin an escape: some file systems print their source unescaped.
func Unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// Escape encodes a path as the mount table does (fs/proc_namespace.c of Linux: space,
// tab, newline, backslash).
func Escape(s string) string {
	return strings.NewReplacer(" ", `\040`, "\t", `\011`, "\n", `\012`, `\`, `\134`).Replace(s)
}

// At returns the mounts on exactly this path, in table order (the last one
// mounted comes last).
func At(ms []Mount, point string) []Mount {
	var out []Mount
	for _, m := range ms {
		if m.Point == point {
			out = append(out, m)
		}
	}
	return out
}

// Below returns the mounts strictly below dir.
func Below(ms []Mount, dir string) []Mount {
	prefix := strings.TrimSuffix(filepath.Clean(dir), "/") + "/"
	var out []Mount
	for _, m := range ms {
		if strings.HasPrefix(m.Point, prefix) && m.Point != prefix {
			out = append(out, m)
		}
	}
	return out
}

// ByID returns the mount with this ID.
func ByID(ms []Mount, id int) (Mount, bool) {
	for _, m := range ms {
		if m.ID == id {
			return m, true
		}
	}
	return Mount{}, false
}
