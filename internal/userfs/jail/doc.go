// Package jail confines the process that serves folders to a guest, so that a mistake in it does not
// give the guest the rest of the host.
//
// There are two jails, and a process has one of them:
//
//   - Namespaces: the process starts in its own user, mount, pid, network, ipc and uts namespaces. Its
//     root is a read-only tmpfs that nobody may search; it has descriptors of nosuid, nodev, noexec
//     mounts of the exports (read-only where asked) and of its own /proc/self/fd, and nothing else can
//     be named. Mounts of the host below an export that come or go later do so here too, if the host
//     shares mounts (systemd does). Where it does not, a later mount is not known here: the guest can
//     remove or rename the directory under it, and the kernel then detaches the mount.
//   - Landlock: for hosts that restrict user namespaces. The process can open files only in the
//     exports, and its own program. Names and attributes of other files stay visible to it, and Landlock
//     does not protect the permissions, times, owners and extended attributes of the user's other
//     files: a process that is taken over can change them (it cannot change their contents).
//
// Both end with no_new_privs and a seccomp filter for all threads that allows what the server does
// and nothing else: no sockets, programs, new processes, mounts, ptrace or ioctl. Prove then tries
// what the jail must prevent.
package jail
