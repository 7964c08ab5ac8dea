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

// OnWait returns a context with which Update calls tell, once, if another
// process holds the lock and it has to be waited for: "aivm (process 7)".
func OnWait(ctx context.Context, tell func(holder string)) context.Context {
	return context.WithValue(ctx, waitKey{}, tell)
}

// Update changes the store: it reads the file, lets fn change a copy, and
// writes the bytes that differ. If fn changes nothing, or returns an error,
// nothing is written and nothing is created; fn's error is returned as it is.
//
// fn may run twice: first without the lock, to see whether there is anything
// to do, then under it on what the file says by then. It must depend on
// nothing but the Config it is given. Records are known by their names (an
// attachment by folder and VM): renaming one is removing it and making another.
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

// maxTries bounds how often a file that keeps changing under us is read again.
const maxTries = 5

// change is the one way to write: edit returns the new bytes, nil for no
// change. The first look needs no lock and creates nothing.
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
	return putAgain(ctx, path, func(*storeFile) (*Store, []byte, error) { return attempt() })
}

// putAgain writes what next makes of the store, under its lock, and again where
// another program wrote it meanwhile. No bytes: nothing is to be written.
func putAgain(ctx context.Context, path string, next func(f *storeFile) (*Store, []byte, error)) error {
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
	return ui.Failed("cannot write the config store %s: another program keeps changing it; nothing was changed", path).
		Hint(ui.Remark("close the editor that has it open"))
}

func newer(s *Store) error {
	return ui.Refused("the config store %s has schema_version %d, this aivm writes %d: it is read-only here; nothing was changed",
		s.Path, s.Config.SchemaVersion, Schema).Hint(ui.Remark("use the aivm that wrote it, or another store with --config PATH"))
}

// settleNames does what reading a record with one name does.
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

// newFile is what a store starts with.
var newFile = fmt.Sprintf("schema_version = %d\n", Schema)

// compose makes the new bytes and reads them back: what does not say exactly
// what was meant is never written.
func compose(s *Store, edit func(raw []byte) ([]byte, *Config, error)) ([]byte, error) {
	raw := s.Raw
	if !s.Exists {
		raw = []byte(newFile)
	}
	out, expect, err := edit(raw)
	if err != nil {
		return nil, ui.Failed("cannot edit the config store %s: %w; nothing was changed", s.Path, fileError(s.Path, raw, err)).
			Hint(ui.Cmd(command(s.Path, "config edit")))
	}
	c, b, err := decode(s.Path, out)
	if err != nil {
		return nil, ui.Failed("cannot edit the config store %s safely: %w; nothing was changed", s.Path, err).
			Hint(ui.Cmd(command(s.Path, "config edit")))
	}
	if len(b.problems) > 0 {
		p := sortProblems(b.problems)[0]
		return nil, ui.Refused("cannot store %s: it %s; nothing was changed", p.Key, p.Message)
	}
	if !same(reflect.ValueOf(c), reflect.ValueOf(*expect)) {
		return nil, ui.Failed("cannot edit the config store %s safely: its layout is one aivm cannot follow; nothing was changed", s.Path).
			Hint(ui.Cmd(command(s.Path, "config edit")))
	}
	return out, nil
}

// Init writes every key of [defaults] ("config init --defaults"), making the
// store if there is none. A store that has a [defaults] section is refused
// unless force is set; then its values are replaced, and what else is in it
// stays.
func Init(ctx context.Context, path string, d Defaults, force bool) error {
	return change(ctx, path, func(s *Store) ([]byte, error) {
		if err := storable(reflect.ValueOf(d), "defaults"); err != nil {
			return nil, err
		}
		if doc, err := parse(s.Raw); err == nil && doc.root.child("defaults") != nil && !force {
			return nil, ui.Refused("the config store %s has defaults already", path).
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
	// Keys that are not there first, so that a new section has the usual order.
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
