package templates

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"aivm.dev/aivm/internal/program"
	"aivm.dev/aivm/internal/qemu"
	"aivm.dev/aivm/internal/template"
	"aivm.dev/aivm/internal/ui"
)

// hypervisor is the real Backend: QEMU, started by this user.
type hypervisor struct{ dir string }

// machinery is what Machinery stands for.
type machinery struct {
	program qemu.Program
	accel   string
	agent   []byte
}

// setupNote is the note of a template that has its Setup, as JSON.
const setupNote = "setup"

func (h hypervisor) store() template.Store { return template.Store{Dir: h.dir} }

// Check finds QEMU, asks it what it is, and tries whether KVM works.
func (h hypervisor) Check(ctx context.Context) (Machinery, error) {
	path, err := qemu.Find()
	if err != nil {
		return Machinery{}, err
	}
	p, err := h.probe(ctx, path)
	if err != nil {
		return Machinery{}, ui.Failed("%w", err)
	}
	agent, err := program.Agent(runtime.GOARCH)
	if err != nil {
		return Machinery{}, ui.Failed("aivm's program for the guest: %w", err)
	}
	accel, why := qemu.Accelerated(ctx, p)
	return Machinery{QEMU: p.Version.String(), Accel: accel, Why: why, real: machinery{p, accel, agent}}, nil
}

// probe asks QEMU what it is, unless a template knows it already.
func (h hypervisor) probe(ctx context.Context, path string) (qemu.Program, error) {
	all, _ := h.store().List()
	stamp, err := qemu.Stamp(path)
	for _, t := range all {
		if err == nil && t.Damaged == "" && t.Program.Path == path && t.Program.Stamp == stamp {
			return t.Program, nil
		}
	}
	return qemu.Probe(ctx, path)
}

// key returns the key of a template on this machine.
func (m machinery) key(s Spec, image string, setup string) template.Key {
	return template.NewKey(template.Wanted{
		Name: s.Name, Program: m.program, Accel: m.accel, MemoryMiB: s.MemoryMB, CPUs: s.CPUs, DiskGiB: s.DiskGB,
		Image: image, Agent: m.agent, Setup: []byte(setup),
	})
}

// Published reads the templates.
func (h hypervisor) Published(m *Machinery) ([]Published, error) {
	all, err := h.store().List()
	if err != nil {
		return nil, err
	}
	var out []Published
	for _, t := range all {
		p := Published{
			Name: t.Key.Name, Key: filepath.Base(t.Dir), Created: t.Created, Accel: t.Key.Accel, Size: t.Bytes(), Damaged: t.Damaged,
		}
		if err := json.Unmarshal([]byte(t.Notes[setupNote]), &p.Setup); err != nil && p.Damaged == "" {
			p.Damaged = "what it was built from is not recorded"
		}
		if m != nil && p.Damaged == "" {
			here := m.real.(machinery).key(p.Setup.Spec, p.Setup.ImageSHA256, p.Setup.Digest)
			p.Stale = strings.Join(t.Stale(here), "; ")
		}
		out = append(out, p)
	}
	return out, nil
}

// Building reports whether a setup holds the lock of the name.
func (h hypervisor) Building(name string) bool {
	return h.store().Building(name)
}

// Begin begins a template.
func (h hypervisor) Begin(ctx context.Context, d DraftSpec) (_ Draft, err error) {
	s := h.store()
	if err := s.CheckDir(); err != nil {
		return nil, ui.Failed("the directory of the templates: %w", err).Hint(ui.Remark("XDG_CACHE_HOME can name another place"))
	}
	release, _, err := s.Lock(ctx, d.Spec.Name, "aivm setup", func(holder string) func(error) {
		d.Waiting(holder)
		return func(error) {}
	})
	if err != nil {
		return nil, ui.Failed("locking the template: %w", err)
	}
	defer func() {
		if err != nil {
			release()
		}
	}()
	if err := s.Reap(); err != nil {
		return nil, ui.Failed("removing what an interrupted setup left: %w", err)
	}
	m := d.Machinery.real.(machinery)
	td, err := s.NewDraft(ctx, m.key(d.Spec, d.SHA256, d.Digest), m.program, d.Image, m.agent)
	if err != nil {
		return nil, writeError(h.dir, err)
	}
	return &draft{Draft: td, disk: td.Disk(), release: release}, nil
}

// draft is the real Draft.
type draft struct {
	*template.Draft
	disk    string
	release func()
}

// Keep copies the disk.
func (d *draft) Keep(to string) error { return copyFile(d.disk, to) }

// Restore replaces the disk.
func (d *draft) Restore(from string) error {
	if err := os.Remove(d.disk); err != nil {
		return writeError(filepath.Dir(d.disk), err)
	}
	if err := copyFile(from, d.disk); err != nil {
		return writeError(filepath.Dir(d.disk), err)
	}
	return nil
}

// Publish prepares and saves the VM and publishes the template.
func (d *draft) Publish(ctx context.Context, vm Machine, warm [][]string, s Setup) error {
	m, ok := vm.(*machine)
	if !ok {
		return errors.New("the VM is none of this backend")
	}
	b, err := json.Marshal(s)
	if err != nil {
		return err
	}
	d.Notes[setupNote] = string(b)
	for name, version := range s.Versions {
		d.Notes["version "+name] = version
	}
	if err := m.session.Prepare(ctx, warm...); err != nil {
		return m.failed(err)
	}
	if err := d.Save(ctx, m.running); err != nil {
		return ui.Failed("saving the VM: %w", err)
	}
	if _, err := d.Draft.Publish(ctx, tryVM); err != nil {
		return ui.Failed("%w", err)
	}
	return nil
}

// Close discards the draft.
func (d *draft) Close() {
	d.Discard()
	d.release()
}
