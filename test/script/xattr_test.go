package script

import (
	"encoding/hex"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"
)

// cmdXattr sets an extended attribute of a file: xattr FILE NAME HEX. With "=" it checks the value: xattr
// FILE NAME = HEX. With "!" and "=" the attribute must be missing or have another value.
func cmdXattr(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 3 && len(args) != 4 {
		ts.Fatalf("usage: xattr FILE NAME [=] HEX")
	}
	file := ts.MkAbs(args[0])
	want, err := hex.DecodeString(args[len(args)-1])
	ts.Check(err)
	if len(args) == 3 {
		ts.Check(unix.Setxattr(file, args[1], want, 0))
		return
	}
	b := make([]byte, 4096)
	n, err := unix.Getxattr(file, args[1], b)
	if got := err == nil && string(b[:n]) == string(want); got == neg {
		ts.Fatalf("%s of %s is %x (%v), want %x", args[1], file, b[:max(n, 0)], err, want)
	}
}
