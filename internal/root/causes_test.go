package root_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"aivm.dev/aivm/internal/root"
	"aivm.dev/aivm/internal/root/record"
	"aivm.dev/aivm/internal/root/roottest"
	"aivm.dev/aivm/internal/ui"
)

// The caller, at the other end of a real socket, finds the cause of an action's
// failure by errors.Is as if the action had run in its own process.
func TestCausesSurviveTheWire(t *testing.T) {
	work, ok := roottest.Privately(t)
	if !ok {
		return
	}
	roottest.Stage(t, work, unix.MS_PRIVATE)
	all := []error{syscall.ENOSPC, syscall.EDQUOT, syscall.EACCES, syscall.EPERM, syscall.EROFS, fs.ErrPermission, context.Canceled, root.ErrInUse}
	var fails error
	a := root.NewConnectedClient(t, map[string]record.BuildFunc{
		"fails-1": func(context.Context, string, record.Progress) (string, error) { return "", fails },
	})
	full := filepath.Join(work, "full")
	roottest.Must(t, os.Mkdir(full, 0o755))
	roottest.Must(t, unix.Mount("none", full, "tmpfs", 0, "size=4k"))
	for what, err := range map[string]error{
		"a full disk":                os.WriteFile(filepath.Join(full, "x"), make([]byte, 1<<20), 0o600),
		"a quota":                    &fs.PathError{Op: "write", Path: "/x", Err: syscall.EDQUOT},
		"no access":                  &fs.PathError{Op: "open", Path: "/x", Err: syscall.EACCES},
		"not permitted":              &os.SyscallError{Syscall: "mount", Err: syscall.EPERM},
		"read-only":                  fmt.Errorf("writing: %w", syscall.EROFS),
		"no permission by that name": fmt.Errorf("no: %w", fs.ErrPermission),
		"cancelled":                  fmt.Errorf("waiting: %w", context.Canceled),
		"in use":                     ui.Failed("/m %w: a shell", root.ErrInUse).Hint(ui.Remark("end it")),
		"two of them":                errors.Join(syscall.ENOSPC, ui.Refused("no: %w", syscall.EPERM).Hint(ui.Remark("a"), ui.Remark("b"))),
		"none of them":               ui.NeedsApproval("ask"),
		"a cause not in the list":    fmt.Errorf("no such thing: %w", fs.ErrNotExist),
	} {
		if err == nil {
			t.Fatalf("%s: no error", what)
		}
		fails = err
		_, got := a.Do(t.Context(), record.BuildImage{Distro: "fails-1"}, nil)
		if got == nil || got.Error() != err.Error() {
			t.Errorf("%s: %q became %v", what, err, got)
		}
		for _, c := range all {
			if errors.Is(got, c) != errors.Is(err, c) {
				t.Errorf("%s: errors.Is(%v) is %v in the client, and %v in the helper", what, c, errors.Is(got, c), errors.Is(err, c))
			}
		}
		var here, there *ui.Error
		if errors.As(err, &there) && (!errors.As(got, &here) || here.Kind != there.Kind || here.Exit != there.Exit || fmt.Sprint(here.HintLines()) != fmt.Sprint(there.HintLines())) {
			t.Errorf("%s: %+v became %+v", what, there, here)
		}
		if ui.ExitCode(got) != ui.ExitCode(err) {
			t.Errorf("%s: exit status %d, and in the helper's process %d", what, ui.ExitCode(got), ui.ExitCode(err))
		}
	}
}
