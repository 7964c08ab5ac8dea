package host

import (
	"errors"
	"io/fs"
	"strings"
	"syscall"
	"testing"

	"aivm.dev/aivm/internal/ui"
)

func TestAccel(t *testing.T) {
	for _, tt := range []struct {
		name, cpuinfo string
		kvm           error
		euid          int
		arch, want    string
	}{
		{"vmx and a device that opens", cpuinfoVMX, nil, 1000, "amd64", "kvm"},
		{"svm", strings.ReplaceAll(cpuinfoVMX, "vmx", "svm"), nil, 0, "amd64", "kvm"},
		{"a device that opens is no proof", cpuinfoPlain, nil, 0, "amd64", "qemu"},
		{"no device", cpuinfoVMX, fs.ErrNotExist, 1000, "amd64", "qemu"},
		{"not this user's", cpuinfoVMX, syscall.EACCES, 1000, "amd64", "kvm"},
		{"not even root's", cpuinfoVMX, syscall.EACCES, 0, "amd64", "qemu"},
		{"busy or broken", cpuinfoVMX, syscall.ENODEV, 1000, "amd64", "qemu"},
		{"arm64 has no flags", "", nil, 1000, "arm64", "kvm"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			e := full()
			e.files["/proc/cpuinfo"], e.kvm, e.euid, e.arch = tt.cpuinfo, tt.kvm, tt.euid, tt.arch
			typ, warning := Accel(Observe(e.env()))
			if typ != tt.want || (typ == "qemu") != (warning != "") {
				t.Errorf("%q, %q", typ, warning)
			}
		})
	}
}

func TestChoose(t *testing.T) {
	type machine struct{ cpus, total, avail, free int }
	facts := func(m machine) Facts {
		return Facts{
			CPUs: m.cpus, MemTotalMB: m.total, MemAvailMB: m.avail,
			diskFree: func(string) (uint64, error) { return uint64(m.free) << 30, nil },
		}
	}
	big := machine{16, 64000, 50000, 500}
	for _, tt := range []struct {
		name     string
		machine  machine
		request  Size
		want     Size
		warnings int
		refused  string
	}{
		{name: "large", machine: big, want: Size{6, 12288, 64}},
		{name: "larger", machine: machine{64, 256000, 200000, 5000}, want: Size{8, 12288, 64}},
		{name: "laptop", machine: machine{8, 16000, 9000, 100}, want: Size{4, 4096, 40}},
		{name: "small", machine: machine{2, 4000, 3000, 30}, want: Size{2, 2048, 16}},
		{name: "never more memory than free", machine: machine{1, 4000, 1400, 20}, want: Size{1, 1024, 15}},
		{name: "tiny", machine: machine{1, 1000, 800, 5}, want: Size{1, 512, 4}},
		{name: "as requested", machine: big, request: Size{16, 40000, 200}, want: Size{16, 40000, 200}},
		{name: "more than free is a warning", machine: big, request: Size{2, 60000, 600}, want: Size{2, 60000, 600}, warnings: 2},
		{name: "CPUs", machine: big, request: Size{17, 0, 0}, refused: "17 CPUs"},
		{name: "negative", machine: big, request: Size{-1, 0, 0}, refused: "-1 CPUs"},
		{name: "memory", machine: big, request: Size{0, 70000, 0}, refused: "70000 MiB"},
		{name: "too little memory", machine: big, request: Size{0, 100, 0}, refused: "100 MiB"},
		{name: "too small a disk", machine: big, request: Size{0, 0, 1}, refused: "1 GiB"},
		{name: "no memory free", machine: machine{4, 8000, 300, 100}, refused: "only 300 MiB"},
		{name: "full disk", machine: machine{4, 8000, 8000, 1}, refused: "only 1 GiB"},
		{name: "full disk, requested", machine: machine{4, 8000, 8000, 1}, request: Size{0, 0, 40}, refused: "only 1 GiB"},
		{name: "all at once", machine: big, request: Size{99, 99999, 1}, refused: "99 CPUs requested, this machine has 16; 99999 MiB"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, warnings, err := Choose(facts(tt.machine), tt.request, "/var/lib/x")
			if tt.refused != "" {
				var e *ui.Error
				if !errors.As(err, &e) || !strings.HasPrefix(e.Message, "Requested VM resources are not feasible on this host right now: ") ||
					!strings.Contains(e.Message, tt.refused) || len(e.HintLines()) == 0 {
					t.Fatalf("got %v %v", got, err)
				}
				return
			}
			if err != nil || got != tt.want || len(warnings) != tt.warnings {
				t.Errorf("got %v %q %v, want %v", got, warnings, err, tt.want)
			}
		})
	}
	t.Run("unknown is not none", func(t *testing.T) {
		f := Facts{CPUs: 2, MemErr: fs.ErrPermission, diskFree: func(string) (uint64, error) { return 0, syscall.EIO }}
		if got, _, err := Choose(f, Size{2, 2048, 20}, "/x"); err != nil || got != (Size{2, 2048, 20}) {
			t.Errorf("a complete request needs no facts: %v %v", got, err)
		}
		if _, _, err := Choose(f, Size{}, "/x"); err == nil {
			t.Error("chosen without facts")
		}
	})
}
