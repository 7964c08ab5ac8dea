package root

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// A process whose cgroup got the policy can make no device node, root with all
// capabilities too, and can go on using the devices it has.
func TestNoDeviceNodes(t *testing.T) {
	work, ok := privately(t)
	if !ok {
		return
	}
	stage(t, work, syscall.MS_PRIVATE)
	top, err := cgroupMount()
	if err != nil {
		t.Fatalf("this test needs a mounted cgroup2: %v", err)
	}
	dir := filepath.Join(top, fmt.Sprintf("aivm-test-%d", os.Getpid()))
	must(t, os.Mkdir(dir, 0o755))
	c := exec.Command("sh")
	in, err := c.StdinPipe()
	must(t, err)
	var out strings.Builder
	c.Stdout, c.Stderr = &out, &out
	must(t, c.Start())
	t.Cleanup(func() { _ = os.Remove(dir) })
	must(t, os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(fmt.Sprint(c.Process.Pid)), 0o644))
	if may, err := hasMknod(c.Process.Pid); !may || err != nil {
		t.Errorf("root's shell has CAP_MKNOD: %v %v", may, err)
	}
	before := filepath.Join(work, "before")
	must(t, exec.Command("mknod", before, "b", "7", "0").Run())
	must(t, denyDevices(c.Process.Pid))
	fmt.Fprintf(in, "cd %s\nmknod b b 7 0; mknod c c 1 3; mkfifo p && echo fifo; echo x >/dev/null && echo null\n", work)
	in.Close()
	must(t, c.Wait())
	if got := out.String(); strings.Count(got, "Operation not permitted") != 2 || !strings.Contains(got, "fifo\nnull\n") {
		t.Errorf("with the policy:\n%s", got)
	}
	for _, n := range []string{"b", "c"} {
		if _, err := os.Lstat(filepath.Join(work, n)); err == nil {
			t.Errorf("the device node %s was made", n)
		}
	}
	// A process without the capability is let be.
	c = exec.Command("setpriv", "--inh-caps=-all", "--bounding-set=-all", "--reuid=4399", "--clear-groups", "sleep", "5")
	must(t, c.Start())
	defer func() { _ = c.Process.Kill(); _ = c.Wait() }()
	for range 100 {
		if comm, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", c.Process.Pid)); strings.TrimSpace(string(comm)) == "sleep" {
			break
		}
		_ = pause(t.Context(), 20_000_000)
	}
	if may, err := hasMknod(c.Process.Pid); may || err != nil {
		t.Errorf("a user's process: %v %v", may, err)
	}
}
