package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// birth holds the times of one cold `vm create`, measured from outside.
type birth struct {
	running time.Duration // from process start to QEMU running
	after   time.Duration // from the first SSH banner to the end of the process
	boot    float64       // seconds from QEMU's start to the login, measured by aivm
}

// create runs `vm create` to its end and measures it.
func (w *world) create(vm string, args ...string) (birth, error) {
	var r birth
	w.b.packets.reset()
	c := w.command(w.b.ctx, w.home, nil, append([]string{w.program("aivm"), "vm", "create", vm, "--yes", "--json"}, args...)...)
	var out, errw bytes.Buffer
	c.Stdout, c.Stderr = &out, &errw
	began := time.Now()
	if err := c.Start(); err != nil {
		return r, err
	}
	gone := make(chan struct{})
	var end time.Time
	var waitErr error
	go func() {
		waitErr = c.Wait()
		end = time.Now()
		close(gone)
	}()
	running, err := w.b.qemuRunning(vm, gone)
	<-gone
	if waitErr != nil {
		return r, failed(c.Args, waitErr, errw.Bytes())
	}
	if err != nil {
		return r, err
	}
	r.running = running.Sub(began)
	addr, err := w.address(vm)
	if err != nil {
		return r, err
	}
	first, ok := w.b.packets.first(addr)
	if !ok {
		return r, errors.New("no SSH banner arrived from " + addr)
	}
	r.after = end.Sub(first)
	r.boot, err = bootSeconds(out.Bytes())
	return r, err
}

// bootSeconds reads the time from QEMU's start to the login from --json.
func bootSeconds(out []byte) (float64, error) {
	var res struct{ Seconds map[string]float64 }
	if err := json.Unmarshal(out, &res); err != nil {
		return 0, err
	}
	return res.Seconds["boot"], nilIf(res.Seconds["boot"] > 0, "--json has no boot time")
}

// vmParts are the parts of measureVM that can be measured separately: -only git,tree.
var vmParts = []string{"list", "warm", "folders", "settings", "git", "tree", "later"}

// measureVM measures the life of one VM of root's: created, listed, used warm, stopped and started.
// wanted selects parts of it; none means all.
func (b *bench) measureVM(wanted []string) error {
	w := b.root
	b.say("cold `vm create` (a complete boot)")
	first, err := w.create(vmMain)
	if err != nil {
		return err
	}
	var logins []time.Duration
	for range 5 {
		_, d, err := w.login("true")
		if err != nil {
			return err
		}
		logins = append(logins, d)
	}
	login := median(logins)
	b.table.add(figure{
		"cold vm create: first SSH banner to return", seconds(first.after), "one login " + seconds(login),
		fmt.Sprintf("%+.2f s", (first.after - login).Seconds()), "<= login + 1.0 s", "",
	}, first.after <= login+time.Second)
	b.starts = append(b.starts, first.running)

	if err := w.attach(); err != nil {
		return err
	}
	for i, f := range []func() error{
		func() error { return b.measureList(w) },
		func() error { return b.measureWarm(w, 1.2) },
		func() error { return b.measureRestore(w) },
		func() error { return b.measureSettings(w) },
		func() error { return b.measureGit(w) },
		func() error { return b.measureTree(w) },
		func() error { return b.measureLaterBoot(w, first.boot) },
	} {
		if len(wanted) == 0 || slices.Contains(wanted, vmParts[i]) {
			b.try(vmParts[i], f)
		}
	}
	_, _, err = w.aivm(b.ctx, w.home, "vm", "delete", vmMain, "--yes")
	return err
}

