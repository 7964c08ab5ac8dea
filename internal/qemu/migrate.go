package qemu

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"aivm.dev/aivm/internal/ui"
)

// pollInterval is the time between two questions about a migration. Its end is
// usually reported by an event before that.
const pollInterval = 100 * time.Millisecond

// capability is a feature of QEMU's migration.
type capability struct {
	Capability string `json:"capability"`
	State      bool   `json:"state"`
}

// migrationCapabilities leave the guest's memory in its file, and report progress.
var migrationCapabilities = map[string]any{"capabilities": []capability{{"x-ignore-shared", true}, {"events", true}}}

// MaxState bounds the saved state of the devices, in bytes.
const MaxState = 64 << 20

// Save stops the guest, writes the state of its devices to state and ends QEMU. The
// guest's memory is in Config.RAM, which must be shared. Every port's other end must
// have been closed before and the guest must have noticed: a guest saved in the
// middle of a conversation never answers another one.
//
// QEMU gets pipes, not files: from 9.1 on it does not take files as "fd:" any more.
func (v *VM) Save(ctx context.Context, state io.Writer) error {
	err := v.save(ctx, state)
	if err != nil {
		return fmt.Errorf("saving the VM: %w", v.fail(err))
	}
	return nil
}

func (v *VM) save(ctx context.Context, state io.Writer) error {
	if err := v.Stop(ctx); err != nil {
		return err
	}
	if err := v.do(ctx, "migrate-set-capabilities", migrationCapabilities, nil); err != nil {
		return err
	}
	read, write, err := os.Pipe()
	if err != nil {
		return err
	}
	defer read.Close()
	err = v.qmp.give(ctx, "state", int(write.Fd()))
	_ = write.Close()
	if err != nil {
		return err
	}
	copied := make(chan error, 1)
	go func() {
		n, err := io.Copy(state, io.LimitReader(read, MaxState+1))
		if err == nil && n > MaxState {
			err = fmt.Errorf("the state of the devices has more than %d bytes", MaxState)
		}
		_ = read.Close() // QEMU must not wait for a reader
		copied <- err
	}()
	if err := v.do(ctx, "migrate", map[string]any{"uri": "fd:state"}, nil); err != nil {
		return err
	}
	if err := v.migrated(ctx); err != nil {
		return err
	}
	select {
	case err := <-copied:
		if err != nil {
			return err
		}
	case <-ctx.Done():
		return ctx.Err()
	}
	if err := v.do(ctx, "quit", nil, nil); err != nil && !errors.Is(err, errClosed) {
		return err
	}
	select {
	case <-v.done:
		return v.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Resume loads the state that Save wrote, into a VM started with Config.Incoming and
// the same devices. Afterwards the guest is stopped: Cont lets it run. If QEMU ends
// because it cannot load the state, the error is an *Ended.
func (v *VM) Resume(ctx context.Context, state io.Reader) error {
	err := v.resume(ctx, state)
	if err != nil {
		return fmt.Errorf("resuming the VM: %w", v.fail(err))
	}
	return nil
}

func (v *VM) resume(ctx context.Context, state io.Reader) error {
	if err := v.do(ctx, "migrate-set-capabilities", migrationCapabilities, nil); err != nil {
		return err
	}
	read, write, err := os.Pipe()
	if err != nil {
		return err
	}
	err = v.qmp.give(ctx, "state", int(read.Fd()))
	_ = read.Close()
	if err != nil {
		_ = write.Close()
		return err
	}
	go func() { // ends when QEMU has read the state, or has ended
		_, _ = io.Copy(write, state)
		_ = write.Close()
	}()
	if err := v.do(ctx, "migrate-incoming", map[string]any{"uri": "fd:state"}, nil); err != nil {
		return err
	}
	return v.migrated(ctx)
}

// migrated waits for the end of a migration.
func (v *VM) migrated(ctx context.Context) error {
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case e, ok := <-v.qmp.events:
			if !ok {
				return errClosed
			}
			if e.Name != "MIGRATION" {
				continue
			}
			var m struct {
				Status string `json:"status"`
			}
			if err := json.Unmarshal(e.Data, &m); err != nil {
				return err
			}
			if m.Status == "completed" {
				return nil
			}
			if m.Status != "failed" && m.Status != "cancelled" {
				continue
			}
		case <-tick.C:
		}
		var info struct {
			Status string `json:"status"`
			Desc   string `json:"error-desc"`
		}
		if err := v.do(ctx, "query-migrate", nil, &info); err != nil {
			return err
		}
		switch info.Status {
		case "completed":
			return nil
		case "failed", "cancelled":
			return fmt.Errorf("QEMU: migration %s: %s", info.Status, ui.CleanTo(info.Desc, 400))
		}
	}
}
