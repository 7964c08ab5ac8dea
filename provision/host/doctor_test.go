package host

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "rewrite the golden files")

var asked = CallerFacts{DiskDir: "/var/lib/libvirt/aivm", CacheDir: "/home/u/.cache/aivm/images"}

func TestDoctor(t *testing.T) {
	broken := bare(ubuntu2404)
	broken.files["/run/systemd/container"] = "lxc\n"
	broken.files["/proc/sys/kernel/osrelease"] = "5.10.0-8-amd64\n"
	broken.files["/proc/meminfo"] = "MemTotal: 1000000 kB\nMemAvailable: 300000 kB\n"
	broken.free = 1 << 30

	guarded := full()
	guarded.dial = map[string]error{"/run/libvirt/libvirt-sock": syscall.EACCES, "/run/libvirt/virtlogd-sock": syscall.EACCES}
	guarded.kvm = syscall.EACCES
	guarded.output, guarded.outErr = "", errors.New("exit status 1")
	delete(guarded.files, "/usr/lib/EXTLINUX/gptmbr.bin")

	for name, e := range map[string]fakeEnv{"full": full(), "broken": broken, "guarded": guarded} {
		t.Run(name, func(t *testing.T) {
			env := e.env()
			f := Observe(env)
			got, err := json.MarshalIndent(Doctor(f, Examine(context.Background(), env, f).With(asked)), "", "  ")
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, '\n')
			golden := filepath.Join("testdata", "doctor-"+name+".json")
			if *update {
				if err := os.WriteFile(golden, got, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(string(want), string(got)); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestDoctorSSHPermissions(t *testing.T) {
	for _, tt := range []struct {
		name  string
		paths []PathFact
		want  State
	}{
		{"none yet", []PathFact{{Path: "/h/.ssh"}, {Path: "/h/.ssh/config"}}, OK},
		{"right", []PathFact{{Path: "/h/.ssh", Exist: true, Mode: 0o700, UID: 7}, {Path: "/h/.ssh/config", Exist: true, Mode: 0o644, UID: 7}}, OK},
		{"others may write", []PathFact{{Path: "/h/.ssh", Exist: true, Mode: 0o700, UID: 7}, {Path: "/h/.ssh/config", Exist: true, Mode: 0o664, UID: 7}}, Bad},
		{"another user's", []PathFact{{Path: "/h/.ssh", Exist: true, Mode: 0o700, UID: 8}}, Bad},
		{"root's is fine", []PathFact{{Path: "/h/.ssh", Exist: true, Mode: 0o700, UID: 0}}, OK},
		{"hidden", []PathFact{{Path: "/h/.ssh", Err: syscall.EACCES}}, Unknown},
	} {
		if got := checkSSHPaths(Examination{UID: 7, SSHPaths: tt.paths}); got.State != tt.want {
			t.Errorf("%s: %+v", tt.name, got)
		}
	}
}

func TestDoctorSSHVersion(t *testing.T) {
	for v, want := range map[string]State{
		"OpenSSH_9.2p1 Debian-2": OK, "OpenSSH_10.0p2": OK, "OpenSSH_7.3p1": OK, "OpenSSH_7.2p2 Ubuntu": Bad, "dropbear": Unknown,
	} {
		f := Facts{Tools: map[string]string{"ssh": "/usr/bin/ssh"}}
		if got := checkSSH(f, Examination{SSHVersion: v}); got.State != want {
			t.Errorf("%s: %+v", v, got)
		}
	}
}

func TestExamineThisMachine(t *testing.T) {
	env := OSEnv()
	env.Home = t.TempDir()
	if err := os.Mkdir(filepath.Join(env.Home, ".ssh"), 0o700); err != nil {
		t.Fatal(err)
	}
	f := Observe(env)
	x := Examine(context.Background(), env, f)
	if f.Tools["ssh"] != "" && (x.SSHErr != nil || checkSSH(f, x).State != OK) {
		t.Errorf("the real ssh: %+v", x)
	}
	if c := checkSSHPaths(x); c.State != OK || !x.SSHPaths[0].Exist || x.SSHPaths[0].UID != env.Euid {
		t.Errorf("%+v %+v", c, x.SSHPaths)
	}
}
