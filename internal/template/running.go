package template

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"aivm.dev/aivm/internal/bootdisk"
	"aivm.dev/aivm/internal/guestd"
	"aivm.dev/aivm/internal/qemu"
)

// spareSlots is the number of devices that a run can add: a card and a folder.
const spareSlots = 2

// How long the agent may take to answer: a resumed one waits for the host already.
const (
	resumeAnswers = 10 * time.Second
	bootAnswers   = 4 * time.Minute
)

// Options are what differs from run to run.
type Options struct {
	// NIC is hot-plugged; nil for none. Resume and Cold take its socket over.
	NIC *qemu.NIC
	// Log receives the guest's console; nil discards it.
	Log *os.File
	// Agent replaces the template's first program of the guest in a Cold boot: the one
	// of this aivm, when the template has that of another.
	Agent []byte
}

// Running is a VM whose guest runs and that has not been spoken to.
type Running struct {
	VM *qemu.VM
	// Control is this process's end of the agent's port.
	Control net.Conn
	// FS is this process's end of the port for folders.
	FS    *os.File
	Steps []Step // how long what took
	Cold  bool   // booted, not resumed

	last time.Time
}

// Step is a part of a start and how long it took.
type Step struct {
	Name string
	Took time.Duration
}

func (r *Running) step(name string) {
	now := time.Now()
	r.Steps = append(r.Steps, Step{name, now.Sub(r.last)})
	r.last = now
}

// Close kills the VM and closes this process's ends of its ports.
func (r *Running) Close() {
	r.VM.Kill()
	_ = r.Control.Close()
	_ = r.FS.Close()
}

// Silent is the error of a VM that runs but whose guest does not answer: a template
// that does not fit. The run is booted instead.
type Silent struct{ Err error }

func (e *Silent) Error() string { return "the guest does not answer: " + e.Err.Error() }
func (e *Silent) Unwrap() error { return e.Err }

// Connect connects to the agent in the guest. If it fails, the VM has been killed,
// and the error is a *Silent or, if QEMU ended, a *qemu.Ended.
func (r *Running) Connect(ctx context.Context) (*guestd.Session, error) {
	limit := resumeAnswers
	if r.Cold {
		limit = bootAnswers
	}
	s, err := guestd.ConnectWithin(ctx, r.Control, limit)
	if err == nil {
		r.step("agent")
		return s, nil
	}
	if errors.Is(err, guestd.ErrGone) {
		select {
		case <-r.VM.Done():
			if e := r.VM.Wait(); e != nil {
				err = e
			}
		case <-time.After(time.Second):
		}
	}
	r.Close()
	if ctx.Err() != nil || errors.As(err, new(*qemu.Ended)) {
		return nil, err
	}
	return nil, &Silent{err}
}

// config is the VM of a key, without files.
func (k Key) config(p qemu.Program) qemu.Config {
	return qemu.Config{
		Program: p, Accel: k.Accel, MachineType: k.Machine, CPU: k.CPU,
		MemoryMiB: k.MemoryMiB, CPUs: k.CPUs, SpareSlots: spareSlots,
		Ports:   []qemu.Port{{Name: guestd.ControlPort}, {Name: guestd.FSPort}},
		MaxFile: bootdisk.OverlayLimit(k.diskBytes()),
	}
}

func (k Key) diskBytes() int64 { return int64(k.DiskGiB) << 30 }

// files closes what a start opened.
type files []*os.File

func (f *files) open(dir, name string, flag int) (*os.File, error) {
	o, err := os.OpenFile(filepath.Join(dir, name), flag|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0o600)
	if err == nil {
		*f = append(*f, o)
	}
	return o, err
}

func (f files) close() {
	for _, o := range f {
		_ = o.Close()
	}
}

// Resume starts a run from a template. When it returns, the guest runs; nobody has
// spoken to it (see Connect). Every failure kills QEMU; a template whose saved state
// QEMU does not accept is a *qemu.Ended.
func (s Store) Resume(ctx context.Context, t Template, o Options) (*Running, error) {
	r := &Running{last: time.Now()}
	var open files
	defer func() { open.close() }()
	c := t.Key.config(t.Program)
	c.Incoming, c.Log = true, o.Log
	state, err := t.state()
	if err == nil {
		c.RAM, err = open.open(t.Dir, ramFile, os.O_RDWR)
	}
	if err == nil {
		c.Disk, err = s.layers(t, &open)
	}
	if err == nil {
		r.step("files")
		err = r.start(ctx, c)
	}
	if err != nil {
		closeNIC(o.NIC)
		return nil, fmt.Errorf("resuming the template %s: %w", t.Key.Name, err)
	}
	err = r.VM.Resume(ctx, bytes.NewReader(state))
	r.step("state")
	return r.run(ctx, o, err)
}

// state reads the state of the devices and compares it with its digest. A state that
// was changed on the disk can do to QEMU what its author wants.
func (t Template) state() ([]byte, error) {
	if t.Damaged != "" {
		return nil, errors.New(t.Damaged)
	}
	b, err := readBounded(filepath.Join(t.Dir, stateFile), qemu.MaxState)
	if err == nil && digest(b) != t.StateDigest {
		err = errors.New("the file of its devices was changed or truncated")
	}
	return b, err
}

