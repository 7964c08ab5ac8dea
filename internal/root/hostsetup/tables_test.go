package hostsetup

import (
	"maps"
	"slices"
	"testing"

	"aivm.dev/aivm/internal/root/record"
)

// What a record may name can be done, and nothing else.
func TestRecordsNameWhatCanBeDone(t *testing.T) {
	if got, want := slices.Sorted(maps.Keys(daemons)), slices.Sorted(slices.Values(record.Services())); !slices.Equal(got, want) {
		t.Errorf("services %q, records may name %q", got, want)
	}
	if got, want := slices.Sorted(maps.Keys(otherManagers)), record.Managers(); !slices.Equal(got, want) {
		t.Errorf("package managers %q, records may name %q", got, want)
	}
}
