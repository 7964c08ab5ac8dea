package domain

import (
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"aivm.dev/aivm/internal/virt"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func spec(accel string) Spec {
	return Spec{
		Name: "work", UUID: "6ba7b810-9dad-41d1-80b4-00c04fd430c8", Owner: 1000, Accel: accel, VCPUs: 2, RAMMB: 2048,
		DiskPath: "/var/lib/libvirt/aivm/1000-work.qcow2", SeedPath: "/var/lib/libvirt/aivm/1000-work.seed",
		SerialLog: "/var/lib/libvirt/aivm/1000-work.serial.log", ExportRoot: "/var/lib/aivm/export/1000-work",
		FSTag: "aivm-root", Network: "aivm-net", MAC: "52:54:00:12:34:56",
	}
}

// The definition equals the golden file, passes the schema of libvirt, and reads back.
func TestXML(t *testing.T) {
	for name, s := range map[string]Spec{
		"kvm": spec("kvm"), "qemu": spec("qemu"),
		"kvm-aarch64": onARM(spec("kvm")), "qemu-aarch64": onARM(spec("qemu")),
	} {
		t.Run(name, func(t *testing.T) {
			got, err := XML(s)
			if err != nil {
				t.Fatal(err)
			}
			golden := filepath.Join("testdata", name+".xml")
			if *update {
				if err := os.WriteFile(golden, []byte(got+"\n"), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(string(want), got+"\n"); d != "" {
				t.Error(d)
			}
			if out, err := exec.Command("virt-xml-validate", golden, "domain").CombinedOutput(); err != nil {
				t.Errorf("virt-xml-validate: %v\n%s", err, out)
			}
			d, err := virt.ParseDomain(got)
			if err != nil {
				t.Fatal(err)
			}
			if !d.Mark.By(1000) || d.Mark.By(0) || d.MAC != "52:54:00:12:34:56" || d.RAMMB != 2048 || d.Network != "aivm-net" || d.Accel != s.Accel {
				t.Errorf("read back: %+v", d)
			}
			if seed, ok := d.Disk(SeedSerial); !ok || seed.File != s.SeedPath {
				t.Errorf("seed read back: %+v", d.Disks)
			}
		})
	}
}

func onARM(s Spec) Spec {
	s.Arch = ARM
	return s
}

// The architecture is that of GOARCH, x86_64 by default; one without a definition is refused.
func TestArch(t *testing.T) {
	s := spec("kvm")
	none, err := XML(s)
	if err != nil {
		t.Fatal(err)
	}
	s.Arch = Arch("amd64")
	if got, err := XML(s); err != nil || got != none {
		t.Errorf("amd64 is not the default: %v", err)
	}
	s.Arch = Arch("arm64")
	got, err := XML(s)
	if err != nil {
		t.Fatal(err)
	}
	for _, x86 := range []string{"x86", "q35", "<apic", "<timer", "<pm>", "migratable", "ide", "sata"} {
		if strings.Contains(got, x86) {
			t.Errorf("the definition for ARM has %s:\n%s", x86, got)
		}
	}
	if s.Arch = "riscv64"; Arch("riscv64") != "" {
		t.Error("a name for riscv64")
	}
	if got, err := XML(s); err == nil {
		t.Errorf("riscv64:\n%s", got)
	}
}
