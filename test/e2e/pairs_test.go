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

// A pairVerb is one side of a pair.
type pairVerb struct {
	name string
	argv []string
	// lock says what others it waits for: "vm" is the VM's lock, "image" the
	// cache's, "git" the repository's; a verb may take several.
	lock string
	// stop interrupts it after a while, as a person does: it waits for a guest
	// that never comes.
	stop time.Duration
	// ends are statuses besides 0 that say no more than that; takes says that
	// it takes away what others work on, so that these may be refused.
	ends  []int
	takes bool
	// ready is done before the pair.
	ready []string
}

const (
	beside = "runs beside"
	waits  = "one waits"
)

// expected is the outcome of a pair: two wait for each other if both take the
// same lock, and run beside each other if not.
func expected(a, b pairVerb) string {
	for _, l := range strings.Fields(a.lock) {
		if slices.Contains(strings.Fields(b.lock), l) {
			return waits
		}
	}
	return beside
}

var waitingFor = regexp.MustCompile(`waiting for aivm \(process (\d+): ([^)]*)\)?`)

// mayRefuse are words of a verb whose object the other one took away, changed,
// or is about to use. Each is a whole sentence with what to type.
var mayRefuse = regexp.MustCompile(`not found in config store|does not exist|No VM definitions|is not running|does not run|is off|was switched off|stopped|shut|is running|runs|no snapshot|No snapshot|not attached|is in use|gone|did not answer|was lost|closed|broken|refused|no longer running|did not become reachable|vanished|changed|by another run|meanwhile`)

// ended is one side's outcome.
type ended struct {
	result
	pid  int
	hung bool
}

// together starts both and waits until both have ended. The second one starts a
// bit later in each round, so that it meets the first one at another place.
func (w *world) together(a, b pairVerb, round int) [2]ended {
	w.t.Helper()
	var out [2]ended
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
			out[i] = ended{result{c.ProcessState.ExitCode(), stdout.String(), stderr.String(), time.Since(began)}, c.Process.Pid, ctx.Err() != nil}
		})
	}
	wg.Wait()
	return out
}

// pairWorld is a VM on which pairs are tried, and what was seen.
type pairWorld struct {
	*world
	vm    string
	again func() // makes it ready after a pair that took it away or switched it
	// lines of the table, by pair.
	table map[string][]string
	mu    *sync.Mutex
}

// pair runs one pair and judges it.
func (p *pairWorld) pair(t *testing.T, a, b pairVerb, round int) {
	p.t = t
	p.again()
	for _, v := range []pairVerb{a, b} {
		if len(v.ready) > 0 {
			if r := p.aivm("", v.ready...); r.code != 0 {
				t.Fatalf("making ready for %s: %+v", v.name, r)
			}
		}
	}
	out := p.together(a, b, round)
	want := expected(a, b)
	waited := 0
	for i, e := range out {
		me, other := a, b
		if i == 1 {
			me, other = b, a
		}
		at := fmt.Sprintf("%s beside %s, round %d, after %.1f s", me.name, other.name, round, e.took.Seconds())
		if e.hung {
			t.Errorf("%s: it did not end\n%s%s", at, e.stdout, e.stderr)
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
			// By the words the other was started with.
			if first := other.argv[0]; !strings.Contains(m[2], first) {
				t.Errorf("%s: it waits for %q, the other is %v", at, m[2], other.argv)
			}
			if want == beside {
				t.Errorf("%s: it waits, and should run beside the other:\n%s", at, e.stderr)
			}
		} else if strings.Contains(e.stderr, "waiting for another aivm") {
			t.Errorf("%s: it waits and does not say for whom:\n%s", at, e.stderr)
		}
		switch {
		case e.code == 0, slices.Contains(me.ends, e.code):
		case other.takes && strings.Contains(e.stderr, "error: ") && mayRefuse.MatchString(e.stderr):
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

// records: nothing that was recorded is lost, and what both did is there.
func (p *pairWorld) records(t *testing.T, a, b pairVerb, out [2]ended) {
	t.Helper()
	at := a.name + " beside " + b.name
	if r := p.aivm("", "config", "lint"); r.code != 0 {
		t.Errorf("%s: the store: %+v", at, r)
	}
	store := string(mustRead(t, filepath.Join(p.home, ".config/aivm/config.toml")))
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
		if want && !strings.Contains(store, what) {
			t.Errorf("%s: the store lost %q:\n%s", at, what, store)
		}
	}
	if did("detach") && !tried("attach") && strings.Contains(store, filepath.Join(p.home, "p2")+`"`) {
		t.Errorf("%s: the folder is still recorded:\n%s", at, store)
	}
	if did("delete") && (tried("up") || tried("down") || tried("attach") || tried("snapshot") || tried("rollback")) && (strings.Contains(store, "[[vms]]") || domstate(p.vm) != "") {
		t.Errorf("%s: the VM was made anew (%q):\n%s", at, domstate(p.vm), store)
	}
	if n := strings.Count(store, "[[vms]]"); n > 1 {
		t.Errorf("%s: %d records of VMs:\n%s", at, n, store)
	}
	if n := strings.Count(store, filepath.Join(p.home, "p2")+`"`); n > 2 { // host_path and guest_dst
		t.Errorf("%s: the folder is recorded twice:\n%s", at, store)
	}
	if !gone {
		conf := string(mustRead(t, filepath.Join(p.home, ".ssh/config")))
		if strings.Count(conf, "Include") != 1 || !strings.Contains(conf, "Host other") {
			t.Errorf("%s: ~/.ssh/config:\n%s", at, conf)
		}
	}
	// Nobody holds a lock any more.
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

// print logs the table.
func printTable(t *testing.T, table map[string][]string) {
	t.Helper()
	var lines []string
	for k, v := range table {
		lines = append(lines, k+strings.Join(v, " "))
	}
	slices.Sort(lines)
	t.Logf("pairs, what is expected, the statuses of each round (w: one waited)\n%s", strings.Join(lines, "\n"))
}
