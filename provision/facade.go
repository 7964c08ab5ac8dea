// Package provision is the facade of aivm: it has one function per verb, which calls the parts
// (machine, folders, clones, settings, editors, walls, snapshots, images, checks, legacy03, and
// templates, oneshot, runs).
//
// A verb resolves its arguments to a Target (target), and describes to the loop how to observe and
// plan, and what to do afterwards (loop.Job). The loop shows the plan, asks for consent, locks and
// applies. The facade decides the order of steps and does what concerns more than one part; the
// parts do not import each other.
//
// Invariants: observing changes nothing and needs no privileges; nothing runs that was not in a
// plan; if nothing is missing (the warm path), a run makes one SSH connection, starts no process
// and writes no byte. Results are returned, and printed by cmd.
package provision

import (
	"aivm.dev/aivm/provision/checks"
	"aivm.dev/aivm/provision/loop"
	"aivm.dev/aivm/provision/session"
	"aivm.dev/aivm/provision/target"
	"aivm.dev/aivm/provision/walls"
)

// Env has the verbs of one run.
type Env struct{ loop.Loop }

// New creates the Env of one run from this process. It opens no connection; those are made when
// they are needed.
func New(o Options) (*Env, error) {
	s, err := session.New(o)
	if err != nil {
		return nil, err
	}
	if s.Firewall == nil {
		s.Firewall = walls.OS{}
	}
	if o.Seams == nil { // the folder server is this program, not a test's
		s.Host.OneShot = checks.TryOneShot
	}
	return newEnv(s), nil
}

// newEnv returns the Env for a session.
func newEnv(s *session.Session) *Env {
	e := &Env{loop.Loop{Finder: target.Finder{Session: s}}}
	e.Runner = e
	return e
}
