package loop

import (
	"testing"
)

func TestWithoutBridge(t *testing.T) {
	// The loopback is in no bridge. An interface that does not exist proves nothing, and
	// neither does a VM whose definition names none.
	for tap, want := range map[string]bool{"lo": true, "": false, "aivm-no-such": false} {
		if withoutBridge(tap) != want {
			t.Errorf("%q: %v, want %v", tap, !want, want)
		}
	}
}
