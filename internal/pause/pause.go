// Package pause waits for a time, or until the context ends.
package pause

import (
	"context"
	"time"
)

// For waits for d and returns nil; it returns the context's error as soon as the
// context ends.
func For(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
