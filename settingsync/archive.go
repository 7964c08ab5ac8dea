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

// Exit statuses of Command.
const (
	StatusDone    = 0
	StatusChanged = 7 // a file to be replaced is not the one that was probed
)

// Command returns the command in the guest that receives an archive on its stdin. It is one perl
// process, which every Debian and Ubuntu has (perl-base is essential): a shell script would start a
// dozen programs, each of them slow where the CPU is emulated.
func Command() []string {
	// The system call number of statx(2) from each architecture's unistd.h; a VM has the host's
	// architecture. With 0, and if the call fails, find prints the state instead, which takes 70 ms
	// more.
	number := map[string]string{"amd64": "332", "arm64": "291", "riscv64": "291", "ppc64le": "383", "s390x": "379"}[runtime.GOARCH]
	return []string{"perl", "-e", receiver, cmp.Or(number, "0")}
}

//go:embed receiver.pl
var receiverText string

// receiver unpacks the archive into a separate directory below the guest's home, and executes the
// steps in order once it is complete. Only one receiver runs at a time, and under the lock it
// removes what a killed one did not. It loads no module: Fcntl alone would double its start-up
// time. 6 is LOCK_EX|LOCK_NB, 18 is EXDEV; for statx, -100 is AT_FDCWD, 256 AT_SYMLINK_NOFOLLOW,
// 2047 STATX_BASIC_STATS.
var receiver = "\n" + strings.NewReplacer("__STATE_DIR__", stateDir, "__STATE_FILE__", stateFile, "__STAT_FORMAT__", statFormat, "__CHANGED__", changed).Replace(receiverText)

const changed = "7" // StatusChanged

// FailedDirs returns the directories the guest could not write, from the lines "failed DIR" of
// Command's stdout.
func FailedDirs(stdout string) []string {
	var out []string
	for line := range strings.Lines(stdout) {
		if what, ok := strings.CutPrefix(strings.TrimSpace(line), "failed "); ok {
			out = append(out, what)
		}
	}
	return out
}

// records is a stream of steps: a line with the step's name and the size of each field in bytes,
// followed by the fields.
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

// Archive returns everything that has to be sent as one stream: checks that the guest's files are
// unchanged, directories, copies to keep, files, the new manifest. failed are directories that an
// earlier try could not write; they are omitted, so that the manifest is correct.
func (r *Round) Archive(failed map[string]bool) ([]byte, error) {
	var checks, dirs, aside, files, trim records
	p := guestPath
	for _, f := range r.files {
		dir := path.Dir(f.Guest)
		if failed[dir] {
			continue
		}
		switch {
		case f.existing == nil:
			checks.step("none", p(f.Guest))
		case f.existing.Type == 'f' && len(f.existing.Sum) == 64:
			checks.step("same", f.existing.Sum, p(f.Guest))
		case f.existing.Type == 'l':
			checks.step("link", p(f.Guest), strings.TrimPrefix(f.existing.Sum, "-> "))
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
		if m.exists {
			checks.step("same", sum([]byte(m.previous)), p(m.target))
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
