package userfs

import (
	"os"
	"path/filepath"
	"testing"

	"aivm.dev/aivm/internal/userfs/jail"
)

// workload is what a developer does with a folder, timed.
const workload = `
	time_of() { local t0=$(date +%s%N); "${@:2}" >out.txt; echo "$1: $(( ($(date +%s%N) - t0) / 1000000 )) ms"; }
	make_files() { python3 -c "
import os
for d in range(20):
    os.makedirs(f\"src/d{d}\")
    for f in range(100): open(f\"src/d{d}/f{f}\", \"w\").write(f\"{d} {f}\")
"; }
	time_of "write 2,000 files" make_files
	git init -q . 2>/dev/null; time_of "git add" git add src; git -c user.name=x -c user.email=x@x commit -qm x
	export GIT_OPTIONAL_LOCKS=0
	sleep 1.1
	time_of "git status" git status
	time_of "git status again" git status
	time_of "write 100 MB" dd if=/dev/zero of=big bs=1M count=100 status=none
	time_of "read 100 MB" sh -c "cat big | wc -c"
	time_of "rm -r" rm -r src`

// BenchmarkFolder times the workload in a folder of the host, and in the same folder served to a guest
// of this machine.
func BenchmarkFolder(b *testing.B) {
	for b.Loop() {
		tr := newTrial(b, jail.Namespaces)
		direct, err := os.MkdirTemp(filepath.Dir(tr.Dir), "aivm-direct-")
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { os.RemoveAll(direct) })
		for _, dir := range []string{direct, "0"} {
			cmd := tr.command("echo in $PWD; cd " + dir + "\n" + workload)
			cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
			if err := cmd.Run(); err != nil {
				b.Fatal(err)
			}
		}
	}
}
