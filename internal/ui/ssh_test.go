package ui

import (
	"context"
	"fmt"
	"slices"
	"testing"
)

// AsSSHError gives every error of aivm the exit status 255 and changes nothing else of
// it; the status of a remote command is unchanged.
func TestAsSSHError(t *testing.T) {
	for _, c := range []struct {
		err  error
		exit int
		kind string
	}{
		{nil, 0, ""},
		{Status(3), 3, "failed"},
		{fmt.Errorf("x: %w", Status(130)), 130, "failed"},
		{Usage("x").Hint(Remark("h")), 255, "usage"},
		{fmt.Errorf("y: %w", NeedsApproval("x").Hint(Remark("h"))), 255, "approval"},
		{Refused("x").Hint(Remark("h")), 255, "refused"},
		{&Error{Exit: ExitInterrupted, Kind: "interrupted", Message: "x", Hints: []Hint{Remark("h")}, Err: context.Canceled}, 255, "interrupted"},
		{Failed("x: %w", context.Canceled).Hint(Remark("h")), 255, "interrupted"},
		{context.Canceled, 255, "interrupted"},
		{fmt.Errorf("x"), 255, "failed"},
	} {
		got := outcome(AsSSHError(c.err))
		was := outcome(c.err)
		if got.Exit != c.exit || got.Kind != c.kind || got.Message != was.Message || !slices.Equal(got.HintLines(), was.HintLines()) {
			t.Errorf("%v: %+v, was %+v", c.err, got, was)
		}
	}
}
