package loop

import (
	"testing"
)

func TestUnplugged(t *testing.T) {
	// The loopback is in no bridge; an interface that is gone is no evidence, and
	// neither is a VM whose definition names none.
	for tap, want := range map[string]bool{"lo": true, "": false, "aivm-no-such": false} {
		if withoutBridge(tap) != want {
			t.Errorf("%q: %v, want %v", tap, !want, want)
		}
	}
}
