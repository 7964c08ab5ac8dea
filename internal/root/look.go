package root

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"aivm.dev/aivm/internal/capture"
	"aivm.dev/aivm/internal/ui"
)

// lookLimit is how long nft may take: rule sets of tens of thousands of rules
// are read in a second or two.
const lookLimit = 20 * time.Second

// listRuleset has nft print all rules as JSON into a file without a name, of
// which the caller gets the descriptor: an answer of any size, and root writes
// at no path.
func listRuleset(ctx context.Context) (Result, error) {
	path, err := lookProgram("nft")
	if err != nil {
		return Result{}, err
	}
	fd, err := unix.MemfdCreate("aivm-ruleset", unix.MFD_CLOEXEC)
	if err != nil {
		return Result{}, fmt.Errorf("making room for the answer of nft: %w", err)
	}
	out := os.NewFile(uintptr(fd), "aivm-ruleset")
	ctx, cancel := context.WithTimeout(ctx, lookLimit)
	defer cancel()
	errs := capture.Tail{Limit: 4096}
	cmd := exec.CommandContext(ctx, path, "-j", "list", "ruleset")
	cmd.Stdout, cmd.Stderr = out, &errs
	cmd.WaitDelay = time.Second
	if err := cmd.Run(); err != nil {
		_ = out.Close()
		return Result{}, ui.Failed("nft -j list ruleset: %w: %s", err, capture.LastLines(errs.String(), 3, "; "))
	}
	if _, err := out.Seek(0, io.SeekStart); err != nil {
		_ = out.Close()
		return Result{}, err
	}
	return Result{File: out}, nil
}

// kvmModules are what KVMModule may load.
var kvmModules = []string{"kvm_intel", "kvm_amd"}

// loadKVM loads the kernel's module and looks whether the device came.
func loadKVM(ctx context.Context, o KVMModule) error {
	if _, err := (program{argv: []string{"modprobe", "--", o.Name}}).run(ctx); err != nil {
		if ctx.Err() == nil && strings.Contains(err.Error(), "not supported") {
			return ui.Failed("%w", err).Hint("switch on Intel VT-x or AMD-V in the firmware")
		}
		return err
	}
	if _, err := os.Stat("/dev/kvm"); err != nil {
		return ui.Failed("the module %s is loaded, but there is still no /dev/kvm: %w", o.Name, err).Hint("sudo dmesg | grep -i kvm")
	}
	return nil
}
