package e2e

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// A pairVerb is one command of a pair.
type pairVerb struct {
	name string
	argv []string
	// lock lists the locks that the command takes: "vm" (the VM's), "image" (the cache's),
	// "git" (the repository's).
	lock string
	// stop is the time after which the command is interrupted, because it waits for a guest that
	// never boots.
	stop time.Duration
	// ends lists exit statuses that are accepted besides 0.
	ends []int
	// disrupts is set for a command that may make the other one fail, because it removes or stops
	// what that one uses.
	disrupts bool
	// setup is a command to run before the pair.
	setup []string
}

const (
	concurrent = "concurrent"
	oneWaits   = "one waits"
)

// expected returns whether one command of a pair has to wait for the other: if both take the same
// lock.
func expected(a, b pairVerb) string {
	for _, l := range strings.Fields(a.lock) {
		if slices.Contains(strings.Fields(b.lock), l) {
			return oneWaits
		}
	}
	return concurrent
}

var waitingFor = regexp.MustCompile(`waiting for aivm \(process (\d+): ([^)]*)\)?`)

// mayRefuse matches the error of a command whose VM, folder or snapshot the other command removed,
// changed, or is about to use.
var mayRefuse = regexp.MustCompile(`not found in config store|does not exist|No VM definitions|is not running|does not run|is off|was switched off|stopped|shut|is running|runs|no snapshot|No snapshot|not attached|is in use|gone|did not answer|was lost|closed|broken|refused|no longer running|did not become reachable|vanished|changed|by another run|meanwhile`)

// outcome is the result of one command of a pair.
type outcome struct {
	result
	pid  int
	hung bool // killed after 150 s
}

// runBoth starts both commands and waits until both have ended. The delay between them depends on the
// round, so that they meet at different points.
func (w *world) runBoth(a, b pairVerb, round int) [2]outcome {
	w.t.Helper()
	var out [2]outcome
	var wg sync.WaitGroup
	for i, v := range []pairVerb{a, b} {
		ctx, cancel := context.WithTimeout(context.Background(), 150*time.Second)
		defer cancel()
		c := exec.CommandContext(ctx, filepath.Join(bin, "aivm"), v.argv...)
		c.Dir, c.Env = w.home, w.env
		var stdout, stderr bytes.Buffer
		c.Stdout, c.Stderr = &stdout, &stderr
		c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		if i == 1 {
			time.Sleep([]time.Duration{0, 100, 250, 500, 900}[round%5] * time.Millisecond)
		}
		if err := c.Start(); err != nil {
			w.t.Fatal(err)
		}
		wg.Go(func() {
			began := time.Now()
			if v.stop > 0 {
				stop := time.AfterFunc(v.stop, func() { _ = c.Process.Signal(syscall.SIGINT) })
				defer stop.Stop()
			}
			_ = c.Wait()
			out[i] = outcome{result{c.ProcessState.ExitCode(), stdout.String(), stderr.String(), time.Since(began)}, c.Process.Pid, ctx.Err() != nil}
		})
	}
	wg.Wait()
	return out
}

// pairWorld is a VM on which pairs run, and the table of their results.
type pairWorld struct {
	*world
	vm    string
	reset func()              // restores the VM's initial state before a pair
	table map[string][]string // exit statuses of each round, by pair
	mu    *sync.Mutex         // protects table
}

