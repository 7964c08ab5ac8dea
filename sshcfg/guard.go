package sshcfg

import (
	"errors"
	"path/filepath"
	"strings"

	"al.essio.dev/pkg/shellescape"

	"aivm.dev/aivm/internal/hostfile"
	"aivm.dev/aivm/internal/ui"
)

// ErrGuest: a guest can write the configuration ssh reads. Test with errors.Is.
var ErrGuest = errors.New("a VM can write what ssh reads")

// A GuestFolder is a folder of this machine that a VM can write, or is to get:
// then it has no VM yet.
type GuestFolder struct{ Path, VM string }

// Guarded refuses a configuration that ssh would read from a folder a guest can
// write, with links followed: it could hold commands that ssh runs (Match exec,
// ProxyCommand), and a link in the place of a file we would write. Nothing of
// it is read, written or given to ssh then. It starts nothing.
func (l Layout) Guarded() error {
	if len(l.Guests) == 0 {
		return nil
	}
	g := guard{layout: l}
	if f, lead := g.through(l.sshConfig()); f != nil {
		q := shellescape.Quote(l.sshConfig())
		return g.refuse(l.sshConfig()+" leads to "+lead, *f).
			Hint(ui.CmdFor("or check its content, then make it a file of its own", "cp --remove-destination -- \"$(readlink -f "+q+")\" "+q))
	}
	s := scanner{home: l.Home, skip: filepath.Clean(l.ConfigDir), base: filepath.Join(l.Home, ".ssh"), guard: &g}
	s.file(l.sshConfig(), yes, 0)
	return g.found
}

// guard judges what a scanner comes by.
type guard struct {
	layout Layout
	tracer hostfile.Tracer
	found  error
}

func (g *guard) through(path string) (*GuestFolder, string) {
	if abs, err := filepath.Abs(path); err == nil {
		path = abs
	}
	way := g.tracer.Follow(path)
	for i, f := range g.layout.Guests {
		if e, in := way.Through(g.tracer.Folder(f.Path)); in {
			return &g.layout.Guests[i], e.Path
		}
	}
	return nil, ""
}

func (g *guard) refuse(what string, f GuestFolder) *ui.Error {
	if f.VM == "" {
		return ui.Refused("%w: %s, and ssh on this machine could be made to run what the VM wants", ErrGuest, ui.Clean(what)).
			Hint(ui.CmdFor("to let the guest only read it", "aivm attach "+shellescape.Quote(f.Path)+" --access ro"))
	}
	return ui.Refused("%w: %s, which VM %s can write, so ssh on this machine could be made to run what that VM wants", ErrGuest, ui.Clean(what), f.VM).
		Hint(ui.Cmd("aivm detach " + shellescape.Quote(f.Path) + " --vm " + f.VM))
}

// include judges an Include of the file from, before anything is read of it: a
// file that is there, or one that a guest could make where the pattern fits.
func (g *guard) include(from, pattern string, names []string) bool {
	if g.found != nil {
		return false
	}
	parts := strings.Split(filepath.Clean(pattern), "/")
	for _, f := range g.layout.Guests {
		if n := len(strings.Split(f.Path, "/")); n < len(parts) {
			if fits, _ := filepath.Match(strings.Join(parts[:n], "/"), f.Path); fits {
				g.found = g.refuse(from+" includes "+pattern+" in "+f.Path, f)
				return false
			}
		}
	}
	plain := pattern
	if i := strings.IndexAny(pattern, `*?[\`); i >= 0 {
		plain = pattern[:strings.LastIndexByte(pattern[:i], '/')+1]
	}
	for _, n := range append([]string{plain}, names...) {
		if f, lead := g.through(n); f != nil {
			g.found = g.refuse(from+" includes "+pattern+", which leads to "+lead, *f)
			return false
		}
	}
	return true
}
