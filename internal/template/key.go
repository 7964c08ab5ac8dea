package template

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"reflect"
	"strings"

	"golang.org/x/sys/unix"

	"aivm.dev/aivm/internal/bootdisk"
	"aivm.dev/aivm/internal/qemu"
)

// schema is raised when a saved VM of an earlier aivm cannot be used, for a reason
// that no field of Key shows.
const schema = 1

// Key is everything that a saved VM depends on. A template with another key may hang
// when it is resumed, or resume as something else. The label of a field is what
// people see when it differs.
type Key struct {
	Schema    int    `json:"schema" label:"aivm's format of templates"`
	Name      string `json:"name" label:"the name"`
	QEMU      string `json:"qemu" label:"the QEMU program"`
	Version   string `json:"version" label:"QEMU's version"`
	Machine   string `json:"machine" label:"the machine type"`
	Devices   string `json:"devices" label:"the list of devices"`
	Accel     string `json:"accel" label:"the acceleration"`
	CPU       string `json:"cpu" label:"the CPU model"`
	HostCPU   string `json:"host_cpu,omitempty" label:"this machine's CPU or kernel"`
	MemoryMiB int    `json:"memory_mib" label:"the memory"`
	CPUs      int    `json:"cpus" label:"the number of CPUs"`
	DiskGiB   int    `json:"disk_gib" label:"the size of the disk"`
	Image     string `json:"image" label:"the image"`
	Agent     string `json:"agent" label:"aivm's program in the guest"`
	Initrd    string `json:"initrd" label:"what the guest is booted with"`
	Setup     string `json:"setup" label:"the packages or scripts of the setup"`
}

// Wanted is what a template is asked to be.
type Wanted struct {
	Name      string
	Program   qemu.Program
	Accel     string
	MemoryMiB int
	CPUs      int
	DiskGiB   int
	Image     string // digest of the image
	Agent     []byte
	Setup     []byte // everything that the setup installs or runs
}

// NewKey returns the key of what is wanted, on this machine.
func NewKey(w Wanted) Key {
	k := Key{
		Schema: schema, Name: w.Name, QEMU: w.Program.Digest,
		Version: strings.TrimSpace(w.Program.Version.String() + " " + w.Program.Version.Package),
		Machine: w.Program.Machine, Accel: w.Accel, CPU: qemu.CPUModel(w.Accel),
		MemoryMiB: w.MemoryMiB, CPUs: w.CPUs, DiskGiB: w.DiskGiB,
		Image: w.Image, Agent: digest(w.Agent), Initrd: bootdisk.Version, Setup: digest(w.Setup),
	}
	k.Devices = digest([]byte(qemu.Shape(k.config(w.Program))))
	if w.Accel == "kvm" {
		k.HostCPU = hostCPU()
	}
	return k
}

// Digest names the directory of a template.
func (k Key) Digest() string {
	b, err := json.Marshal(k)
	if err != nil {
		panic(err) // strings and numbers only
	}
	return digest(b)[:32]
}

// Differences names the fields in which a template's key is not what is wanted, with
// both values where they mean something to people.
func (k Key) Differences(wanted Key) []string {
	var out []string
	has, want := reflect.ValueOf(k), reflect.ValueOf(wanted)
	for i := range has.NumField() {
		a, b := fmt.Sprint(has.Field(i).Interface()), fmt.Sprint(want.Field(i).Interface())
		if a == b {
			continue
		}
		text := has.Type().Field(i).Tag.Get("label") + " changed"
		if !isDigest(a) && !isDigest(b) {
			text += fmt.Sprintf(" from %s to %s", orNone(a), orNone(b))
		}
		out = append(out, text)
	}
	return out
}

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}

func isDigest(s string) bool {
	_, err := hex.DecodeString(s)
	return err == nil && len(s) >= 32
}

func digest(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// hostCPU digests what a guest under KVM sees of this machine: the CPU's model and
// flags, and the kernel.
func hostCPU() string {
	var u unix.Utsname
	_ = unix.Uname(&u)
	text := unix.ByteSliceToString(u.Release[:]) + " " + unix.ByteSliceToString(u.Version[:])
	b, _ := os.ReadFile("/proc/cpuinfo")
	first, _, _ := bytes.Cut(b, []byte("\n\n"))
	for line := range strings.Lines(string(first)) {
		name, value, _ := strings.Cut(line, ":")
		switch strings.TrimSpace(name) {
		case "model name", "flags", "Features", "microcode", "stepping", "CPU part", "CPU implementer":
			text += "\n" + strings.TrimSpace(value)
		}
	}
	return digest([]byte(text))
}
