package settingsync

import (
	"bytes"
	"cmp"
	"crypto/rand"
	_ "embed"
	"encoding/json"
	"fmt"
	"maps"
	"path"
	"runtime"
	"slices"
	"strings"
)

// Statuses of Command.
const (
	StatusDone    = 0
	StatusChanged = 7 // what is to be replaced is not what was seen
)

// Command takes an archive on its stdin, in the guest. It is one perl, which
// every Debian and Ubuntu has (perl-base is essential), because a shell would
// start a dozen programs for it, each of them dear where the CPU is emulated.
func Command() []string {
	// statx(2), by the numbers of each machine's unistd.h; a VM is of this one's
	// kind. 0: not known here, or tried in vain: find says it, for 70 ms more.
	number := map[string]string{"amd64": "332", "arm64": "291", "riscv64": "291", "ppc64le": "383", "s390x": "379"}[runtime.GOARCH]
	return []string{"perl", "-e", receiver, cmp.Or(number, "0")}
}

//go:embed receiver.pl
var receiverText string

// receiver puts what comes into a directory of its own below the guest's home,
// and when all is there does the steps in their order. One at a time: what an
// earlier run left when it was killed is removed under the lock. It loads no
// module: Fcntl alone would double its time. 6 is LOCK_EX and LOCK_NB, 18 EXDEV;
// statx's -100 is AT_FDCWD, 256 AT_SYMLINK_NOFOLLOW, 2047 STATX_BASIC_STATS.
var receiver = "\n" + strings.NewReplacer("__STATE_DIR__", stateDir, "__STATE_FILE__", stateFile, "__STAT_FORMAT__", statFormat, "__CHANGED__", changed).Replace(receiverText)

const changed = "7" // StatusChanged

// Failed is what the guest could not do: lines "failed WHAT" on its stdout.
func Failed(stdout string) []string {
	var out []string
	for line := range strings.Lines(stdout) {
		if what, ok := strings.CutPrefix(strings.TrimSpace(line), "failed "); ok {
			out = append(out, what)
		}
	}
	return out
}

// records is a stream of steps: a line with the step's name and the size of
// each of its fields, then the fields.
type records struct{ bytes.Buffer }

func (r *records) step(op string, fields ...string) {
	r.WriteString(op)
	for _, f := range fields {
		fmt.Fprintf(r, " %d", len(f))
	}
	r.WriteByte('\n')
	for _, f := range fields {
		r.WriteString(f)
	}
}

// Archive is everything that has to be sent, as one stream: what has to be
// there still, directories, copies to be kept, files, the new manifest. failed
// names places a first try could not write; they are left out, so that the
// manifest says what is true.
func (r *Round) Archive(failed map[string]bool) ([]byte, error) {
	var checks, dirs, aside, files, trim records
	p := guestPath
	for _, f := range r.files {
		dir := path.Dir(f.Guest)
		if failed[dir] {
			continue
		}
		switch {
		case f.now == nil:
			checks.step("none", p(f.Guest))
		case f.now.Type == 'f' && len(f.now.Sum) == 64:
			checks.step("same", f.now.Sum, p(f.Guest))
		case f.now.Type == 'l':
			checks.step("link", p(f.Guest), strings.TrimPrefix(f.now.Sum, "-> "))
		}
		if f.backup {
			aside.step("keep", p(f.Guest), p(f.Guest)+".aivm-"+r.stamp)
			trim.step("trim", p(dir), path.Base(f.Guest))
		}
		if f.Link != "" {
			files.step("sym", p(dir), path.Base(f.Guest), f.Link)
		} else {
			files.step("file", p(dir), path.Base(f.Guest), fmt.Sprintf("%o", f.Mode.Perm()), fmt.Sprint(f.Time.Unix()), string(f.Data))
		}
	}
	for _, m := range r.merges {
		dir := path.Dir(m.target)
		if failed[dir] {
			continue
		}
		if m.there {
			checks.step("same", sum([]byte(m.was)), p(m.target))
		} else {
			checks.step("none", p(m.target))
			dirs.step("dir", p(dir), "755")
		}
		files.step("file", p(dir), path.Base(m.target), "600", fmt.Sprint(r.now.Unix()), m.text)
	}
	for _, d := range r.dirs {
		dirs.step("dir", p(d.Guest), fmt.Sprintf("%o", d.Mode.Perm()))
	}
	man := r.manifest
	man.Files = map[string]Entry{}
	for k, v := range r.manifest.Files {
		if !failed[path.Dir(k)] {
			man.Files[k] = v
		}
	}
	b, err := json.Marshal(man)
	if err != nil {
		return nil, err
	}
	var out records
	for _, part := range []*records{&checks, &dirs, &aside, &files, &trim} {
		out.Write(part.Bytes())
	}
	for _, k := range slices.Sorted(maps.Keys(man.Files)) {
		out.step("seen", p(k))
	}
	id := make([]byte, idSize)
	_, _ = rand.Read(id) // never fails (crypto/rand)
	out.step("sync", fmt.Sprintf("%x", id), fmt.Sprintf("{\"id\":\"%x\",\n%s\x00", id, b[1:]))
	out.step("end")
	return out.Bytes(), nil
}
