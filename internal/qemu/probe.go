package qemu

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"aivm.dev/aivm/internal/capture"
	"aivm.dev/aivm/internal/ui"
)

// Version is QEMU's version.
type Version struct {
	Major   int    `json:"major"`
	Minor   int    `json:"minor"`
	Micro   int    `json:"micro"`
	Package string `json:"package"` // the distribution's, which changes with a security update
}

// AtLeast reports whether the version is major.minor or later.
func (v Version) AtLeast(major, minor int) bool {
	return v.Major > major || v.Major == major && v.Minor >= minor
}

func (v Version) String() string { return fmt.Sprintf("%d.%d.%d", v.Major, v.Minor, v.Micro) }

// Program is a QEMU that was asked what it is.
type Program struct {
	Path    string  `json:"path"`
	Arch    string  `json:"arch"` // "x86_64" or "aarch64"
	Version Version `json:"version"`
	Digest  string  `json:"digest"`  // SHA-256 of the file
	Machine string  `json:"machine"` // the newest versioned type
	Stamp   string  `json:"stamp"`   // changes with the file
}

// archs maps Go's name of an architecture to QEMU's, and to the versioned machine
// types that are used there.
var archs = map[string]struct {
	name  string
	types *regexp.Regexp
}{
	"amd64": {"x86_64", regexp.MustCompile(`^pc-q35-(\d+)\.(\d+)$`)},
	"arm64": {"aarch64", regexp.MustCompile(`^virt-(\d+)\.(\d+)$`)},
}

// Find returns the path of the QEMU for this machine's architecture.
func Find() (string, error) {
	arch, ok := archs[runtime.GOARCH]
	if !ok {
		return "", ui.Failed("no VMs on this architecture: %s", runtime.GOARCH)
	}
	name := "qemu-system-" + arch.name
	path, err := exec.LookPath(name)
	if err != nil {
		return "", ui.Failed("%s is not installed", name).Hint(ui.Cmd("sudo apt install qemu-system-" + map[string]string{"x86_64": "x86", "aarch64": "arm"}[arch.name] + " qemu-utils"))
	}
	return filepath.EvalSymlinks(path)
}

// Stamp identifies a file by inode, size and times, without reading it.
func Stamp(path string) (string, error) {
	st, err := os.Stat(path)
	if err != nil {
		return "", err
	}
	return fileStamp(st), nil
}

// probeLimit is how long QEMU may take to say what it is.
const probeLimit = 30 * time.Second

// Probe asks the QEMU at path for its version and machine types, and digests the
// file. Ask again when Stamp of the path has changed.
func Probe(ctx context.Context, path string) (Program, error) {
	arch := archs[runtime.GOARCH]
	p := Program{Path: path, Arch: arch.name}
	ctx, cancel := context.WithTimeout(ctx, probeLimit)
	defer cancel()
	err := p.query(ctx, arch.types)
	if err == nil {
		p.Stamp, err = Stamp(path)
	}
	if err == nil {
		p.Digest, err = digestFile(path)
	}
	if err != nil {
		return Program{}, fmt.Errorf("asking %s what it is: %w", path, err)
	}
	return p, nil
}

// query starts QEMU without a machine and asks it. The sandbox is on, so a QEMU
// without it fails here.
func (p *Program) query(ctx context.Context, types *regexp.Regexp) error {
	near, far, err := socketPair("qmp")
	if err != nil {
		return err
	}
	defer far.Close()
	conn, err := net.FileConn(near)
	_ = near.Close()
	if err != nil {
		return err
	}
	defer conn.Close()
	words := &capture.Tail{Limit: 4096}
	cmd := exec.CommandContext(ctx, p.Path, "-nodefaults", "-no-user-config", "-machine", "none", "-display", "none", "-S", "-sandbox", sandbox,
		"-chardev", "socket,id=qmp,fd="+strconv.Itoa(firstFD), "-mon", "chardev=qmp,mode=control")
	cmd.Stderr = words
	cmd.ExtraFiles = []*os.File{far}
	cmd.Env = []string{"PATH=/usr/bin:/bin", "LC_ALL=C"}
	if err := startChild(cmd); err != nil {
		return err
	}
	_ = far.Close()
	q := newQMP(conn.(*net.UnixConn))
	err = p.ask(ctx, q, types)
	_ = conn.Close()
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	if text := ui.CleanTo(capture.LastLines(words.String(), 3, "; "), 400); err != nil && text != "" {
		return fmt.Errorf("%s", text)
	}
	return err
}

