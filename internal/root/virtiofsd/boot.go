package virtiofsd

import (
	"os"
	"strings"
)

// BootID tells one boot of this machine from another.
func BootID() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "" // ids of mounts and processes have to do
	}
	return strings.TrimSpace(string(b))
}
