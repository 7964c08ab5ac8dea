package host

import (
	"errors"
	"strings"
	"testing"
)

func TestOneShotChecks(t *testing.T) {
	good := func() *OneShot {
		return &OneShot{
			QEMU: "/usr/bin/qemu-system-x86_64", Version: "7.2.22", Accel: "kvm", Jails: []JailFact{{Name: "namespaces"}, {Name: "Landlock", Err: errors.New("no")}},
			Cache: "/home/u/.cache", CacheFS: "ext4", MemoryMB: 4000,
		}
	}
	f := Facts{Arch: "amd64", OS: OSRelease{ID: "debian"}}
	byID := func(cs []Check) map[string]Check {
		out := map[string]Check{}
		for _, c := range cs {
			out[c.ID] = c
		}
		return out
	}
	for id, c := range byID(good().Checks(f)) {
		if c.State != OK {
			t.Errorf("%s: %+v", id, c)
		}
	}
	for _, tt := range []struct {
		change func(*OneShot)
		id     string
		state  State
		detail string
	}{
		{func(o *OneShot) { o.QEMUErr = errors.New("qemu-system-x86_64 is not installed") }, "oneshot-qemu", Bad, "not installed"},
		{func(o *OneShot) { o.QEMUErr = errors.New("x") }, "oneshot-acceleration", Skipped, ""},
		{func(o *OneShot) { o.Version, o.Old = "6.2.0", true }, "oneshot-qemu", Bad, "QEMU 6.2.0 is older than 7.2"},
		{func(o *OneShot) { o.ImgErr = errors.New("x") }, "oneshot-qemu", Bad, "qemu-img"},
		{func(o *OneShot) { o.Accel, o.Why = "tcg", "/dev/kvm: permission denied" }, "oneshot-acceleration", OK, "emulation, several times slower than KVM: /dev/kvm: permission denied"},
		{func(o *OneShot) { o.Jails[0].Err = errors.New("EPERM") }, "oneshot-jail", Bad, "(namespaces: EPERM; Landlock: no)"},
		{func(o *OneShot) { o.MemoryMB = 700 }, "oneshot-memory", Bad, "700 MiB"},
		{func(o *OneShot) { o.MemoryMB = 0 }, "oneshot-memory", Unknown, ""},
		{func(o *OneShot) { o.CacheFS = "tmpfs" }, "oneshot-disk", Bad, "would take memory"},
		{func(o *OneShot) { o.TmpFile = errors.New("operation not supported") }, "oneshot-disk", OK, "O_TMPFILE"},
	} {
		o := good()
		tt.change(o)
		if c := byID(o.Checks(f))[tt.id]; c.State != tt.state || !strings.Contains(c.Detail, tt.detail) || c.State == Bad && len(c.Fix) == 0 && !o.Old {
			t.Errorf("%s: %+v", tt.id, c)
		}
	}
	if cs := (*OneShot)(nil).Checks(f); len(cs) != 1 || cs[0].State != Skipped {
		t.Errorf("%+v", cs)
	}
}
