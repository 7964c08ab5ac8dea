package host

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"aivm.dev/aivm/internal/plan"
	"aivm.dev/aivm/internal/root"
)

// PlanKVM loads the kernel module if the CPU supports KVM and /dev/kvm is missing. Only the doctor
// plans it: VMs work without KVM, by emulation, so a firmware that forbids KVM must not prevent
// creating one.
func PlanKVM(f Facts) []plan.Action {
	if !f.KVM.Missing || len(f.CPUFlags) == 0 || f.Container != "" || f.WSL || f.Arch != "amd64" {
		return nil
	}
	op := root.KVMModule{Name: kvmModule(f)}
	return []plan.Action{{
		ID: "host.kvm-module", Why: "load the kernel module " + op.Name + ", so that VMs run with KVM",
		Shows: op.Shows(), Consent: plan.Ask, Root: op, Timing: timing,
	}}
}

func kvmModule(f Facts) string {
	if strings.Contains(strings.Join(f.CPUFlags, " "), "svm") {
		return "kvm_amd"
	}
	return "kvm_intel"
}

// PlanSSHPaths removes the write permission of group and others from ~/.ssh and ~/.ssh/config if
// the user owns them: ssh refuses them otherwise.
func PlanSSHPaths(x Examination) []plan.Action {
	var as []plan.Action
	for _, p := range x.SSHPaths {
		if p.Err != nil || !p.Exist || p.UID != x.UID || p.Mode.Perm()&0o022 == 0 {
			continue
		}
		to := p.Mode.Perm() &^ 0o022
		as = append(as, plan.Action{
			ID: "ssh.mode:" + p.Path, Why: fmt.Sprintf("remove write permission for others from %s", p.Path),
			Shows: []string{"chmod go-w " + p.Path}, Consent: plan.Ask,
			Do: func(context.Context) error { return chmod(p.Path, x.UID, to) },
		})
	}
	return as
}

// chmod changes the mode of the file that path leads to, if the user still owns it. It follows
// links, since ssh also checks the link's target.
func chmod(path string, uid int, mode fs.FileMode) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if int(st.Uid) != uid {
		return fmt.Errorf("%s now belongs to user %d", path, st.Uid)
	}
	return f.Chmod(mode)
}
