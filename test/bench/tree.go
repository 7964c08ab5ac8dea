package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// treeFiles is the number of files in the repository of measureTree.
const treeFiles = 10000

// measureTree compares git status on a large work tree in a shared folder with the same on the
// guest's own disk, in pairs: with the guest's caches dropped, and with warm caches. The guest's
// clock measures the time, so that logins do not count.
func (b *bench) measureTree(w *world) error {
	dir := filepath.Join(w.project(), "tree")
	for i := range treeFiles {
		p := filepath.Join(dir, strconv.Itoa(i/100))
		if i%100 == 0 {
			if err := os.MkdirAll(p, 0o755); err != nil {
				return err
			}
		}
		if err := os.WriteFile(filepath.Join(p, fmt.Sprintf("file%d.txt", i)), fmt.Appendf(nil, "file %d\n", i), 0o644); err != nil {
			return err
		}
	}
	const own = "/home/agent/tree"
	b.say("git status on %d files, in a shared folder compared with the guest's own disk", treeFiles)
	commit := "git init -q . && git add -A && git -c user.name=b -c user.email=b@b commit -qm all"
	if _, _, err := w.login(fmt.Sprintf("rm -rf %[1]s && cp -r %[2]s %[1]s && cd %[1]s && %[3]s && cd %[2]s && %[3]s", own, dir, commit)); err != nil {
		return err
	}
	for _, kind := range []struct{ name, before string }{
		{"caches dropped", "sync; echo 3 | sudo -n tee /proc/sys/vm/drop_caches >/dev/null"},
		{"warm", "git status --porcelain"},
	} {
		var p pairs
		for range b.pairs {
			at := func(where string) func() (time.Duration, error) {
				return func() (time.Duration, error) {
					out, _, err := w.login(fmt.Sprintf("cd %s && %s; a=$(date +%%s%%N); git status --porcelain; echo $(($(date +%%s%%N) - a))", where, kind.before))
					if err != nil {
						return 0, err
					}
					n, err := strconv.ParseInt(strings.TrimSpace(out), 10, 64)
					return time.Duration(n), err
				}
			}
			if err := p.take(at(dir), at(own)); err != nil {
				return err
			}
		}
		b.table.add(figure{
			fmt.Sprintf("git status, %d files shared-root, %s", treeFiles, kind.name), seconds(median(p.aivm)),
			"own disk " + seconds(median(p.reference)), ratio(p.ratio()), "reported", "",
		}, true)
	}
	return nil
}
