package folders

import (
	"strings"
	"testing"

	"aivm.dev/aivm/internal/hostexec"
	"aivm.dev/aivm/internal/root"
	"aivm.dev/aivm/provision/loop/looptest"
	"aivm.dev/aivm/provision/share"
)

// The warning names only replaced files that the VM could write while their mount was
// gone, and no file in a directory that stayed protected.
func TestWarnReplaced(t *testing.T) {
	w := looptest.New(t)
	p := w.MakeFolder("p")
	file(w, p+"/Makefile", "all:\n")
	file(w, p+"/.git/HEAD", "x")
	file(w, p+"/.git/hooks/pre-commit", "x")
	a := share.Attachment{HostPath: p, VM: "t", Access: string(share.ReadWrite), Protect: true}
	l, err := hostexec.Scan(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.State().SaveChecksums(a, l); err != nil {
		t.Fatal(err)
	}
	file(w, p+"/Makefile", "more:\n")
	file(w, p+"/.git/hooks/pre-commit", "y")
	For(w.Loop).warnReplaced(t.Context(), a, &root.ReplacedError{Paths: []string{".git/hooks/pre-commit", "Makefile"}, Bare: []string{"Makefile"}})
	if s := w.Err.String(); !strings.Contains(s, "the VM could write them until now: Makefile; read them") {
		t.Errorf("printed %q", s)
	}
}
