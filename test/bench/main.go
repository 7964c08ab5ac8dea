// Command bench measures the figures aivm promises, each beside its rival and
// its bar, on real VMs: libvirt, QEMU, cloud-init, OpenSSH. `make bench` runs
// it as root; it prints one table.
//
// It owns what it makes: four VMs, a storage pool, a throwaway user, networks
// that were not there before, a home for root below its work directory. All
// of it leaves at the end, on failure and on Ctrl-C; what a killed run left is
// removed by the next one. It touches nobody else's VM.
//
// Invariants: a figure is measured from outside the program wherever that is
// possible, and rivals are measured in the same run, alternating. A bar that
// is missed is a line in the table; the exit status says only whether
// everything was measured.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// cacheHome holds the guest image between runs, as for the end-to-end tests.
const cacheHome = "/var/cache/aivm-test"

// bench is one run.
type bench struct {
	ctx      context.Context
	bin      string // the programs: aivm, aivm-faulty, code
	work     string
	pairs    int // of boots
	warm     int // pairs of warm runs
	root     *world
	user     *world
	packets  *packets
	table    table
	networks []string        // that were there before
	starts   []time.Duration // of cold creates that had to put the image into the pool
}

func main() {
	if len(os.Args) > 2 && os.Args[1] == peakFlag {
		os.Exit(runPeak(os.Args[2:]))
	}
	os.Exit(run())
}

func run() int {
	b := &bench{work: filepath.Join(cacheHome, "bench")}
	var only string
	var short bool
	flag.StringVar(&b.bin, "bin", "", "the `directory` of aivm, aivm-faulty and code")
	flag.StringVar(&only, "only", "", "measure these `parts` alone (comma separated): vm, wall, further, start, seed, doctor, user, prepare; or of vm alone list, warm, folders, settings, git, tree, later")
	flag.BoolVar(&short, "short", false, "one pair of boots and three of warm runs, to try the bench itself")
	flag.Parse()
	b.pairs, b.warm = 3, 15
	if short || os.Getenv("BENCH_PAIRS") == "1" {
		b.pairs, b.warm = 1, 3
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second Ctrl-C kills
	b.ctx = ctx
	if err := b.measure(only); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		return 1
	}
	if b.table.failed {
		return 1
	}
	return 0
}

// measure runs the parts and prints the table, also of a run that was cut
// short.
func (b *bench) measure(only string) (err error) {
	if os.Geteuid() != 0 {
		return errors.New("root is needed (make bench uses sudo)")
	}
	if b.bin, err = filepath.Abs(b.bin); err != nil {
		return err
	}
	unlock, err := lock(filepath.Join(cacheHome, "bench.lock"))
	if err != nil {
		return err
	}
	defer unlock()
	b.root, b.user = b.rootWorld(), b.userWorld()
	if _, err := os.Stat(b.work); err == nil {
		b.say("removing what an earlier run left")
		if err := b.cleanUp(); err != nil {
			return err
		}
	}
	defer func() {
		b.say("cleaning up")
		err = errors.Join(err, b.cleanUp())
	}()
	if b.networks, err = networks(b.ctx); err != nil {
		return err
	}
	if err := b.prepare(); err != nil {
		return err
	}
	if b.packets, err = listen(); err != nil {
		return err
	}
	defer b.packets.close()

	wanted := strings.FieldsFunc(only, func(r rune) bool { return r == ',' })
	var ofVM []string
	for _, name := range wanted {
		if slices.Contains(vmParts, name) {
			ofVM = append(ofVM, name)
		}
	}
	if slices.Contains(wanted, "vm") {
		ofVM = nil // all of it
	}
	type part struct {
		name string
		run  func() error
	}
	parts := []part{
		{"vm", func() error { return b.measureVM(ofVM) }},
		{"wall", b.measureWall},
		{"further", b.measureFurther},
		{"start", b.measureStart},
		{"seed", b.measureSeed},
		{"doctor", b.measureDoctor},
		{"user", b.measureUser},
		{"prepare", b.measurePrepare},
	}
	for _, name := range wanted {
		if !slices.Contains(vmParts, name) && !slices.ContainsFunc(parts, func(p part) bool { return p.name == name }) {
			return fmt.Errorf("there is no part %q: see -help", name)
		}
	}
	for _, p := range parts {
		if len(wanted) == 0 || slices.Contains(wanted, p.name) || p.name == "vm" && len(ofVM) > 0 {
			b.try(p.name, p.run)
		}
	}
	b.table.print(os.Stdout)
	return b.ctx.Err()
}

// try runs one part; what it could not measure becomes a line of the table,
// and the other parts go on.
func (b *bench) try(name string, f func() error) {
	if b.ctx.Err() != nil {
		return
	}
	began := time.Now()
	if err := f(); err != nil {
		b.table.notMeasured(name, err)
		b.say("%s: not measured: %v", name, err)
		return
	}
	b.say("%s: done in %.0f s", name, time.Since(began).Seconds())
}

// say tells the person who waits; results go to stdout.
func (b *bench) say(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "bench: "+format+"\n", args...)
}

// sleep waits unless the run is being ended.
func (b *bench) sleep(d time.Duration) error {
	select {
	case <-b.ctx.Done():
		return b.ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// lock keeps a second bench away: both would use the same names.
func lock(path string) (func(), error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("another bench is running: %w", err)
	}
	return func() { _ = f.Close() }, nil
}
