package folders

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"testing"
	"time"

	"aivm.dev/aivm/internal/hostexec"
	"aivm.dev/aivm/internal/root"
	"aivm.dev/aivm/provision/loop/looptest"
	"aivm.dev/aivm/provision/share"
)

// Reviewing the host-executed files does not hide setuid files: those that appeared
// since the folder was attached are still named.
func TestReviewHidesNoSetuidFile(t *testing.T) {
	w := looptest.New(t)
	p := w.MakeFolder("p")
	file(w, p+"/Makefile", "all:\n")
	file(w, p+"/mine", "")
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.Chmod(p+"/mine", 0o755|os.ModeSetuid))
	a := share.Attachment{HostPath: p, VM: "t", Access: string(share.ReadWrite)}
	write := func() {
		t.Helper()
		time.Sleep(20 * time.Millisecond) // more than a file system's clock is behind
		l, err := hostexec.Scan(t.Context(), p)
		must(err)
		must(w.State().SaveChecksums(a, l))
		time.Sleep(20 * time.Millisecond)
	}
	named := func(want string) {
		t.Helper()
		found, _, err := findSpecial(t.Context(), a, w.State().AttachedAt(a))
		must(err)
		var got []string
		for _, f := range found {
			got = append(got, f.Path)
		}
		if s := strings.Join(got, " "); s != want {
			t.Errorf("named %q, not %q", s, want)
		}
	}
	named("mine") // the time of attaching is not recorded
	write()
	named("")
	file(w, p+"/suid", "")
	must(os.Chmod(p+"/suid", 0o755|os.ModeSetuid))
	named("suid")
	for range 2 {
		write()
		named("suid")
	}

	// For a list an older aivm wrote, the time of the list counts, also after a
	// review.
	b, err := os.ReadFile(w.State().ChecksumsPath(a))
	must(err)
	var old map[string]any
	must(json.Unmarshal(b, &old))
	delete(old, "attached")
	b, err = json.Marshal(old)
	must(err)
	must(os.WriteFile(w.State().ChecksumsPath(a), b, 0o600))
	time.Sleep(20 * time.Millisecond)
	file(w, p+"/later", "")
	must(os.Chmod(p+"/later", 0o755|os.ModeSetuid))
	named("later")
	write()
	named("later")
	// The same for a damaged list.
	must(os.WriteFile(w.State().ChecksumsPath(a), []byte("{"), 0o600))
	write()
	named("")
	w.State().ForgetChecksums(a)
	named("later mine suid")
}

// An unknown state of the device guard is reported as unknown, not as a risk.
func TestDescribeDeviceRisk(t *testing.T) {
	const unknown = "cannot tell whether the guest's root can create device nodes in them: "
	unseen := func(err error) error { return &root.UnseenError{Why: err} }
	for want, err := range map[string]error{
		"":                                     nil,
		unknown + "the VM was started without": fmt.Errorf("of an earlier boot: %w", fs.ErrNotExist),
		unknown + "the VM was started since":   unseen(errors.New("the VM was started since without aivm's hook")),
		unknown + "/proc/7/status: file does not":  unseen(fmt.Errorf("/proc/7/status: %w", fs.ErrNotExist)),
		"the guest's root can create device nodes": errors.New("no cgroup2 is mounted"),
	} {
		if got := describeDeviceRisk("t", err); !strings.HasPrefix(got, want) || (want == "") != (got == "") {
			t.Errorf("%v: %q", err, got)
		}
	}
}
