package root

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"

	"aivm.dev/aivm/internal/guestuser"
	"aivm.dev/aivm/internal/ui"
)

// guestUser is the uid and gid of the user cloud-init makes in every guest.
const guestUser = guestuser.ID

// nobody owns on the host what guest root makes.
const nobody = 65534

// ownerMap says how ids on disk (ContainerID, the inside of the namespace)
// appear through the mount (HostID): the folder's owner is the guest's user,
// and the guest's root is nobody. The second line is not only for safety:
// virtiofsd renames as uid 0, and without it every rename fails with
// EOVERFLOW (shares.md 5).
func ownerMap(owner int) []syscall.SysProcIDMap {
	rest := nobody
	if owner == nobody {
		// One id cannot be both; its neighbour is as powerless.
		rest = nobody - 1
	}
	return []syscall.SysProcIDMap{
		{ContainerID: owner, HostID: guestUser, Size: 1},
		{ContainerID: rest, HostID: 0, Size: 1},
	}
}

// ownerNamespace returns a user namespace with the map. Only a process can
// make one: cat, which ends with its stdin even if this process is killed.
func ownerNamespace(uid, gid int) (*os.File, error) {
	cat, err := lookProgram("cat")
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(cat)
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER,
		UidMappings: ownerMap(uid),
		GidMappings: ownerMap(gid),
	}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EPERM) {
			return nil, ui.Failed("making a user namespace: %w", err).
				Hint("owners are mapped with one; look at: sysctl user.max_user_namespaces")
		}
		return nil, fmt.Errorf("making a user namespace: %w", err)
	}
	ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/user", cmd.Process.Pid))
	stdin.Close()
	_ = cmd.Process.Kill()
	_ = cmd.Wait() // it was killed: its status says nothing
	if err != nil {
		return nil, fmt.Errorf("opening the user namespace: %w", err)
	}
	return ns, nil
}

// lookProgram finds a program in the usual places first, whatever PATH says.
func lookProgram(name string) (string, error) {
	for _, dir := range []string{"/usr/bin", "/bin", "/usr/sbin", "/sbin"} {
		p := dir + "/" + name
		if st, err := os.Stat(p); err == nil && st.Mode().IsRegular() && st.Mode()&0o111 != 0 {
			return p, nil
		}
	}
	p, err := exec.LookPath(name)
	if err != nil {
		return "", ui.Refused("program %q is not installed", name)
	}
	return p, nil
}
