package hostsetup_test

import (
	"testing"

	"aivm.dev/aivm/internal/root/roottest"
)

func TestMain(m *testing.M) {
	roottest.Main(m, map[string]func() int{"daemon": fakeDaemon, "lock": lockRole}, nil)
}
