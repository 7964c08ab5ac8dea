package manifest_test

import (
	"testing"

	"aivm.dev/aivm/internal/root/roottest"
)

func TestMain(m *testing.M) { roottest.Main(m, nil, nil) }
