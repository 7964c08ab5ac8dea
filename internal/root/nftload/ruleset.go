package nftload

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"time"

	"golang.org/x/sys/unix"

	"aivm.dev/aivm/internal/capture"
	"aivm.dev/aivm/internal/root/program"
	"aivm.dev/aivm/internal/root/record"
	"aivm.dev/aivm/internal/ui"
)

// listLimit is how long nft may take to list all rules: it lists tens of thousands in a
// second or two.
const listLimit = 20 * time.Second

// ListRuleset lets nft print all rules as JSON into an anonymous file (memfd), and
// returns its descriptor: the output may have any size, and root writes to no path.
func ListRuleset(ctx context.Context) (record.Result, error) {
	path, err := program.Find("nft")
	if err != nil {
		return record.Result{}, err
	}
	fd, err := unix.MemfdCreate("aivm-ruleset", unix.MFD_CLOEXEC)
	if err != nil {
		return record.Result{}, fmt.Errorf("making a memfd for the output of nft: %w", err)
	}
	out := os.NewFile(uintptr(fd), "aivm-ruleset")
	ctx, cancel := context.WithTimeout(ctx, listLimit)
	defer cancel()
	errs := capture.Tail{Limit: 4096}
	cmd := exec.CommandContext(ctx, path, "-j", "list", "ruleset")
	cmd.Stdout, cmd.Stderr = out, &errs
	cmd.WaitDelay = time.Second
	if err := cmd.Run(); err != nil {
		_ = out.Close()
		return record.Result{}, ui.Failed("nft -j list ruleset: %w: %s", err, capture.LastLines(errs.String(), 3, "; "))
	}
	if _, err := out.Seek(0, io.SeekStart); err != nil {
		_ = out.Close()
		return record.Result{}, err
	}
	return record.Result{File: out}, nil
}
