// Package pause waits without keeping anybody from being interrupted.
package pause

import (
	"context"
	"time"
)

// For waits for d and returns nil, or returns the context's error as soon as it
// ends.
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