// pair runs one pair and checks its results.
func (p *pairWorld) pair(t *testing.T, a, b pairVerb, round int) {
	p.t = t
	p.reset()
	for _, v := range []pairVerb{a, b} {
		if len(v.setup) > 0 {
			if r := p.aivm("", v.setup...); r.code != 0 {
				t.Fatalf("setup of %s: %+v", v.name, r)
			}
		}
	}
	out := p.runBoth(a, b, round)
	want := expected(a, b)
	waited := 0
	for i, e := range out {
		me, other := a, b
		if i == 1 {
			me, other = b, a
		}
		at := fmt.Sprintf("%s beside %s, round %d, after %.1f s", me.name, other.name, round, e.took.Seconds())
		if e.hung {
			t.Errorf("%s: killed after 150 s\n%s%s", at, e.stdout, e.stderr)
			continue
		}
		if strings.Contains(e.stderr, "panic:") || strings.Contains(e.stderr, "goroutine ") {
			t.Errorf("%s: %s", at, e.stderr)
		}
		if m := waitingFor.FindStringSubmatch(e.stderr); m != nil {
			waited++
			if m[1] != fmt.Sprint(out[1-i].pid) {
				t.Errorf("%s: it waits for process %s, the other is %d:\n%s", at, m[1], out[1-i].pid, e.stderr)
			}
			// The message names the other process by its command line.
			if first := other.argv[0]; !strings.Contains(m[2], first) {
				t.Errorf("%s: it waits for %q, the other is %v", at, m[2], other.argv)
			}
			if want == concurrent {
				t.Errorf("%s: it waits, although they take no common lock:\n%s", at, e.stderr)
			}
		} else if strings.Contains(e.stderr, "waiting for another aivm") {
			t.Errorf("%s: it waits and does not name the other process:\n%s", at, e.stderr)
		}
		switch {
		case e.code == 0, slices.Contains(me.ends, e.code):
		case other.disrupts && strings.Contains(e.stderr, "error: ") && mayRefuse.MatchString(e.stderr):
		default:
			t.Errorf("%s: exit %d\n%s%s", at, e.code, e.stdout, e.stderr)
		}
	}
	p.records(t, a, b, out)
	p.mu.Lock()
	defer p.mu.Unlock()
	key := fmt.Sprintf("%-14s %-14s %-12s", a.name, b.name, want)
	p.table[key] = append(p.table[key], fmt.Sprintf("%d+%d", out[0].code, out[1].code)+strings.Repeat("w", waited))
}

// records checks that the config lost no record and has the changes of both commands, that ssh's
// configuration is intact, and that no lock is held.
func (p *pairWorld) records(t *testing.T, a, b pairVerb, out [2]outcome) {
	t.Helper()
	at := a.name + " beside " + b.name
	if r := p.aivm("", "config", "lint"); r.code != 0 {
		t.Errorf("%s: config lint: %+v", at, r)
	}
	config := string(mustRead(t, filepath.Join(p.home, ".config/aivm/config.toml")))
	did := func(name string) bool {
		return a.name == name && out[0].code == 0 || b.name == name && out[1].code == 0
	}
	tried := func(name string) bool { return a.name == name || b.name == name }
	gone := tried("delete")
	for what, want := range map[string]bool{
		"name = \"" + p.vm + "\"":       !gone,
		filepath.Join(p.home, "p1"):     !gone,
		"# mine":                        true,
		filepath.Join(p.home, "p2"):     !gone && did("attach") && !tried("detach"),
		"# edited":                      did("config edit"),
		"settings_exclude = [\"pairs\"": true,
	} {
		if want && !strings.Contains(config, what) {
			t.Errorf("%s: the config lost %q:\n%s", at, what, config)
		}
	}
	if did("detach") && !tried("attach") && strings.Contains(config, filepath.Join(p.home, "p2")+`"`) {
		t.Errorf("%s: the folder is still recorded:\n%s", at, config)
	}
	if did("delete") && (tried("up") || tried("down") || tried("attach") || tried("snapshot") || tried("rollback")) && (strings.Contains(config, "[[vms]]") || domstate(p.vm) != "") {
		t.Errorf("%s: the deleted VM was created again (%q):\n%s", at, domstate(p.vm), config)
	}
	if n := strings.Count(config, "[[vms]]"); n > 1 {
		t.Errorf("%s: %d records of VMs:\n%s", at, n, config)
	}
	if n := strings.Count(config, filepath.Join(p.home, "p2")+`"`); n > 2 { // host_path and guest_dst
		t.Errorf("%s: the folder is recorded twice:\n%s", at, config)
	}
	if !gone {
		conf := string(mustRead(t, filepath.Join(p.home, ".ssh/config")))
		if strings.Count(conf, "Include") != 1 || !strings.Contains(conf, "Host other") {
			t.Errorf("%s: ~/.ssh/config:\n%s", at, conf)
		}
	}
	// No lock is held any more.
	locks, _ := filepath.Glob(filepath.Join(p.home, ".local/state/aivm/locks/*.lock"))
	for _, l := range locks {
		if out, err := exec.Command("flock", "-n", l, "true").CombinedOutput(); err != nil {
			t.Errorf("%s: %s is held: %v %s", at, l, err, out)
		}
	}
}

func mustRead(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// printTable logs the table.
func printTable(t *testing.T, table map[string][]string) {
	t.Helper()
	var lines []string
	for k, v := range table {
		lines = append(lines, k+strings.Join(v, " "))
	}
	slices.Sort(lines)
	t.Logf("pairs, expected behaviour, exit statuses of each round (w: one waited)\n%s", strings.Join(lines, "\n"))
}
