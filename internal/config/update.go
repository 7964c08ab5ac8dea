package config

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"reflect"

	"aivm.dev/aivm/internal/ui"
)

type waitKey struct{}

// OnWait returns a context with which Update calls tell once if it has to wait because another
// process holds the lock; holder is that process: "aivm (process 7)".
func OnWait(ctx context.Context, tell func(holder string)) context.Context {
	return context.WithValue(ctx, waitKey{}, tell)
}

// Update changes the store: it reads the file, calls fn on a copy of the Config, and writes the
// bytes that differ. If fn changes nothing or returns an error, nothing is written or created; fn's
// error is returned unchanged.
//
// fn may run twice: first without the lock, to check whether anything changes, then under the lock
// with the content the file has then. Its result must depend only on the Config it is given.
// Records are identified by their names (an attachment by folder and VM): renaming a record removes
// it and adds another.
func Update(ctx context.Context, path string, fn func(*Config) error) error {
	return change(ctx, path, func(s *Store) ([]byte, error) {
		want := s.Config.Clone()
		if err := fn(&want); err != nil {
			return nil, err
		}
		want.settleNames()
		if same(reflect.ValueOf(s.Config), reflect.ValueOf(want)) {
			return nil, nil
		}
		if err := storable(reflect.ValueOf(want), ""); err != nil {
			return nil, err
		}
		return compose(s, func(raw []byte) ([]byte, *Config, error) {
			return rewrite(raw, &s.Config, &want)
		})
	})
}

// maxTries limits how often the file is read again because another program changed it.
const maxTries = 5

// change writes the bytes that edit returns; nil means no change. edit runs once without the lock
// first, so that nothing is created if there is nothing to change.
func change(ctx context.Context, path string, edit func(*Store) ([]byte, error)) error {
	attempt := func() (*Store, []byte, error) {
		s, err := Load(path)
		if err != nil {
			return nil, nil, err
		}
		if s.Newer {
			return nil, nil, newer(s)
		}
		out, err := edit(s)
		if err == nil && s.Exists && bytes.Equal(out, s.Raw) {
			out = nil
		}
		return s, out, err
	}
	if _, out, err := attempt(); err != nil || out == nil {
		return err
	}
	return writeRetrying(ctx, path, func(*storeFile) (*Store, []byte, error) { return attempt() })
}

// writeRetrying locks the store and writes the bytes that next returns; nil means nothing to write.
// If another program changed the file after next read it, next is called again, up to maxTries
// times.
func writeRetrying(ctx context.Context, path string, next func(f *storeFile) (*Store, []byte, error)) error {
	f, err := openStore(ctx, path)
	if err != nil {
		return err
	}
	unlock, err := f.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	for range maxTries {
		s, out, err := next(f)
		if err != nil || out == nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := f.replace(s, out); !errors.Is(err, errChanged) {
			return err
		}
	}
	return ui.Failed("cannot write the config %s: another program keeps changing it; nothing was changed", path).
		Hint(ui.Remark("close the editor that has it open"))
}

func newer(s *Store) error {
	return ui.Refused("the config %s has schema_version %d, but this aivm writes only %d: a newer config is read-only; nothing was changed",
		s.Path, s.Config.SchemaVersion, Schema).Hint(ui.Remark("use the aivm version that wrote it, or another config with --config PATH"))
}

// settleNames sets an empty name in the section of a record to the record's name, as reading the
// file does.
func (c *Config) settleNames() {
	for i := range c.VMs {
		if c.VMs[i].VM.Name == "" {
			c.VMs[i].VM.Name = c.VMs[i].Name
		}
	}
	for i := range c.Networks {
		if c.Networks[i].Network.Name == "" {
			c.Networks[i].Network.Name = c.Networks[i].Name
		}
	}
}

// newFile is the initial content of a new store.
var newFile = fmt.Sprintf("schema_version = %d\n", Schema)

// compose returns the edited bytes of the store after checking that they decode to exactly the
// Config that edit expects.
func compose(s *Store, edit func(raw []byte) ([]byte, *Config, error)) ([]byte, error) {
	raw := s.Raw
	if !s.Exists {
		raw = []byte(newFile)
	}
	out, expect, err := edit(raw)
	if err != nil {
		return nil, ui.Failed("cannot edit the config %s: %w; nothing was changed", s.Path, fileError(s.Path, raw, err)).
			Hint(ui.Cmd(command(s.Path, "config edit")))
	}
	c, b, err := decode(s.Path, out)
	if err != nil {
		return nil, ui.Failed("cannot edit the config %s safely: %w; nothing was changed", s.Path, err).
			Hint(ui.Cmd(command(s.Path, "config edit")))
	}
	if len(b.problems) > 0 {
		p := sortProblems(b.problems)[0]
		return nil, ui.Refused("cannot store %s in the config: it %s; nothing was changed", p.Key, p.Message)
	}
	if !same(reflect.ValueOf(c), reflect.ValueOf(*expect)) {
		return nil, ui.Failed("cannot edit the config %s safely: aivm does not support its layout; nothing was changed", s.Path).
			Hint(ui.Cmd(command(s.Path, "config edit")))
	}
	return out, nil
}

// Init writes every key of [defaults] ("config init --defaults") and creates the store if it does
// not exist. It refuses a store that has a [defaults] section unless force is set; then the values
// are replaced and the rest of the file stays.
func Init(ctx context.Context, path string, d Defaults, force bool) error {
	return change(ctx, path, func(s *Store) ([]byte, error) {
		if err := storable(reflect.ValueOf(d), "defaults"); err != nil {
			return nil, err
		}
		if doc, err := parse(s.Raw); err == nil && doc.root.child("defaults") != nil && !force {
			return nil, ui.Refused("the config %s already has a [defaults] section", path).
				Hint(ui.Cmd(command(path, "config show")), ui.Cmd(command(path, "config init --force")))
		}
		return compose(s, func(raw []byte) ([]byte, *Config, error) {
			return writeDefaults(raw, &s.Config, d)
		})
	})
}

func writeDefaults(raw []byte, have *Config, d Defaults) ([]byte, *Config, error) {
	e, err := newEditor(raw)
	if err != nil {
		return nil, nil, err
	}
	want := have.Clone()
	want.Defaults = d
	// Absent keys are added first, all of them, so that a new section has the order of the schema.
	for _, p := range pairs(reflect.ValueOf(d), reflect.ValueOf(d), nil, true) {
		path := []any{"defaults", p.table[0]}
		if _, rest := e.doc.find(append(path, p.key)); len(rest) == 0 {
			continue
		}
		if err := e.do(e.doc.put(path, p.key, p.value)); err != nil {
			return nil, nil, err
		}
	}
	if err := e.fields(nil, reflect.ValueOf(*have), reflect.ValueOf(want)); err != nil {
		return nil, nil, err
	}
	return e.doc.data, &want, nil
}
