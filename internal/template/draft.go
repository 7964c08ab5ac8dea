package template

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"aivm.dev/aivm/internal/bootdisk"
	"aivm.dev/aivm/internal/guestd"
	"aivm.dev/aivm/internal/qemu"
)

// Draft is a template that is being made. The order is: NewDraft, Start as often as
// the setup needs (with a card, ended by PowerOff), Start once more without a card,
// Session.Prepare, Save, Publish. The caller holds Store.Lock of the name and calls
// Discard at the end, whatever happened.
type Draft struct {
	Meta
	store Store
	dir   string
	ram   *os.File
}

// NewDraft begins a template from a disk image, in place of an earlier draft of the
// name. agent is the first program of the guest.
func (s Store) NewDraft(ctx context.Context, key Key, program qemu.Program, image string, agent []byte) (d *Draft, err error) {
	if !NameForm.MatchString(key.Name) {
		return nil, fmt.Errorf("%q is not a name of a template", key.Name)
	}
	if err := s.CheckDir(); err != nil {
		return nil, err
	}
	d = &Draft{Meta: Meta{Key: key, Program: program, Notes: map[string]string{}}, store: s, dir: filepath.Join(s.Dir, draftMark+key.Name)}
	if err := os.RemoveAll(d.dir); err != nil {
		return nil, err
	}
	if err := os.Mkdir(d.dir, 0o700); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			d.Discard()
		}
	}()
	base := filepath.Join(d.dir, baseFile)
	if err := linkOrCopy(image, base); err != nil {
		return nil, err
	}
	if err := d.inspect(base); err != nil {
		return nil, err
	}
	boot, err := bootdisk.Extract(ctx, base, d.dir, agent)
	if err != nil {
		return nil, err
	}
	boot.Kernel, boot.Initrd = filepath.Base(boot.Kernel), filepath.Base(boot.Initrd)
	d.Boot = boot
	disk, err := os.OpenFile(d.path(diskFile), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	defer disk.Close()
	return d, bootdisk.Overlay(disk, key.diskBytes())
}

// Disk is the file of the draft's disk above the image. It may be copied and replaced
// while no VM of the draft runs.
func (d *Draft) Disk() string { return d.path(diskFile) }

func (d *Draft) path(name string) string { return filepath.Join(d.dir, name) }

// inspect records what the image is.
func (d *Draft) inspect(base string) error {
	f, err := os.Open(base)
	if err != nil {
		return err
	}
	defer f.Close()
	if d.Base, err = bootdisk.Inspect(f); err != nil {
		return err
	}
	if d.Base.Size > d.Key.diskBytes() {
		return fmt.Errorf("a disk of %d GiB is smaller than the image, which has %d bytes", d.Key.DiskGiB, d.Base.Size)
	}
	return nil
}

// linkOrCopy gives a file another name, or copies it where that is not possible: the
// template must outlive the image cache's file.
func linkOrCopy(from, to string) error {
	from, err := filepath.EvalSymlinks(from)
	if err != nil {
		return err
	}
	if st, err := os.Stat(from); err == nil && st.Mode().Perm()&0o222 == 0 && os.Link(from, to) == nil {
		return nil
	}
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o400)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	if e := out.Close(); err == nil {
		err = e
	}
	return err
}

// Start boots the draft. What the guest writes goes to the template's disk, its
// memory to the template's memory.
func (d *Draft) Start(ctx context.Context, o Options) (*Running, error) {
	r := &Running{last: time.Now(), Cold: true}
	var open files
	defer func() { open.close() }()
	c := d.Key.config(d.Program)
	c.Log, c.ShareRAM = o.Log, true
	d.boot(&c, d.dir)
	err := d.newMemory()
	if err == nil {
		c.RAM = d.ram
		c.Disk, err = d.layers(&open)
	}
	if err == nil {
		r.step("files")
		err = r.start(ctx, c)
	}
	if err != nil {
		closeNIC(o.NIC)
		return nil, fmt.Errorf("booting the template %s: %w", d.Key.Name, err)
	}
	return r.run(ctx, o, nil)
}

