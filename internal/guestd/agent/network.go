package agent

import "aivm.dev/aivm/internal/guestd/wire"

func (g *guest) setNetwork(r wire.SetupRequest) error { return nil }
