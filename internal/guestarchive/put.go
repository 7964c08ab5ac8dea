// Package guestarchive puts an archive into a guest: unpacked beside the versions
// that are there, and renamed into its place when it is whole.
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

// Place is where an archive goes: Home below the home of the guest's user, one
// directory a Version. Program, below that directory, has to be executable there;
// an archive without it is refused.
type Place struct{ Home, Version, Program string }

// Dir returns the directory of the version, below the user's home.
func (p Place) Dir() string { return p.Home + "/" + p.Version }

// check refuses a place that reaches outside the user's home or is the home
// itself: what is below it is removed.
func (p Place) check() error {
	for _, at := range []string{p.Home, p.Version, p.Program} {
		if !filepath.IsLocal(at) || filepath.Clean(at) == "." {
			return fmt.Errorf("an archive in the guest has no place at %q, %q, %q", p.Home, p.Version, p.Program)
		}
	}
	return nil
}

//go:embed unpack.sh
var unpack string

// most is how much is kept of what tar writes.
const most = 64 << 10

// UnpackError says that the guest could not unpack an archive.
type UnpackError struct {
	Status int    // of its shell
	Said   string // its last line, clean
}

func (e *UnpackError) Error() string {
	return fmt.Sprintf("unpacking in the guest ended with status %d: %s", e.Status, e.Said)
}

// Has reports whether the guest has the program of that version.
func Has(ctx context.Context, c guest.Conn, p Place) (bool, error) {
	code, err := c.Run(ctx, guest.Cmd{Argv: []string{"test", "-x", p.Dir() + "/" + p.Program}})
	return err == nil && code == 0, err
}

// Put unpacks a .tar.gz, without the directory at its top. An *UnpackError is the
// guest's: its disk may be full.
func Put(ctx context.Context, c guest.Conn, p Place, archive io.Reader) error {
	if err := p.check(); err != nil {
		return err
	}
	stderr := capture.Head{Limit: most}
	code, err := c.Run(ctx, guest.Cmd{Argv: []string{"sh", "-c", unpack, "sh", p.Home, p.Version, p.Program}, Stdin: archive, Stderr: &stderr})
	if err == nil && code != 0 {
		err = &UnpackError{Status: code, Said: ui.CleanTo(capture.LastLines(stderr.String(), 1, ""), 300)}
	}
	return err
}
