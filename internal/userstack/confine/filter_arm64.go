package confine

import "golang.org/x/sys/unix"

const auditArch = unix.AUDIT_ARCH_AARCH64

// archCalls are further system calls that Go's runtime uses on this architecture.
var archCalls []uintptr
