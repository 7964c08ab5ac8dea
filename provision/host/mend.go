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

// PlanKVM loads the kernel's module where the CPU has what KVM needs and the
// device is missing. Only the doctor asks for it: without it VMs are emulated,
// and a firmware that forbids it must not keep anybody from having one.
func PlanKVM(f Facts) []plan.Action {
	if !f.KVM.Missing || len(f.CPUFlags) == 0 || f.Container != "" || f.WSL || f.Arch != "amd64" {
		return nil
	}
	op := root.KVMModule{Name: kvmModule(f)}
	return []plan.Action{{
		ID: "host.kvm-module", Why: "load the kernel's module " + op.Name + ", so that VMs are not emulated",
		Shows: op.Shows(), Consent: plan.Ask, Root: op, Timing: timing,
	}}
}

func kvmModule(f Facts) string {
	if strings.Contains(strings.Join(f.CPUFlags, " "), "svm") {
		return "kvm_amd"
	}
	return "kvm_intel"
}

// PlanSSHPaths takes write permission for others off ~/.ssh and its config,
// where they are this person's: ssh refuses them otherwise.
func PlanSSHPaths(x Examination) []plan.Action {
	var as []plan.Action
	for _, p := range x.SSHPaths {
		if p.Err != nil || !p.Exist || p.UID != x.UID || p.Mode.Perm()&0o022 == 0 {
			continue
		}
		to := p.Mode.Perm() &^ 0o022
		as = append(as, plan.Action{
			ID: "ssh.mode:" + p.Path, Why: fmt.Sprintf("let nobody but you write %s", p.Path),
			Shows: []string{"chmod go-w " + p.Path}, Consent: plan.Ask,
			Do: func(context.Context) error { return chmod(p.Path, x.UID, to) },
		})
	}
	return as
}

// chmod changes what the path leads to, if it is still the person's: ssh judges
// the end of a link, too.
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
		return fmt.Errorf("%s belongs to user %d by now", path, st.Uid)
	}
	return f.Chmod(mode)
}
