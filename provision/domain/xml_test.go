package domain

import (
	"flag"
	"os"
	"os/exec"
	"path/filepath"
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

// The definition is golden, passes libvirt's own schema, and reads back.
func TestXML(t *testing.T) {
	for _, accel := range []string{"kvm", "qemu"} {
		t.Run(accel, func(t *testing.T) {
			got, err := XML(spec(accel))
			if err != nil {
				t.Fatal(err)
			}
			golden := filepath.Join("testdata", accel+".xml")
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
			if !d.Mark.By(1000) || d.Mark.By(0) || d.MAC != "52:54:00:12:34:56" || d.RAMMB != 2048 || d.Network != "aivm-net" {
				t.Errorf("read back: %+v", d)
			}
			if s, ok := d.Disk(SeedSerial); !ok || s.File != spec(accel).SeedPath {
				t.Errorf("seed read back: %+v", d.Disks)
			}
		})
	}
}
