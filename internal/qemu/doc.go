// Package qemu starts QEMU as the user's own process and controls it over QMP:
// boot, save to a file, resume from it, hot-plug of a card or a file server.
//
// It owns the command line, the limits of the process and the QMP connection. It
// gives QEMU no path that could be exchanged: sockets, memory, disks and the log
// are inherited descriptors; only the kernel and the initrd are named. QEMU runs in
// its seccomp sandbox, cannot start programs, and is killed by the kernel when this
// process ends. What QEMU sends is bounded, because the guest may control it.
package qemu
