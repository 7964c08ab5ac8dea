// Package guestarchive unpacks an archive in a guest: into a temporary directory beside the existing
// versions, which is renamed to its final name when it is complete.
package guestarchive

import (
	"context"
	_ "embed"
	"fmt"
	"io"
	"path/filepath"

	"aivm.dev/aivm/internal/capture"
	"aivm.dev/aivm/internal/guest"
	"aivm.dev/aivm/internal/ui"
)

// Place is the destination of an archive: the directory Version in Home, which is relative to the
// home of the guest's user. Program is the path of an executable that the archive must contain.
type Place struct{ Home, Version, Program string }

// Dir returns the directory of the version, below the user's home.
func (p Place) Dir() string { return p.Home + "/" + p.Version }

// check refuses a place that is outside the user's home or is the home itself, because files in it
// are removed.
func (p Place) check() error {
	for _, at := range []string{p.Home, p.Version, p.Program} {
		if !filepath.IsLocal(at) || filepath.Clean(at) == "." {
			return fmt.Errorf("cannot unpack an archive in the guest to %q, %q, %q: each must be a path below the user's home", p.Home, p.Version, p.Program)
		}
	}
	return nil
}

//go:embed unpack.sh
var unpack string

// maxStderr is how many bytes of tar's stderr are kept.
const maxStderr = 64 << 10

// StatusShared is the status of an UnpackError if the place is in a folder of another machine, which the
// guest has mounted. Nothing was written or deleted then.
const StatusShared = 3

// UnpackError reports that the guest could not unpack an archive.
type UnpackError struct {
	Status  int    // exit status of the shell in the guest
	Message string // last line of its stderr, cleaned
}

func (e *UnpackError) Error() string {
	return fmt.Sprintf("unpacking in the guest ended with status %d: %s", e.Status, e.Message)
}

// Has reports whether the guest has the version with its program.
func Has(ctx context.Context, c guest.Conn, p Place) (bool, error) {
	code, err := c.Run(ctx, guest.Cmd{Argv: []string{"test", "-x", p.Dir() + "/" + p.Program}})
	return err == nil && code == 0, err
}

// Put unpacks a .tar.gz, without its top directory, and replaces the version if it exists without its
// program. It deletes nothing that is mounted there. If the guest cannot unpack it, for example
// because its disk is full, the error is an *UnpackError.
func Put(ctx context.Context, c guest.Conn, p Place, archive io.Reader) error {
	if err := p.check(); err != nil {
		return err
	}
	stderr := capture.Head{Limit: maxStderr}
	code, err := c.Run(ctx, guest.Cmd{Argv: []string{"sh", "-c", unpack, "sh", p.Home, p.Version, p.Program}, Stdin: archive, Stderr: &stderr})
	if err == nil && code != 0 {
		err = &UnpackError{Status: code, Message: ui.CleanTo(capture.LastLines(stderr.String(), 1, ""), 300)}
	}
	return err
}