// newMemory begins the file of the memory again.
func (d *Draft) newMemory() error {
	d.closeMemory()
	if err := os.Remove(d.path(ramFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := os.OpenFile(d.path(ramFile), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	d.ram = f
	return f.Truncate(int64(d.Key.MemoryMiB) << 20)
}

func (d *Draft) closeMemory() {
	if d.ram != nil {
		_ = d.ram.Close()
		d.ram = nil
	}
}

func (d *Draft) layers(open *files) ([]qemu.Layer, error) {
	base, err := open.open(d.dir, baseFile, os.O_RDONLY)
	if err != nil {
		return nil, err
	}
	disk, err := open.open(d.dir, diskFile, os.O_RDWR)
	if err != nil {
		return nil, err
	}
	return []qemu.Layer{{File: base, Format: d.Base.Format}, {File: disk, Format: "qcow2"}}, nil
}

// settle is how long a guest is given to notice that the host closed its ports.
const settle = 300 * time.Millisecond

// Save saves a VM of the draft whose guest was prepared (Session.Prepare) and ends
// it.
func (d *Draft) Save(ctx context.Context, r *Running) error {
	defer r.Close()
	_ = r.Control.Close()
	_ = r.FS.Close()
	select {
	case <-time.After(settle):
	case <-ctx.Done():
		return ctx.Err()
	}
	state, err := os.OpenFile(d.path(stateFile), os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer state.Close()
	if err := r.VM.Save(ctx, state); err != nil {
		return err
	}
	b, err := readBounded(d.path(stateFile), qemu.MaxState)
	if err != nil {
		return err
	}
	d.StateDigest = digest(b)
	st, err := os.Stat(d.path(diskFile))
	if err != nil {
		return err
	}
	d.DiskBytes = st.Size()
	d.Created = time.Now().UTC().Truncate(time.Second)
	for _, name := range []string{ramFile, stateFile, diskFile} {
		if err := syncFile(d.path(name)); err != nil {
			return err
		}
	}
	if err := os.Chmod(d.path(diskFile), 0o400); err != nil {
		return err
	}
	b, err = json.MarshalIndent(d.Meta, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(d.path(metaFile), append(b, '\n'), 0o600); err != nil {
		return err
	}
	return syncFile(d.path(metaFile))
}

func syncFile(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}

// Publish resumes the draft once as a trial and gives it its name. check is what the
// trial does with the guest; it does not close the session. Earlier templates of the
// name are removed.
func (d *Draft) Publish(ctx context.Context, check func(context.Context, *guestd.Session) error) (Template, error) {
	t := Template{Meta: d.Meta, Dir: d.dir}
	if err := d.trial(ctx, t, check); err != nil {
		return Template{}, fmt.Errorf("the trial of the new template %s: %w", d.Key.Name, err)
	}
	d.closeMemory()
	t.Dir = filepath.Join(d.store.Dir, d.Key.Digest())
	err := unix.Renameat2(unix.AT_FDCWD, d.dir, unix.AT_FDCWD, t.Dir, unix.RENAME_NOREPLACE)
	if errors.Is(err, unix.EEXIST) {
		// The same key, set up again. Runs may map the earlier one.
		err = unix.Renameat2(unix.AT_FDCWD, d.dir, unix.AT_FDCWD, t.Dir, unix.RENAME_EXCHANGE)
	}
	if err != nil {
		return Template{}, &os.LinkError{Op: "rename", Old: d.dir, New: t.Dir, Err: err}
	}
	d.Discard()
	all, err := d.store.List()
	for _, other := range all {
		if other.Key.Name == t.Key.Name && other.Dir != t.Dir {
			err = errors.Join(err, d.store.Remove(other))
		}
	}
	return t, err
}

func (d *Draft) trial(ctx context.Context, t Template, check func(context.Context, *guestd.Session) error) error {
	r, err := d.store.Resume(ctx, t, Options{})
	if err != nil {
		return err
	}
	defer r.Close()
	s, err := r.Connect(ctx)
	if err != nil {
		return err
	}
	defer s.Close()
	if check == nil {
		return nil
	}
	return check(ctx, s)
}

// Discard deletes the draft. After Publish nothing remains to be deleted but what the
// new template replaced.
func (d *Draft) Discard() {
	d.closeMemory()
	_ = os.RemoveAll(d.dir)
}
