package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

var quick = []string{"FAKECODE_QUICK=1"}

// warmRun runs one `aivm code .` with nothing to do. own is the time it spent outside the
// connection and the editor.
func (w *world) warmRun() (wall, own time.Duration, err error) {
	out, wall, err := w.run(w.b.ctx, w.project(), quick, w.program("aivm"), "code", ".", "--json")
	if err != nil {
		return 0, 0, err
	}
	var res struct {
		Opened  bool
		Seconds map[string]float64
	}
	if err := json.Unmarshal([]byte(out), &res); err != nil {
		return 0, 0, err
	}
	if !res.Opened || res.Seconds["ssh"] <= 0 {
		return 0, 0, fmt.Errorf("a warm run started no editor or opened no connection: %s", out)
	}
	outside := time.Duration((res.Seconds["ssh"] + res.Seconds["editor"]) * float64(time.Second))
	return wall, wall - outside, nil
}

// measureWarm compares a warm `aivm code .` with a login of plain ssh, and counts its logins, child
// processes and writes.
func (b *bench) measureWarm(w *world, limit float64) error {
	b.say("warm `code .` compared with `ssh %s true`, %d pairs (%s)", w.vm, b.warm, w.label)
	var p pairs
	var owns []time.Duration
	for range b.warm {
		err := p.take(func() (time.Duration, error) {
			wall, own, err := w.warmRun()
			owns = append(owns, own)
			return wall, err
		}, func() (time.Duration, error) {
			_, d, err := w.login("true")
			return d, err
		})
		if err != nil {
			return err
		}
	}
	r, own := p.ratio(), median(owns)
	b.table.add(figure{
		fmt.Sprintf("warm code (%s), median of %d pairs", w.label, b.warm), seconds(median(p.aivm)),
		"ssh true " + seconds(median(p.reference)), ratio(r), fmt.Sprintf("<= %.1f", limit), "",
	}, r <= limit)
	b.table.add(figure{name: "  own time outside the connection", value: millis(own), limit: "<= 60 ms"}, own <= 60*time.Millisecond)
	if err := b.warmLogins(w); err != nil {
		return err
	}
	if err := b.warmChildren(w); err != nil {
		return err
	}
	return b.warmWrites(w)
}

// logins returns the number of logins in the guest's log, including its own.
func (w *world) logins() (int, error) {
	out, _, err := w.login(`sudo -n journalctl -u ssh -o cat --no-pager | grep -c 'Accepted publickey'`)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(out))
}

// warmLogins counts the logins of one warm run in the guest's log.
func (b *bench) warmLogins(w *world) error {
	before, err := w.logins()
	if err != nil {
		return err
	}
	if _, _, err := w.warmRun(); err != nil {
		return err
	}
	after, err := w.logins()
	if err != nil {
		return err
	}
	n := after - before - 1 // the login of the second count
	b.table.add(figure{name: "  logins in the guest's log", value: strconv.Itoa(n), limit: "1"}, n == 1)
	return nil
}

var execed = regexp.MustCompile(`(?m)^\d+ +execve\("([^"]+)"`)

// warmChildren traces which programs a warm run starts: the editor, and for a user at most one
// sudo.
func (b *bench) warmChildren(w *world) error {
	trace := filepath.Join(b.work, "trace")
	argv := []string{"strace", "-f", "-z", "-e", "trace=execve", "-e", "signal=none", "-o", trace}
	asRoot := *w
	if w.cred != nil {
		// strace runs as root, so that sudo gets its rights; the program runs as the user.
		asRoot.cred = nil
		argv = append(argv, "-u", userName)
	}
	argv = append(argv, w.program("aivm"), "code", ".")
	if _, _, err := asRoot.run(b.ctx, w.project(), quick, argv...); err != nil {
		return err
	}
	text, err := os.ReadFile(trace)
	if err != nil {
		return err
	}
	found := execed.FindAllStringSubmatch(string(text), -1)
	if len(found) == 0 || filepath.Base(found[0][1]) != "aivm" {
		return fmt.Errorf("strace has no run of aivm: %s", text)
	}
	var children []string
	editors, sudos, others := 0, 0, 0
	for _, m := range found[1:] {
		name := filepath.Base(m[1])
		children = append(children, name)
		switch {
		case name == "code":
			editors++
		case name == "sudo" && w.cred != nil:
			sudos++
		case name == "aivm" && sudos == 1: // started by that sudo
		default:
			others++
		}
	}
	limit := "the editor"
	if w.cred != nil {
		limit = "the editor, one sudo"
	}
	b.table.add(figure{name: "  programs started", value: strings.Join(children, " "), limit: limit}, editors == 1 && sudos <= 1 && others == 0)
	return nil
}

// warmWrites compares the files of the home and the domain's definition before and after a warm
// run.
func (b *bench) warmWrites(w *world) error {
	state := func() (map[string]string, error) {
		s, err := w.snapshot()
		if err != nil {
			return nil, err
		}
		s["the domain"], err = virsh(b.ctx, "dumpxml", "--inactive", w.vm)
		return s, err
	}
	before, err := state()
	if err != nil {
		return err
	}
	if _, _, err := w.warmRun(); err != nil {
		return err
	}
	after, err := state()
	if err != nil {
		return err
	}
	var changed []string
	for _, name := range slices.Sorted(maps.Keys(after)) {
		if before[name] != after[name] {
			changed = append(changed, strings.TrimPrefix(name, w.home+"/"))
		}
	}
	value := "0"
	if n := len(changed) + max(0, len(before)-len(after)); n > 0 {
		value = fmt.Sprintf("%d: %s", n, strings.Join(changed, " "))
	}
	b.table.add(figure{name: "  files written", value: value, limit: "0"}, value == "0")
	return nil
}

// measureUser measures the warm run of a user with sudo who is in no group that libvirt knows, in a
// VM of their own.
func (b *bench) measureUser() error {
	w := b.user
	images, err := filepath.Glob(filepath.Join(cacheHome, "aivm/images/*.qcow2"))
	if err != nil || len(images) == 0 {
		return fmt.Errorf("no image in the cache: %w", err)
	}
	// Only root can read the image in the cache.
	image := filepath.Join(w.home, "image.qcow2")
	if _, err := host(b.ctx, "install", "-m", "0644", "-o", userName, images[0], image); err != nil {
		return err
	}
	b.say("creating a VM of the user %s (a complete boot)", userName)
	if _, err := w.create(vmUser, "--image", image); err != nil {
		return err
	}
	if err := w.attach(); err != nil {
		return err
	}
	b.try("warm code (sudo user)", func() error { return b.measureWarm(w, 1.3) })
	_, _, err = w.aivm(b.ctx, w.home, "vm", "delete", vmUser, "--yes")
	return err
}
