package qemu

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// counter is a kernel of a few instructions, in the format "multiboot": it counts at
// 2 MiB and writes the count's lowest letter to the serial port, slowly.
func counter(t *testing.T) string {
	t.Helper()
	const at = 0x100000
	code := []byte{
		0xfe, 0x05, 0x00, 0x00, 0x20, 0x00, // loop: inc byte [0x200000]
		0xa0, 0x00, 0x00, 0x20, 0x00, // mov al, [0x200000]
		0x24, 0x0f, // and al, 15
		0x04, 0x41, // add al, 'A'
		0x66, 0xba, 0xf8, 0x03, // mov dx, 0x3f8
		0xee,                         // out dx, al
		0xb9, 0x00, 0x00, 0x10, 0x00, // mov ecx, 0x100000
		0xe2, 0xfe, // loop $
		0xeb, 0xe3, // jmp loop
	}
	var b bytes.Buffer
	magic, flags := uint32(0x1badb002), uint32(1<<16)
	for _, v := range []uint32{magic, flags, -(magic + flags), at, at, uint32(at + 32 + len(code)), 0, at + 32} {
		_ = binary.Write(&b, binary.LittleEndian, v)
	}
	b.Write(code)
	path := filepath.Join(t.TempDir(), "kernel")
	if err := os.WriteFile(path, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// installed returns the QEMU of this machine, or skips the test.
func installed(t *testing.T) Program {
	t.Helper()
	if runtime.GOARCH != "amd64" {
		t.Skip("the guests of these tests are for x86")
	}
	path, err := Find()
	if err != nil {
		t.Skip("QEMU is not installed")
	}
	p, err := Probe(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func open(t *testing.T, name string, size int64) *os.File {
	t.Helper()
	f, err := os.OpenFile(filepath.Join(t.TempDir(), name), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	return f
}

// base is a VM with the ports of a run; their other ends are closed at once.
func base(t *testing.T, p Program) Config {
	t.Helper()
	c := Config{Program: p, Accel: "tcg", CPU: CPUModel("tcg"), MemoryMiB: 128, CPUs: 1, SpareSlots: 2, MaxFile: 1 << 30}
	for _, name := range []string{"aivm.control", "aivm.fs"} {
		far, own, err := SocketPair(name)
		if err != nil {
			t.Fatal(err)
		}
		_ = own.Close()
		c.Ports = append(c.Ports, Port{name, far})
	}
	return c
}

// grows waits until a log has more than n bytes.
func grows(t *testing.T, f *os.File, n int64) {
	t.Helper()
	for end := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		if st, err := f.Stat(); err != nil || st.Size() > n {
			return
		}
		if time.Now().After(end) {
			t.Fatal("the guest writes nothing")
		}
	}
}

func TestProbe(t *testing.T) {
	p := installed(t)
	if len(p.Digest) != 64 || p.Version.Major < 5 || !strings.HasPrefix(p.Machine, "pc-q35-") || p.Stamp == "" {
		t.Errorf("%+v", p)
	}
	if _, err := Probe(t.Context(), "/bin/false"); err == nil {
		t.Error("/bin/false is a QEMU")
	}
}

// TestGuestRuns runs the guest with which KVM is tried, emulated, and a guest under an
// accelerator that does not exist.
func TestGuestRuns(t *testing.T) {
	p := installed(t)
	if err := runs(t.Context(), p, "tcg"); err != nil {
		t.Error(err)
	}
	if err := runs(t.Context(), p, "xen"); err == nil || !strings.Contains(err.Error(), "QEMU: ") {
		t.Error(err)
	}
	if accel, why := Accelerated(t.Context(), p); accel != "kvm" && why == "" {
		t.Errorf("%s without a reason", accel)
	}
}

// TestSaveAndResume saves a counting guest and resumes it twice at once: both continue
// to count where it stopped, and the file of its memory does not change.
func TestSaveAndResume(t *testing.T) {
	p := installed(t)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	ram, state, log := open(t, "ram", 128<<20), open(t, "state", 0), open(t, "log", 0)
	c := base(t, p)
	c.RAM, c.ShareRAM, c.Kernel, c.Log = ram, true, counter(t), log
	v, err := Start(ctx, c)
	if err != nil {
		t.Fatal(err)
	}
	defer v.Kill()
	if err := v.Cont(ctx); err != nil {
		t.Fatal(err)
	}
	end := func() byte { // the last letter that the guest wrote
		b, err := os.ReadFile(log.Name())
		if err != nil {
			t.Fatal(err)
		}
		return b[len(b)-1]
	}
	for last := byte(0); last < 'E' || last > 'L'; last = end() { // not near the turn
		grows(t, log, 500)
		time.Sleep(time.Millisecond)
	}
	if err := v.Save(ctx, state); err != nil {
		t.Fatal(err)
	}
	if err := v.Wait(); err != nil {
		t.Error(err)
	}
	count := func() byte {
		var b [1]byte
		if _, err := ram.ReadAt(b[:], 0x200000); err != nil {
			t.Fatal(err)
		}
		return b[0]
	}
	before := count()
	for range 2 {
		log := open(t, "log", 0)
		if _, err := state.Seek(0, 0); err != nil {
			t.Fatal(err)
		}
		c := base(t, p)
		c.RAM, c.Incoming, c.Log = ram, true, log
		v, err := Start(ctx, c)
		if err != nil {
			t.Fatal(err)
		}
		defer v.Kill()
		if err := v.Resume(ctx, state); err != nil {
			t.Fatal(err)
		}
		if err := v.Cont(ctx); err != nil {
			t.Fatal(err)
		}
		grows(t, log, 3)
		b, err := os.ReadFile(log.Name())
		// It was stopped between counting and writing, or anywhere else.
		if d := (b[0] - 'A' - before) & 15; err != nil || d > 1 {
			t.Errorf("continued with %q after %d", b, before)
		}
	}
	if count() != before {
		t.Error("a resumed guest has changed the saved memory")
	}
}

// TestResumeFails checks that a state that QEMU does not accept is an error with
// QEMU's words, at once, and that QEMU is gone.
func TestResumeFails(t *testing.T) {
	p := installed(t)
	ram, state := open(t, "ram", 128<<20), open(t, "state", 0)
	if _, err := state.WriteAt([]byte("QEVM\x00\x00\x00\x03garbage, garbage, garbage"), 0); err != nil {
		t.Fatal(err)
	}
	if _, err := state.Seek(0, 0); err != nil {
		t.Fatal(err)
	}
	c := base(t, p)
	c.RAM, c.Incoming = ram, true
	v, err := Start(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	err = v.Resume(t.Context(), state)
	if err == nil || !strings.Contains(err.Error(), "load of migration failed") && !strings.Contains(err.Error(), "QEMU") {
		t.Error(err)
	}
	if err := unix.Kill(v.PID(), 0); !errors.Is(err, unix.ESRCH) {
		t.Error("QEMU still runs")
	}
}

// TestStartFails checks that the error of a QEMU that ends at once has its words.
func TestStartFails(t *testing.T) {
	p := installed(t)
	c := base(t, p)
	c.RAM, c.Incoming, c.MachineType = open(t, "ram", 128<<20), true, "pc-q35-0.1"
	_, err := Start(t.Context(), c)
	var ended *Ended
	if !errors.As(err, &ended) || !strings.Contains(ended.Words, "machine") || strings.Contains(ended.Words, "qemu-system") {
		t.Errorf("%#v", err)
	}
}

// TestLimits checks what the kernel enforces on a VM.
func TestLimits(t *testing.T) {
	p := installed(t)
	c := base(t, p)
	c.RAM, c.Kernel = open(t, "ram", 128<<20), counter(t)
	v, err := Start(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	defer v.Kill()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/limits", v.PID()))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"Max file size             1073741824", "Max core file size        0 ", "Max open files            256 "} {
		if !strings.Contains(string(b), want) {
			t.Errorf("%q not in\n%s", want, b)
		}
	}
	b, err = os.ReadFile(fmt.Sprintf("/proc/%d/status", v.PID()))
	if err != nil {
		t.Fatal(err)
	}
	var ignored uint64 // a write beyond the limit is an error, not the end
	if _, line, ok := strings.Cut(string(b), "SigIgn:\t"); ok {
		_, _ = fmt.Sscanf(line, "%x", &ignored)
	}
	if ignored&(1<<(unix.SIGXFSZ-1)) == 0 {
		t.Errorf("SIGXFSZ ends QEMU:\n%s", b)
	}
	for _, want := range []string{"Seccomp:\t2", "NoNewPrivs:\t1"} {
		if !strings.Contains(string(b), want) {
			t.Errorf("%q not in\n%s", want, b)
		}
	}
}

// TestDiesWithParent kills a process that has started a VM: QEMU must end too.
func TestDiesWithParent(t *testing.T) {
	const child = "AIVM_TEST_QEMU_PARENT"
	if os.Getenv(child) != "" {
		p := installed(t)
		c := base(t, p)
		c.RAM, c.Kernel = open(t, "ram", 128<<20), counter(t)
		v, err := Start(t.Context(), c)
		if err != nil {
			t.Fatal(err)
		}
		runtime.GC()
		fmt.Printf("pid %d\n", v.PID())
		time.Sleep(time.Minute)
		return
	}
	installed(t)
	cmd := exec.Command(os.Args[0], "-test.run=^TestDiesWithParent$", "-test.v")
	cmd.Env = append(os.Environ(), child+"=1", "TMPDIR="+t.TempDir())
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var text bytes.Buffer
	pid := 0
	for b := make([]byte, 100); pid == 0; {
		n, err := out.Read(b)
		text.Write(b[:n])
		if _, after, ok := strings.Cut(text.String(), "pid "); ok && strings.Contains(after, "\n") {
			_, _ = fmt.Sscanf(after, "%d", &pid)
		} else if err != nil {
			t.Fatal(text.String(), err)
		}
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil || bytes.Contains(b, []byte(") Z ")) {
			return
		}
		if time.Now().After(end) {
			_ = unix.Kill(pid, unix.SIGKILL)
			t.Fatal("QEMU outlived its parent")
		}
	}
}

// TestHotplugFails adds devices whose other end is gone or whose description is wrong:
// an error, and the VM lives.
func TestHotplugFails(t *testing.T) {
	p := installed(t)
	c := base(t, p)
	c.RAM, c.Kernel, c.ShareRAM = open(t, "ram", 128<<20), counter(t), true
	v, err := Start(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	defer v.Kill()
	end := func() *os.File {
		far, own, err := FilePair("end")
		if err != nil {
			t.Fatal(err)
		}
		_ = own.Close()
		return far
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for _, tag := range []string{"", "fs,queue-size=1", "FS", strings.Repeat("a", 40)} {
		if err := v.HotplugFS(ctx, tag, end()); err == nil || !strings.Contains(err.Error(), "not a tag") {
			t.Errorf("%q: %v", tag, err)
		}
	}
	if err := v.HotplugNIC(ctx, NIC{Socket: end(), MAC: "x", MTU: 1500}); err == nil || !strings.Contains(err.Error(), "not a MAC") {
		t.Error(err)
	}
	if err := v.HotplugFS(ctx, "fs0", end()); err == nil {
		t.Error("a folder without a server was added")
	} else {
		t.Log(err)
	}
	if err := v.HotplugNIC(ctx, NIC{Socket: end(), MAC: "52:54:00:00:00:01", MTU: 1500}); err != nil {
		t.Error(err)
	}
	if err := v.HotplugNIC(ctx, NIC{Socket: end(), MAC: "52:54:00:00:00:02", MTU: 1500}); err == nil || !strings.Contains(err.Error(), "slots") {
		t.Error(err)
	}
	if err := v.Cont(ctx); err != nil {
		t.Error(err)
	}
}