// Cold boots a run from a template's disk: when the template cannot be resumed.
func (s Store) Cold(ctx context.Context, t Template, o Options) (*Running, error) {
	r := &Running{last: time.Now(), Cold: true}
	var open files
	defer func() { open.close() }()
	c := t.Key.config(t.Program)
	c.Log, c.ShareRAM = o.Log, true
	t.boot(&c, t.Dir)
	var layers []qemu.Layer
	err := t.bootable()
	if err == nil {
		layers, err = s.layers(t, &open)
	}
	if err == nil && o.Agent != nil {
		err = replaceAgent(&c, o.Agent, &open)
	}
	if err == nil {
		c.Disk = layers
		c.RAM, err = memory("ram", int64(c.MemoryMiB)<<20)
	}
	if err == nil {
		open = append(open, c.RAM)
		r.step("files")
		err = r.start(ctx, c)
	}
	if err != nil {
		closeNIC(o.NIC)
		return nil, fmt.Errorf("booting the template %s: %w", t.Key.Name, err)
	}
	return r.run(ctx, o, nil)
}

// bootable says why a damaged template cannot even be booted: without its disk it is
// nothing.
func (t Template) bootable() error {
	if t.DiskBytes == 0 || t.Boot.Kernel == "" || !sizeIs(t.Dir, diskFile, t.DiskBytes) {
		return errors.New(orDamaged(t.Damaged))
	}
	return nil
}

func orDamaged(why string) string {
	if why == "" {
		return "the file of its disk is missing or truncated"
	}
	return why
}

// boot sets what a direct boot needs.
func (m Meta) boot(c *qemu.Config, dir string) {
	c.Kernel, c.Initrd, c.Append = filepath.Join(dir, m.Boot.Kernel), filepath.Join(dir, m.Boot.Initrd), m.Boot.Append
}

// replaceAgent boots with a copy of the initrd that has another agent.
func replaceAgent(c *qemu.Config, agent []byte, open *files) error {
	initrd, err := open.open(filepath.Dir(c.Initrd), filepath.Base(c.Initrd), os.O_RDONLY)
	if err != nil {
		return err
	}
	f, err := memory("initrd", 0)
	if err != nil {
		return err
	}
	*open = append(*open, f)
	if _, err := io.Copy(f, initrd); err != nil {
		return err
	}
	c.InitrdFile = f
	return bootdisk.ReplaceAgent(f, agent)
}

// memory returns a file in memory.
func memory(name string, size int64) (*os.File, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	f := os.NewFile(uintptr(fd), name)
	return f, f.Truncate(size)
}

// layers opens the disk of a template and an overlay for this run.
func (s Store) layers(t Template, open *files) ([]qemu.Layer, error) {
	base, err := open.open(t.Dir, baseFile, os.O_RDONLY)
	if err != nil {
		return nil, err
	}
	disk, err := open.open(t.Dir, diskFile, os.O_RDONLY)
	if err != nil {
		return nil, err
	}
	top, err := unnamed(s.Dir)
	if err != nil {
		return nil, err
	}
	*open = append(*open, top)
	if err := bootdisk.Overlay(top, t.Key.diskBytes()); err != nil {
		return nil, err
	}
	return []qemu.Layer{{File: base, Format: t.Base.Format}, {File: disk, Format: "qcow2"}, {File: top, Format: "qcow2"}}, nil
}

// unnamed returns a file in dir that has no name, so that nothing of it remains when
// the last process that has it open ends.
func unnamed(dir string) (*os.File, error) {
	fd, err := unix.Open(dir, unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err == nil {
		return os.NewFile(uintptr(fd), "overlay"), nil
	}
	// A file system without such files.
	name := make([]byte, 8)
	_, _ = rand.Read(name)
	path := filepath.Join(dir, removeMark+hex.EncodeToString(name))
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	if err := os.Remove(path); err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}

// start makes the ports and starts QEMU.
func (r *Running) start(ctx context.Context, c qemu.Config) error {
	control, own, err := qemu.SocketPair("control")
	if err != nil {
		return err
	}
	fs, ownFS, err := qemu.FilePair("fs")
	if err != nil {
		_ = control.Close()
		_ = own.Close()
		return err
	}
	c.Ports[0].File, c.Ports[1].File = control, fs
	r.Control, r.FS = own, ownFS
	r.VM, err = qemu.Start(ctx, c)
	if err != nil {
		_ = own.Close()
		_ = ownFS.Close()
	}
	r.step("qemu")
	return err
}

// run hot-plugs what the run has and lets the guest run.
func (r *Running) run(ctx context.Context, o Options, err error) (*Running, error) {
	if err == nil && o.NIC != nil {
		err = r.VM.HotplugNIC(ctx, *o.NIC)
		r.step("hotplug")
	} else {
		closeNIC(o.NIC)
	}
	if err == nil {
		err = r.VM.Cont(ctx)
		r.step("cont")
	}
	if err != nil {
		r.Close()
		return nil, err
	}
	return r, nil
}

func closeNIC(n *qemu.NIC) {
	if n != nil && n.Socket != nil {
		_ = n.Socket.Close()
	}
}
