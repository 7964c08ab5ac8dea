package guestuser

import (
	"strconv"
	"testing"
)

func TestText(t *testing.T) {
	if strconv.Itoa(ID) != Text {
		t.Errorf("%d and %q", ID, Text)
	}
}
