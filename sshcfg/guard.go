package sshcfg

import (
	"errors"
	"path/filepath"
	"strings"

	"al.essio.dev/pkg/shellescape"

	"aivm.dev/aivm/internal/hostfile"
	"aivm.dev/aivm/internal/ui"
)

// ErrGuest means that a guest can write the configuration ssh reads. Test with errors.Is.
var ErrGuest = errors.New("a VM can write files that ssh reads")

// A GuestFolder is a folder of the host that a VM can write. VM is "" for a folder that is
// about to be attached.
type GuestFolder struct{ Path, VM string }

// Guarded returns an error if ssh would read its configuration, links followed, from a
// folder that a guest can write. The guest could put commands there that ssh runs (Match
// exec, ProxyCommand), or a link in place of a file that aivm writes. After an error the
// configuration must not be read, written or passed to ssh. Guarded starts no program.
func (l Layout) Guarded() error {
	if len(l.Guests) == 0 {
		return nil
	}
	g := guard{layout: l}
	if f, lead := g.through(l.sshConfig()); f != nil {
		q := shellescape.Quote(l.sshConfig())
		return g.refuse(l.sshConfig()+" leads to "+lead, *f).
			Hint(ui.CmdFor("or check its content, then replace the link by a copy", "cp --remove-destination -- \"$(readlink -f "+q+")\" "+q))
	}
	s := scanner{home: l.Home, skip: filepath.Clean(l.ConfigDir), base: filepath.Join(l.Home, ".ssh"), guard: &g}
	s.file(l.sshConfig(), yes, 0)
	return g.refusal
}

// guard checks the files a scanner is about to read.
type guard struct {
	layout  Layout
	tracer  hostfile.Tracer
	refusal error
}

// through returns the guest folder that path leads through, links followed, and the place
// in it; nil if there is none.
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

// refuse returns the error for a configuration in the guest folder f.
func (g *guard) refuse(what string, f GuestFolder) *ui.Error {
	if f.VM == "" {
		return ui.Refused("%w: %s, so the VM could make ssh on this machine run commands", ErrGuest, ui.Clean(what)).
			Hint(ui.CmdFor("to let the guest only read the folder", "aivm attach "+shellescape.Quote(f.Path)+" --access ro"))
	}
	return ui.Refused("%w: %s, which VM %s can write, so that VM could make ssh on this machine run commands", ErrGuest, ui.Clean(what), f.VM).
		Hint(ui.CmdFor("to detach the folder", "aivm detach "+shellescape.Quote(f.Path)+" --vm "+f.VM))
}

// include checks an Include in the file from, before any included file is read. It sets
// refusal and returns false if an included file is in a guest folder, or if a guest could
// create one there that matches the pattern.
func (g *guard) include(from, pattern string, names []string) bool {
	if g.refusal != nil {
		return false
	}
	parts := strings.Split(filepath.Clean(pattern), "/")
	for _, f := range g.layout.Guests {
		if n := len(strings.Split(f.Path, "/")); n < len(parts) {
			if fits, _ := filepath.Match(strings.Join(parts[:n], "/"), f.Path); fits {
				g.refusal = g.refuse(from+" includes "+pattern+" in "+f.Path, f)
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
			g.refusal = g.refuse(from+" includes "+pattern+", which leads to "+lead, *f)
			return false
		}
	}
	return true
}
