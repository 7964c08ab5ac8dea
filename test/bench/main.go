// Command bench measures aivm's performance goals on real VMs (libvirt, QEMU, cloud-init, OpenSSH),
// each with its reference and its limit. `make bench` runs it as root; it prints one table.
//
// It owns what it creates: four VMs, a storage pool, a throwaway user, new networks, and a home for
// root below its work directory. It removes all of them at the end, on failure and on Ctrl-C; the
// next run removes what a killed run could not. It touches no other VM.
//
// Invariants: a figure is measured from outside the program wherever that is possible, and
// references are measured in the same run, alternating. An exceeded limit is a line in the table;
// the exit status says only whether everything was measured.
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
	bin      string // directory of the programs aivm, aivm-faulty and code
	work     string
	pairs    int // pairs of boots
	warm     int // pairs of warm runs
	root     *world
	user     *world
	packets  *packets
	table    table
	networks []string        // networks that existed before
	starts   []time.Duration // times of cold creates that had to upload the image to the pool
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
	flag.StringVar(&only, "only", "", "measure only these `parts` (comma separated): vm, wall, further, start, seed, doctor, user, prepare; or the parts of vm: list, warm, folders, settings, git, tree, later")
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

// measure runs the parts and prints the table, also if the run was interrupted.
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
		b.say("removing the remains of an earlier run")
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
	defer b.packets.stop()

	wanted := strings.FieldsFunc(only, func(r rune) bool { return r == ',' })
	var ofVM []string
	for _, name := range wanted {
		if slices.Contains(vmParts, name) {
			ofVM = append(ofVM, name)
		}
	}
	if slices.Contains(wanted, "vm") {
		ofVM = nil // all its parts
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
	b.table.write(os.Stdout)
	return b.ctx.Err()
}

// try runs one part. If it fails, the error becomes a line of the table, and the other parts still
// run.
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

// say prints a message for the user to stderr; results go to stdout.
func (b *bench) say(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "bench: "+format+"\n", args...)
}

// sleep waits, unless the run is being stopped.
func (b *bench) sleep(d time.Duration) error {
	select {
	case <-b.ctx.Done():
		return b.ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// lock refuses a second bench at the same time: both would use the same names.
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
