package template

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"aivm.dev/aivm/internal/bootdisk"
	"aivm.dev/aivm/internal/qemu"
)

func testKey(name string) Key {
	return NewKey(Wanted{
		Name: name, Accel: "tcg", MemoryMiB: 128, CPUs: 2, DiskGiB: 4, Image: digest([]byte("image")), Agent: []byte("agent"), Setup: []byte("git"),
		Program: qemu.Program{Path: "/usr/bin/qemu-system-x86_64", Arch: "x86_64", Version: qemu.Version{Major: 7, Minor: 2}, Digest: digest([]byte("qemu")), Machine: "pc-q35-7.2"},
	})
}

// fake publishes a template that has the files of one, without a VM.
func fake(t *testing.T, s Store, name string, created time.Time) Template {
	t.Helper()
	k := testKey(name)
	dir := filepath.Join(s.Dir, k.Digest())
	m := Meta{Key: k, Created: created, DiskBytes: 10, StateDigest: digest([]byte("state")), Base: bootdisk.Image{Format: "raw", Size: 512}, Boot: bootdisk.Boot{Kernel: "vmlinuz", Initrd: "initrd"}}
	b, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for file, content := range map[string]string{metaFile: string(b), ramFile: "", diskFile: "0123456789", stateFile: "state", baseFile: "", "vmlinuz": "k", "initrd": "i"} {
		if err := os.WriteFile(filepath.Join(dir, file), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Truncate(filepath.Join(dir, ramFile), 128<<20); err != nil {
		t.Fatal(err)
	}
	return read(dir)
}

func TestDifferences(t *testing.T) {
	k := testKey("default")
	if d := k.Differences(k); d != nil {
		t.Error(d)
	}
	for want, change := range map[string]func(*Key){
		"the QEMU program changed":                       func(k *Key) { k.QEMU = digest([]byte("another")) },
		"QEMU's version changed from 7.2.0 to 8.2.0":     func(k *Key) { k.Version = "8.2.0" },
		"the memory changed from 128 to 2048":            func(k *Key) { k.MemoryMiB = 2048 },
		"the acceleration changed from tcg to kvm":       func(k *Key) { k.Accel = "kvm" },
		"aivm's program in the guest changed":            func(k *Key) { k.Agent = digest([]byte("another")) },
		"this machine's CPU or kernel changed":           func(k *Key) { k.HostCPU = digest([]byte("cpu")) },
		"the image changed":                              func(k *Key) { k.Image = digest([]byte("another")) },
		"the packages or scripts of the setup changed":   func(k *Key) { k.Setup = digest(nil) },
		"the list of devices changed":                    func(k *Key) { k.Devices = digest(nil) },
		"the machine type changed from pc-q35-7.2 to pc": func(k *Key) { k.Machine = "pc" },
	} {
		other := k
		change(&other)
		got := k.Differences(other)
		if len(got) != 1 || !strings.HasPrefix(got[0], strings.TrimSuffix(want, " changed")) || !strings.HasPrefix(got[0], want) && want != "this machine's CPU or kernel changed" {
			t.Errorf("got %q, want %q", got, want)
		}
		if other.Digest() == k.Digest() {
			t.Errorf("%s: the same digest", want)
		}
	}
}

// TestKeyHasTheHost checks that a key for KVM has this machine's CPU in it.
func TestKeyHasTheHost(t *testing.T) {
	w := Wanted{Name: "default", Accel: "kvm", MemoryMiB: 128, CPUs: 1, DiskGiB: 4}
	if k := NewKey(w); !isDigest(k.HostCPU) || k.CPU != "host" {
		t.Errorf("%+v", k)
	}
	w.Accel = "tcg"
	if k := NewKey(w); k.HostCPU != "" {
		t.Errorf("%+v", k)
	}
}

func TestStore(t *testing.T) {
	s := Store{t.TempDir()}
	if all, err := (Store{filepath.Join(s.Dir, "none")}).List(); err != nil || all != nil {
		t.Error(all, err)
	}
	now := time.Now()
	fake(t, s, "old", now.Add(-31*24*time.Hour))
	fake(t, s, "default", now)
	if err := os.Mkdir(filepath.Join(s.Dir, "something-else"), 0o700); err != nil {
		t.Fatal(err)
	}
	all, err := s.List()
	if err != nil || len(all) != 2 || all[0].Key.Name != "default" || all[0].Old(now) || !all[1].Old(now) {
		t.Fatalf("%+v %v", all, err)
	}
	d, ok, err := s.Find("default")
	if !ok || err != nil || d.Stale(testKey("default")) != nil || d.Bytes() == 0 {
		t.Fatal(d, ok, err)
	}
	if _, ok, _ := s.Find("other"); ok {
		t.Error("found a template that does not exist")
	}
	for _, dir := range []string{s.Dir, filepath.Join(s.Dir, "something-else"), filepath.Join(s.Dir, "..", filepath.Base(d.Dir)), "/"} {
		if err := s.Remove(Template{Dir: dir}); err == nil {
			t.Errorf("removed %s", dir)
		}
	}
	if err := s.Remove(d); err != nil {
		t.Fatal(err)
	}
	if all, _ := s.List(); len(all) != 1 {
		t.Error(all)
	}
}

// TestDamaged checks that a template whose files were changed is named as damaged and
// is not resumed.
func TestDamaged(t *testing.T) {
	for name, damage := range map[string]func(dir string) error{
		"no meta":         func(dir string) error { return os.Remove(filepath.Join(dir, metaFile)) },
		"meta is garbage": func(dir string) error { return os.WriteFile(filepath.Join(dir, metaFile), []byte("{"), 0o600) },
		"another's meta":  func(dir string) error { return os.WriteFile(filepath.Join(dir, metaFile), []byte("{}"), 0o600) },
		"huge meta":       func(dir string) error { return os.Truncate(filepath.Join(dir, metaFile), maxMeta+1) },
		"short memory":    func(dir string) error { return os.Truncate(filepath.Join(dir, ramFile), 1<<20) },
		"no memory":       func(dir string) error { return os.Remove(filepath.Join(dir, ramFile)) },
		"memory is a link": func(dir string) error {
			return errors.Join(os.Remove(filepath.Join(dir, ramFile)), os.Symlink("/dev/zero", filepath.Join(dir, ramFile)))
		},
		"short disk":  func(dir string) error { return os.Truncate(filepath.Join(dir, diskFile), 5) },
		"short state": func(dir string) error { return os.Truncate(filepath.Join(dir, stateFile), 2) },
		"other state": func(dir string) error { return os.WriteFile(filepath.Join(dir, stateFile), []byte("STATE"), 0o600) },
		"no state":    func(dir string) error { return os.Remove(filepath.Join(dir, stateFile)) },
	} {
		s := Store{t.TempDir()}
		tm := fake(t, s, "default", time.Now())
		if _, err := tm.state(); err != nil {
			t.Fatal(err)
		}
		if err := damage(tm.Dir); err != nil {
			t.Fatal(err)
		}
		all, err := s.List()
		if err != nil || len(all) != 1 {
			t.Fatalf("%s: %v %v", name, all, err)
		}
		if all[0].Damaged != "" && len(all[0].Stale(testKey("default"))) != 1 {
			t.Errorf("%s: damaged and not stale", name)
		}
		if _, err := s.Resume(t.Context(), all[0], Options{}); err == nil {
			t.Errorf("%s: resumed", name)
		}
		// The guest's memory and the state of its devices are not needed for a boot.
		boots := !strings.Contains(name, "meta") && !strings.Contains(name, "disk")
		if err := all[0].bootable(); (err == nil) != boots {
			t.Errorf("%s: bootable: %v", name, err)
		}
	}
}

// TestReap checks that what killed runs left is deleted, and that a draft that is
// being filled is not.
func TestReap(t *testing.T) {
	s := Store{t.TempDir()}
	kept := fake(t, s, "default", time.Now())
	release, _, err := s.Lock(t.Context(), "busy", "test", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	for _, dir := range []string{draftMark + "dead", draftMark + "busy", removeMark + "123"} {
		if err := os.MkdirAll(filepath.Join(s.Dir, dir, "sub"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if !s.Building("busy") || s.Building("dead") || s.Building("../busy") {
		t.Error("Building is wrong")
	}
	if err := s.Reap(); err != nil {
		t.Fatal(err)
	}
	ents, _ := os.ReadDir(s.Dir)
	var names []string
	for _, e := range ents {
		names = append(names, e.Name())
	}
	if got := strings.Join(names, " "); got != draftMark+"busy "+lockMark+"busy "+filepath.Base(kept.Dir) {
		t.Error(got)
	}
}

func TestCheckDir(t *testing.T) {
	if err := (Store{filepath.Join(t.TempDir(), "a", "b")}).CheckDir(); err != nil && !strings.Contains(err.Error(), "in memory") {
		t.Error(err)
	}
	dir, err := os.MkdirTemp("/dev/shm", "aivm-test-")
	if err != nil {
		t.Skip(err)
	}
	defer os.RemoveAll(dir)
	if err := (Store{dir}).CheckDir(); err == nil || !strings.Contains(err.Error(), "in memory") {
		t.Error(err)
	}
}

// TestUnnamed checks that the file of a run's disk leaves nothing in its directory.
func TestUnnamed(t *testing.T) {
	dir := t.TempDir()
	f, err := unnamed(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if ents, err := os.ReadDir(dir); err != nil || len(ents) != 0 {
		t.Error(ents, err)
	}
	if err := bootdisk.Overlay(f, 4<<30); err != nil {
		t.Error(err)
	}
}
