package qemu

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func program() Program {
	return Program{Path: "/usr/bin/qemu-system-x86_64", Arch: "x86_64", Version: Version{Major: 7, Minor: 2, Micro: 22}, Machine: "pc-q35-7.2"}
}

// files stand for descriptors: the command line has only their numbers.
func files(n int) []*os.File {
	out := make([]*os.File, n)
	for i := range out {
		out[i] = new(os.File)
	}
	return out
}

func testConfig() Config {
	f := files(8)
	return Config{
		Program: program(), Accel: "tcg", CPU: "max", MemoryMiB: 512, CPUs: 2, RAM: f[0],
		Disk:       []Layer{{f[1], "qcow2"}, {f[2], "qcow2"}, {f[3], "qcow2"}},
		Ports:      []Port{{"aivm.control", f[4]}, {"aivm.fs", f[5]}},
		SpareSlots: 2, Incoming: true,
	}
}

func TestArguments(t *testing.T) {
	for name, change := range map[string]func(*Config){
		"resume": func(*Config) {},
		"boot": func(c *Config) {
			c.Incoming, c.ShareRAM = false, true
			c.Kernel, c.Initrd, c.Append = "/t/vmlinuz", "/t/initrd", "console=ttyS0 quiet"
			c.Disk[0].Format = "raw"
			c.Log = files(1)[0]
			c.NIC = &NIC{Socket: files(1)[0], MAC: "52:54:00:00:00:01", MTU: 65520}
		},
		"aarch64": func(c *Config) {
			c.Program = Program{Path: "/usr/bin/qemu-system-aarch64", Arch: "aarch64", Version: Version{Major: 7, Minor: 2}, Machine: "virt-7.2"}
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := testConfig()
			change(&c)
			if err := c.check(); err != nil {
				t.Fatal(err)
			}
			a := c.arguments(files(1)[0])
			got := strings.ReplaceAll(strings.Join(a.argv, " "), " -", "\n-") + "\n"
			golden := filepath.Join("testdata", name+".argv")
			if *update {
				if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if got != string(want) {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
		})
	}
}

// TestShape checks that the devices of a VM that is saved are those of a VM that is
// resumed, and that another device is noticed.
func TestShape(t *testing.T) {
	resumed := testConfig()
	saved := testConfig()
	saved.Incoming, saved.Kernel, saved.Log, saved.Disk = false, "/k", files(1)[0], saved.Disk[:2]
	a, b := resumed.Program, saved.Program
	if a != b || strings.ReplaceAll(Shape(saved), "share=on", "share=off") != Shape(resumed) {
		t.Errorf("saved\n%s\nresumed\n%s", Shape(saved), Shape(resumed))
	}
	for name, change := range map[string]func(*Config){
		"memory": func(c *Config) { c.MemoryMiB++ },
		"port":   func(c *Config) { c.Ports = c.Ports[:1] },
		"slots":  func(c *Config) { c.SpareSlots++ },
		"cpu":    func(c *Config) { c.CPU = "qemu64" },
	} {
		c := testConfig()
		change(&c)
		if Shape(c) == Shape(resumed) {
			t.Errorf("%s: a change is not noticed", name)
		}
	}
}

func TestConfigRefused(t *testing.T) {
	for name, change := range map[string]func(*Config){
		"no program":      func(c *Config) { c.Program = Program{} },
		"accelerator":     func(c *Config) { c.Accel = "tcg,thread=single" },
		"cpu with blank":  func(c *Config) { c.CPU = "max -daemonize" },
		"machine":         func(c *Config) { c.MachineType = "pc,dumpdtb=/x" },
		"no memory":       func(c *Config) { c.MemoryMiB = 0 },
		"no CPU":          func(c *Config) { c.CPUs = 0 },
		"no RAM":          func(c *Config) { c.RAM = nil },
		"no kernel":       func(c *Config) { c.Incoming = false },
		"line break":      func(c *Config) { c.Append = "quiet\ninit=/bin/sh" },
		"disk format":     func(c *Config) { c.Disk[0].Format = "vmdk" },
		"port with comma": func(c *Config) { c.Ports[0].Name = "a,chardev=qmp" },
		"many ports":      func(c *Config) { c.Ports = make([]Port, maxPorts+1) },
		"slots":           func(c *Config) { c.SpareSlots = maxSlots + 1 },
		"MAC":             func(c *Config) { c.NIC = &NIC{Socket: files(1)[0], MAC: "52:54", MTU: 1500} },
		"MTU":             func(c *Config) { c.NIC = &NIC{Socket: files(1)[0], MAC: "52:54:00:00:00:01", MTU: 1 << 20} },
	} {
		c := testConfig()
		change(&c)
		if err := c.check(); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestNewestMachine(t *testing.T) {
	for _, c := range []struct {
		names []string
		want  string
	}{
		{[]string{"q35", "pc-q35-7.1", "pc-q35-7.2", "pc-q35-2.10", "pc-i440fx-9.0", "none"}, "pc-q35-7.2"},
		{[]string{"pc-q35-9.2", "pc-q35-10.0", "pc-q35-noble"}, "pc-q35-10.0"},
		{[]string{"q35"}, ""},
	} {
		if got := newest(c.names, archs["amd64"].types); got != c.want {
			t.Errorf("%v: got %q, want %q", c.names, got, c.want)
		}
	}
}

func TestVersion(t *testing.T) {
	v := Version{Major: 7, Minor: 2, Micro: 22}
	if !v.AtLeast(7, 2) || !v.AtLeast(6, 9) || v.AtLeast(7, 3) || v.AtLeast(8, 0) || v.String() != "7.2.22" {
		t.Error(v)
	}
}
