package host

import (
	"errors"
	"io/fs"
	"slices"
	"strings"
	"syscall"
	"testing"

	"aivm.dev/aivm/internal/plan"
	"aivm.dev/aivm/internal/root"
	"aivm.dev/aivm/internal/ui"
)

func planned(t *testing.T, f Facts, need Need) (ids, packages []string) {
	t.Helper()
	as, err := Plan(f, need)
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range as {
		ids = append(ids, a.ID)
		if op, ok := a.Root.(root.Packages); ok {
			packages = op.Names
			if a.Consent != plan.Ask {
				t.Error("packages are installed without consent")
			}
		} else if a.Consent != plan.None {
			t.Errorf("%s asks for consent", a.ID)
		}
		if a.Why == "" || len(a.Shows) == 0 {
			t.Errorf("%s has no text", a.ID)
		}
	}
	return ids, packages
}

func TestPlanPackages(t *testing.T) {
	base := []string{"qemu-system-x86", "qemu-utils", "VIRTIOFSD", "libvirt-daemon-system", "libvirt-daemon-driver-qemu", "dnsmasq-base", "nftables", "iptables", "iproute2", "openssh-client"}
	image := []string{"mmdebstrap", "extlinux", "fdisk", "e2fsprogs", "debian-archive-keyring"}
	for _, tt := range []struct {
		name, os, virtiofsd string
	}{
		{"Debian 12", debian12, "qemu-system-common"},
		{"Debian 13", debian13, "virtiofsd"},
		{"Debian sid", debianSid, "virtiofsd"},
		{"Ubuntu 22.04", ubuntu2204, "qemu-system-common"},
		{"Ubuntu 24.04", ubuntu2404, "virtiofsd"},
		{"Mint 21", mint21, "qemu-system-common"},
		{"Mint 22", mint22, "virtiofsd"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := Observe(bare(tt.os).env())
			want := slices.Clone(base)
			want[2] = tt.virtiofsd
			if _, got := planned(t, f, Need{}); !slices.Equal(got, want) {
				t.Errorf("got  %v\nwant %v", got, want)
			}
			if _, got := planned(t, f, Need{Image: true}); !slices.Equal(got, append(want, image...)) {
				t.Errorf("with an image: %v", got)
			}
		})
	}
	t.Run("only what is missing", func(t *testing.T) {
		e := full()
		e.execs = slices.DeleteFunc(slices.Clone(allExecs), func(p string) bool { return strings.HasSuffix(p, "dnsmasq") })
		ids, got := planned(t, Observe(e.env()), Need{Image: true})
		if !slices.Equal(got, []string{"dnsmasq-base"}) || !slices.Equal(ids, []string{PackagesID}) {
			t.Errorf("%v %v", ids, got)
		}
	})
	t.Run("a tool in an unusual directory of PATH", func(t *testing.T) {
		e := full()
		e.execs = append(slices.DeleteFunc(slices.Clone(allExecs), func(p string) bool { return strings.HasSuffix(p, "/ssh") }), "/opt/bin/ssh")
		f := Observe(e.env())
		if as, err := Plan(f, Need{}); err != nil || len(as) != 0 || f.Tools["ssh"] != "/opt/bin/ssh" {
			t.Errorf("%v %v %q", as, err, f.Tools["ssh"])
		}
	})
	t.Run("nothing", func(t *testing.T) {
		if as, err := Plan(Observe(full().env()), Need{Image: true}); err != nil || len(as) != 0 {
			t.Errorf("%v %v", as, err)
		}
	})
}

func TestPlanRefuses(t *testing.T) {
	arm := full()
	arm.arch = "arm64"
	unreadable := bare(debian12)
	delete(unreadable.files, "/etc/os-release")
	for _, tt := range []struct {
		name string
		env  fakeEnv
		says []string
	}{
		{"Gentoo", bare(gentoo), []string{"Gentoo Linux", "qemu-system-x86", "libvirt-daemon-system"}},
		{"Debian 11", bare(debian11), []string{"Debian GNU/Linux 11", "oldest"}},
		{"no os-release", unreadable, []string{"/etc/os-release"}},
		{"arm64", arm, []string{"x86-64", "arm64"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Plan(Observe(tt.env.env()), Need{})
			var e *ui.Error
			if !errors.As(err, &e) || e.Exit != ui.ExitRefused || len(e.HintLines()) == 0 {
				t.Fatalf("got %#v", err)
			}
			for _, s := range tt.says {
				if !strings.Contains(e.Message, s) {
					t.Errorf("%q does not say %q", e.Message, s)
				}
			}
		})
	}
	t.Run("a foreign system that has everything", func(t *testing.T) {
		e := full()
		e.files["/etc/os-release"] = gentoo
		if as, err := Plan(Observe(e.env()), Need{}); err != nil || len(as) != 0 {
			t.Errorf("%v %v", as, err)
		}
	})
}

func TestPlanDaemons(t *testing.T) {
	const lsock, vsock = "/run/libvirt/libvirt-sock", "/run/libvirt/virtlogd-sock"
	for _, tt := range []struct {
		name    string
		change  func(*fakeEnv)
		want    []string
		command string
	}{
		{"systemd, no socket", func(e *fakeEnv) { delete(e.files, lsock); delete(e.files, vsock) }, []string{"host.service.libvirtd"}, "systemctl start libvirtd"},
		{"systemd, dead socket", func(e *fakeEnv) { e.dial = map[string]error{lsock: syscall.ECONNREFUSED} }, []string{"host.service.libvirtd"}, "systemctl start libvirtd"},
		{"systemd, not for this user", func(e *fakeEnv) { e.dial = map[string]error{lsock: syscall.EACCES, vsock: syscall.EACCES} }, nil, ""},
		{"no systemd, nothing runs", func(e *fakeEnv) {
			delete(e.files, "/run/systemd/system/x")
			delete(e.files, lsock)
			delete(e.files, vsock)
		}, []string{"host.service.virtlogd", "host.service.libvirtd"}, "libvirtd -d"},
		{"no systemd, runs, not for this user", func(e *fakeEnv) {
			delete(e.files, "/run/systemd/system/x")
			e.dial = map[string]error{lsock: syscall.EACCES, vsock: syscall.EACCES}
			e.files["/run/libvirtd.pid"], e.files["/run/virtlogd.pid"] = "11\n", "12\n"
			e.files["/proc/11/comm"], e.files["/proc/12/comm"] = "libvirtd\n", "virtlogd\n"
		}, nil, ""},
		{"no systemd, killed, its PID reused", func(e *fakeEnv) {
			delete(e.files, "/run/systemd/system/x")
			e.dial = map[string]error{lsock: fs.ErrPermission}
			e.files["/run/libvirtd.pid"], e.files["/proc/11/comm"] = "11", "bash\n"
		}, []string{"host.service.libvirtd"}, "libvirtd -d"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			e := full()
			tt.change(&e)
			as, err := Plan(Observe(e.env()), Need{})
			if err != nil {
				t.Fatal(err)
			}
			var ids []string
			for _, a := range as {
				ids = append(ids, a.ID)
			}
			if !slices.Equal(ids, tt.want) {
				t.Fatalf("got %v, want %v", ids, tt.want)
			}
			if tt.command != "" && as[len(as)-1].Shows[0] != tt.command {
				t.Errorf("shows %q", as[len(as)-1].Shows)
			}
		})
	}
}