func (p *Program) ask(ctx context.Context, q *qmp, types *regexp.Regexp) error {
	if err := q.greet(ctx); err != nil {
		return err
	}
	var version struct {
		QEMU    Version `json:"qemu"`
		Package string  `json:"package"`
	}
	if err := q.do(ctx, "query-version", nil, &version); err != nil {
		return err
	}
	p.Version = version.QEMU
	p.Version.Package = ui.CleanTo(version.Package, 100)
	var machines []struct {
		Name       string `json:"name"`
		Deprecated bool   `json:"deprecated"`
	}
	if err := q.do(ctx, "query-machines", nil, &machines); err != nil {
		return err
	}
	var names []string
	for _, m := range machines {
		if !m.Deprecated {
			names = append(names, m.Name)
		}
	}
	if p.Machine = newest(names, types); p.Machine == "" {
		return fmt.Errorf("it has no machine type like %s", types)
	}
	return nil
}

// newest returns the machine type of the highest version. An unversioned type, or a
// distribution's alias, changes its devices with an update.
func newest(names []string, types *regexp.Regexp) string {
	number := func(name string) (v [2]int) {
		m := types.FindStringSubmatch(name)
		for i := range v {
			v[i], _ = strconv.Atoi(m[i+1])
		}
		return v
	}
	names = slices.DeleteFunc(slices.Clone(names), func(n string) bool { return !types.MatchString(n) })
	if len(names) == 0 {
		return ""
	}
	return slices.MaxFunc(names, func(a, b string) int {
		x, y := number(a), number(b)
		return slices.Compare(x[:], y[:])
	})
}

func digestFile(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// probeExit is the exit status of a QEMU whose guest wrote probeByte to the port of
// isa-debug-exit: twice the byte and one.
const (
	probeByte = 0x2a
	probeExit = probeByte<<1 | 1
)

// probeROM is a firmware that writes probeByte to port 0xf4 and halts. A PC begins
// 16 bytes before its end.
func probeROM() []byte {
	rom := make([]byte, 64<<10)
	copy(rom[len(rom)-16:], []byte{
		0xba, 0xf4, 0x00, // mov dx, 0xf4
		0xb0, probeByte, // mov al, probeByte
		0xee,       // out dx, al
		0xf4,       // hlt
		0xeb, 0xfd, // jmp back to hlt
	})
	return rom
}

// guestLimit is how long the few instructions may take.
const guestLimit = 10 * time.Second

// Accelerated returns "kvm" if a guest really runs under KVM here, else "tcg" and
// why. It runs a guest of a few instructions: /dev/kvm can be present and unusable.
func Accelerated(ctx context.Context, p Program) (accel, why string) {
	f, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if err != nil {
		return "tcg", err.Error()
	}
	_ = f.Close()
	if err := runs(ctx, p, "kvm"); err != nil {
		return "tcg", err.Error()
	}
	return "kvm", ""
}

// CPUModel returns the value of -cpu for an accelerator: all that it offers.
func CPUModel(accel string) string {
	if accel == "kvm" {
		return "host"
	}
	// Page tables of five levels cost time in emulation, and nothing here needs
	// them.
	if runtime.GOARCH == "amd64" {
		return "max,la57=off"
	}
	return "max"
}

// runs runs a few instructions under an accelerator.
func runs(ctx context.Context, p Program, accel string) error {
	if p.Arch != "x86_64" {
		return nil // /dev/kvm could be opened; no program for this architecture
	}
	rom, err := memoryFile("rom", probeROM())
	if err != nil {
		return err
	}
	defer rom.Close()
	ctx, cancel := context.WithTimeout(ctx, guestLimit)
	defer cancel()
	words := &capture.Tail{Limit: 4096}
	cmd := exec.CommandContext(ctx, p.Path, "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-sandbox", sandbox,
		"-machine", p.Machine+",usb=off,graphics=off", "-accel", accel, "-cpu", CPUModel(accel), "-m", "16M",
		"-device", "isa-debug-exit,iobase=0xf4,iosize=1", "-bios", "/proc/self/fd/"+strconv.Itoa(firstFD))
	cmd.Stderr = words
	cmd.ExtraFiles = []*os.File{rom}
	cmd.Env = []string{"PATH=/usr/bin:/bin", "LC_ALL=C"}
	if err := startChild(cmd); err != nil {
		return err
	}
	_ = cmd.Wait()
	switch {
	case cmd.ProcessState.ExitCode() == probeExit:
		return nil
	case ctx.Err() != nil:
		return fmt.Errorf("a guest of four instructions did not end within %s", guestLimit)
	}
	text := ui.CleanTo(capture.LastLines(words.String(), 3, "; "), 400)
	return fmt.Errorf("QEMU: %s", strings.TrimPrefix(text, filepath.Base(p.Path)+": "))
}
