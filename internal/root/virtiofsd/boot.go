package virtiofsd

import (
	"os"
	"strings"
)

// BootID returns the kernel's random ID of this boot; "" if it cannot be read.
func BootID() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "" // then callers compare only IDs of mounts and processes
	}
	return strings.TrimSpace(string(b))
}
