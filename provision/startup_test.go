package provision

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"aivm.dev/aivm/internal/guest"
	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/internal/virt"
	"aivm.dev/aivm/provision/loop"
	"aivm.dev/aivm/provision/target"
)

// endedGuest is a guest whose login shell runs no commands.
type endedGuest struct{ guest.Conn }

func (endedGuest) Probe(context.Context, []guest.Probe) (map[string][]byte, error) {
	return nil, &guest.StartupError{Exit: 0, Stderr: "\x1b[31mbye"}
}

// TestStartupIsExplained checks the error of a guest whose ~/.bashrc lets no command run: it has the
// line that repairs the file, and rolls back to a snapshot if there is one.
func TestStartupIsExplained(t *testing.T) {
	w := newWorld(t)
	probe := func(vm string) *ui.Error {
		t.Helper()
		var ue *ui.Error
		err := env(w).Probe(t.Context(), endedGuest{}, &target.Target{Name: vm}, &loop.Facts{})
		if !errors.As(err, &ue) || strings.Contains(err.Error(), "\x1b") || !strings.Contains(err.Error(), "VM "+vm) {
			t.Fatalf("%v", err)
		}
		return ue
	}
	if lines := probe("t").HintLines(); len(lines) != 2 || !strings.HasSuffix(lines[0], ": case $- in *i*) ;; *) return;; esac") || !strings.HasSuffix(lines[1], ": ssh t") {
		t.Errorf("%q", lines)
	}
	vm := fmt.Sprintf("startup%d", os.Getpid())
	virsh := func(args ...string) {
		t.Helper()
		if out, err := exec.Command("virsh", append([]string{"-q", "-c", virt.SystemURI}, args...)...).CombinedOutput(); err != nil {
			t.Fatalf("this test needs this machine's libvirt: %v: %v\n%s", args, err, out)
		}
	}
	desc, disk := filepath.Join(w.Dir, "domain.xml"), filepath.Join(w.Dir, "d.qcow2")
	if out, err := exec.Command("qemu-img", "create", "-q", "-f", "qcow2", disk, "1M").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if err := os.WriteFile(desc, fmt.Appendf(nil, "<domain type='qemu'><name>%s</name><metadata>%s</metadata><memory>65536</memory><os><type arch='x86_64'>hvm</type></os>"+
		"<devices><disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='%s'/><target dev='vda' bus='virtio'/></disk></devices></domain>", vm, virt.MarkXML(w.UID), disk), 0o600); err != nil {
		t.Fatal(err)
	}
	virsh("define", desc)
	t.Cleanup(func() { virsh("undefine", vm, "--snapshots-metadata") })
	virsh("snapshot-create-as", vm, "clean")
	w.DialVirt = func(ctx context.Context, u virt.URI) (*virt.Conn, error) {
		nc, err := net.Dial("unix", u.Socket())
		if err != nil {
			return nil, err
		}
		return virt.Adopt(ctx, nc, u)
	}
	if lines := probe(vm).HintLines(); !slices.Contains(lines, "to return the VM's disk to its last snapshot: aivm vm rollback clean --vm "+vm) {
		t.Errorf("%q", lines)
	}
}

// TestStartupWarning checks that a guest whose ~/.bashrc is skipped causes one warning, with a command
// that works in a shell.
func TestStartupWarning(t *testing.T) {
	w := newWorld(t)
	for range 2 {
		w.WarnStartup(&target.Target{Name: "t"}, startupGuest{bypass: true})
		w.WarnStartup(&target.Target{Name: "t"}, startupGuest{})
	}
	text := w.Err.String()
	_, repair, ok := strings.Cut(strings.TrimSpace(text), "to fix it: ")
	if !ok || strings.Count(text, "warning") != 1 {
		t.Fatalf("%q", text)
	}
	home := t.TempDir()
	bashrc := filepath.Join(home, ".bashrc")
	if err := os.WriteFile(bashrc, []byte("exit 0\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("sh", "-c", `ssh() { shift 3; sh -c "$*"; }; `+repair) // as sshd passes the words on
	cmd.Env = []string{"HOME=" + home, "PATH=" + os.Getenv("PATH")}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", repair, err, out)
	}
	if b, err := os.ReadFile(bashrc); err != nil || string(b) != "case $- in *i*) ;; *) return;; esac\nexit 0\n" {
		t.Errorf("%q %v", b, err)
	}
}
