package provision

import (
	"strings"
	"testing"

	"aivm.dev/aivm/internal/hostexec"
	"aivm.dev/aivm/internal/root"
	"aivm.dev/aivm/provision/share"
)

// Only what the VM could write while it had no mount is said to have been the
// VM's to write: never a file in a directory that stayed protected.
func TestSayReplaced(t *testing.T) {
	w := newWorld(t)
	p := w.folder("p")
	w.file(p+"/Makefile", "all:\n")
	w.file(p+"/.git/HEAD", "x")
	w.file(p+"/.git/hooks/pre-commit", "x")
	a := share.Attachment{HostPath: p, VM: "t", Access: string(share.ReadWrite), Protect: true}
	l, err := hostexec.Scan(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.state().SaveSeen(a, l); err != nil {
		t.Fatal(err)
	}
	w.file(p+"/Makefile", "more:\n")
	w.file(p+"/.git/hooks/pre-commit", "y")
	w.sayReplaced(t.Context(), a, &root.ReplacedError{Paths: []string{".git/hooks/pre-commit", "Makefile"}, Bare: []string{"Makefile"}})
	if s := w.err.String(); !strings.Contains(s, "the VM could write it until now: Makefile; read it") {
		t.Errorf("said %q", s)
	}
}
