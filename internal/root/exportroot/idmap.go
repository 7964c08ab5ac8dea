package exportroot

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"

	"aivm.dev/aivm/internal/root/program"
	"aivm.dev/aivm/internal/root/record"
	"aivm.dev/aivm/internal/ui"
)

// ownerNamespace returns a user namespace with the owner map of a folder. Only a process can
// have one: cat, which ends at the end of its stdin even if this process is killed.
func ownerNamespace(o record.Bind) (*os.File, error) {
	cat, err := program.Find("cat")
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(cat)
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER,
		UidMappings: record.OwnerMap(o.UID),
		GidMappings: record.GroupMap(o.GID, o.Groups),
	}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EPERM) {
			return nil, ui.Failed("making a user namespace: %w", err).
				Hint(ui.CmdFor("mapping owners needs one; to see the limit", "sysctl user.max_user_namespaces"))
		}
		return nil, fmt.Errorf("making a user namespace: %w", err)
	}
	ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/user", cmd.Process.Pid))
	stdin.Close()
	_ = cmd.Process.Kill()
	_ = cmd.Wait() // it was killed, so its status is no error
	if err != nil {
		return nil, fmt.Errorf("opening the user namespace: %w", err)
	}
	return ns, nil
}
