package settingsync

import (
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"maps"
	"os"
	"syscall"

	"aivm.dev/aivm/internal/hostfile"
)

// resolve follows the symbolic links of a listed path, as dotfile managers create them, but refuses
// a link in a folder that a guest can write: the guest could have created it to get a host file
// sent. The result must be opened with hostfile.Open, which follows no link created since.
func resolve(name string, untrusted []string) (string, error) {
	var t hostfile.Tracer
	way := t.Follow(name)
	for _, u := range untrusted {
		if e, ok := way.Link(t.Folder(u)); ok {
			return "", fmt.Errorf("%s is a symbolic link in a folder that a guest can write, so it is not followed", e.Path)
		}
	}
	switch {
	case way.Err != nil:
		return "", way.Err
	case !way.Exists:
		return "", &fs.PathError{Op: "open", Path: way.Path, Err: syscall.ENOENT}
	}
	return way.Path, nil
}

// reason returns an error's text without the path, which the caller prints before it.
func reason(err error) string {
	if pe := new(fs.PathError); errors.As(err, &pe) {
		return pe.Err.Error()
	}
	return err.Error()
}

func sameFile(a, b string) bool {
	sa, err1 := os.Stat(a)
	sb, err2 := os.Stat(b)
	return err1 == nil && err2 == nil && os.SameFile(sa, sb)
}

func keysOf[V any](m map[string]V) iter.Seq[string] { return maps.Keys(m) }
