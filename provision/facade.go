// Package provision is the facade of aivm: one function a verb, put together from
// the parts (machine, folders, clones, settings, editors, walls, snapshots, images,
// checks, legacy03).
//
// A verb finds out what it is about (target), and hands the loop what to look at,
// what is missing and what comes after (loop.Job); the loop shows the plan, asks,
// locks and applies. The facade owns the order of things and what concerns more
// than one part; the parts do not know each other.
//
// Invariants: observing changes nothing and needs no privilege; nothing runs that
// was not in a plan; the warm path is one SSH connection, no process, not one byte
// written. Results are returned and printed by cmd.
package provision

import (
	"aivm.dev/aivm/provision/loop"
	"aivm.dev/aivm/provision/session"
	"aivm.dev/aivm/provision/target"
	"aivm.dev/aivm/provision/walls"
)

// Env has the verbs of one run.
type Env struct{ loop.Loop }

// New builds the world of one run from this process. It opens nothing:
// connections are made when they are needed.
func New(o Options) (*Env, error) {
	s, err := session.New(o)
	if err != nil {
		return nil, err
	}
	if s.Firewall == nil {
		s.Firewall = walls.OS{}
	}
	return newEnv(s), nil
}

// with joins a session with the verbs.
func newEnv(s *session.Session) *Env {
	e := &Env{loop.Loop{Finder: target.Finder{Session: s}}}
	e.Runner = e
	return e
}
