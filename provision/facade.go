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
	if s.Wall == nil {
		s.Wall = walls.OS{}
	}
	return with(s), nil
}

// with joins a session with the verbs.
func with(s *session.Session) *Env {
	e := &Env{loop.Loop{Finder: target.Finder{Session: s}}}
	e.Runner = e
	return e
}
