package provision

import (
	"testing"

	"aivm.dev/aivm/provision/loop/looptest"
	"aivm.dev/aivm/provision/walls"
)

// env returns the Env for a World.
func env(w *looptest.World) *Env {
	if w.Runner == nil {
		w.Runner = newEnv(w.Session)
	}
	if w.Firewall == nil {
		w.Firewall = walls.OS{}
	}
	return &Env{w.Loop}
}

func newWorld(t *testing.T) *looptest.World {
	w := looptest.New(t)
	env(w)
	return w
}