// attach opens the project for the first time and waits until the guest's first boot is complete,
// so that the guest is idle during warm runs.
func (w *world) attach() error {
	if _, _, err := w.run(w.b.ctx, w.project(), quick, w.program("aivm"), "code", ".", "--vm", w.vm, "--yes"); err != nil {
		return err
	}
	if _, _, err := w.login(`for i in $(seq 180); do [ -e /etc/cloud/cloud-init.disabled ] && exit 0; sleep 1; done; exit 1`); err != nil {
		return fmt.Errorf("the first boot does not end: %w", err)
	}
	if err := w.b.sleep(5 * time.Second); err != nil {
		return err
	}
	// The first run could not remove the seed yet; this one does.
	_, _, err := w.run(w.b.ctx, w.project(), quick, w.program("aivm"), "code", ".")
	return err
}

// measureList measures the entire process of `aivm list`.
func (b *bench) measureList(w *world) error {
	var walls []time.Duration
	var rss []int64
	for range 30 {
		p, err := w.cost(w.program("aivm"), "list")
		if err != nil {
			return err
		}
		walls, rss = append(walls, p.Wall), append(rss, p.RSS)
	}
	wall, mem := median(walls), median(rss)
	b.table.add(figure{name: "aivm list, entire process, median of 30", value: millis(wall), limit: "<= 10 ms"}, wall <= 10*time.Millisecond)
	b.table.add(figure{name: "aivm list, peak memory", value: fmt.Sprintf("%.1f MB", float64(mem)/1e6), limit: "<= 20 MB"}, mem <= 20e6)
	return nil
}

// measureLaterBoot stops the VM and starts it again, and compares the time from QEMU's start to the
// login, measured by aivm, with that of the first boot.
func (b *bench) measureLaterBoot(w *world, first float64) error {
	b.say("a later boot")
	if _, _, err := w.aivm(b.ctx, w.home, "vm", "down", w.vm); err != nil {
		return err
	}
	out, _, err := w.aivm(b.ctx, w.home, "vm", "up", w.vm, "--json")
	if err != nil {
		return err
	}
	later, err := bootSeconds([]byte(out))
	if err != nil {
		return err
	}
	b.table.add(figure{
		"a later boot, QEMU's start to login", fmt.Sprintf("%.2f s", later), fmt.Sprintf("first boot %.2f s", first),
		ratio(later / first), "<= 0.7", "",
	}, later/first <= 0.7)
	return nil
}

// measureFurther measures the disk space another VM on the same image takes before it boots: the
// run is killed where it would start the VM.
func (b *bench) measureFurther() error {
	w := b.root
	if err := b.ensureBase(); err != nil {
		return err
	}
	before, err := blocks(baseDir)
	if err != nil {
		return err
	}
	c := w.command(b.ctx, w.home, []string{"AIVM_KILL_AT=domain.start:before"}, w.program("aivm-faulty"), "vm", "create", vmFurther, "--yes")
	out, err := c.CombinedOutput()
	if st, ok := c.ProcessState.Sys().(syscall.WaitStatus); !ok || !st.Signaled() || st.Signal() != syscall.SIGKILL {
		return fmt.Errorf("the run was not killed before it starts the VM: %w", failed(c.Args, err, out))
	}
	after, err := blocks(baseDir)
	if err != nil {
		return err
	}
	var grown int64
	var files []string
	for name, n := range after {
		if d := n - before[name]; d > 0 {
			grown += d
			files = append(files, fmt.Sprintf("%s %d", name, d))
		}
	}
	b.say("new on disk: %s", strings.Join(files, ", "))
	b.table.add(figure{
		name:  "a further VM on the same image, new disk before it boots",
		value: fmt.Sprintf("%.0f KiB", float64(grown)/1024), limit: "<= 300 KiB",
	}, grown > 0 && grown <= 300<<10)
	_, _, err = w.aivm(b.ctx, w.home, "vm", "delete", vmFurther, "--yes")
	return err
}

// blocks returns the allocated bytes of each file in a directory.
func blocks(dir string) (map[string]int64, error) {
	out := map[string]int64{}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		var st syscall.Stat_t
		if err := syscall.Lstat(filepath.Join(dir, e.Name()), &st); err != nil {
			return nil, err
		}
		out[e.Name()] = st.Blocks * 512
	}
	return out, nil
}
