package hostsetup

import (
	"maps"
	"slices"
	"testing"

	"aivm.dev/aivm/internal/root/record"
)

// The services and managers that a record may name are exactly those implemented here.
func TestRecordsMatchImplementation(t *testing.T) {
	if got, want := slices.Sorted(maps.Keys(daemons)), slices.Sorted(slices.Values(record.Services())); !slices.Equal(got, want) {
		t.Errorf("services %q, records may name %q", got, want)
	}
	if got, want := slices.Sorted(maps.Keys(otherManagers)), record.Managers(); !slices.Equal(got, want) {
		t.Errorf("package managers %q, records may name %q", got, want)
	}
}
