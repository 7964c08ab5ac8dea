package sshcfg

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/rogpeppe/go-internal/diff"

	"aivm.dev/aivm/internal/plan"
	"aivm.dev/aivm/internal/ui"
)

// Why a plan is refused; test with errors.Is.
var (
	// ErrReadOnly: the user's configuration cannot be changed or read by us.
	ErrReadOnly = errors.New("the ssh configuration cannot be edited")
	// ErrAliasTaken: the user's own configuration has a Host of that name.
	ErrAliasTaken = errors.New("the ssh alias is taken")
)

// Facts is what Observe saw.
type Facts struct {
	Layout  Layout
	Config  plan.Known[File]        // the user's configuration
	same    map[string]bool         // what else it calls ConfigDir
	Guarded error                   // why nothing of it may be used
	Own     plan.Known[File]        // our file of the alias
	DirMode plan.Known[fs.FileMode] // of ConfigDir; 0 if it is missing
	// Clashes are looked for only while we have no file for the alias: once we
	// have, the question was answered.
	Clashes []Clash
}

// Observe reads the user's configuration and our file. It only reads files
// and starts nothing, so it fits the warm path.
func Observe(l Layout, want Stanza) Facts {
	f := Facts{Layout: l, Config: known(readFile(l.sshConfig()))}
	if err := ValidAlias(want.Alias); err != nil {
		f.Own = plan.Unknown[File](err)
		return f
	}
	if f.Guarded = l.Guarded(); f.Guarded == nil {
		f.same = l.spellings(f.Config.Value.Data)
	}
	f.Own = known(readFile(l.ConfPath(want.Alias)))
	st, err := os.Stat(l.ConfigDir)
	switch {
	case err == nil:
		f.DirMode = plan.Yes(st.Mode().Perm())
	case !errors.Is(err, fs.ErrNotExist):
		f.DirMode = plan.Unknown[fs.FileMode](err)
	}
	if f.Own.Err == nil && !f.Own.Value.Exists {
		f.Clashes = Others(l, want.Alias)
	}
	return f
}

func known[T any](v T, err error) plan.Known[T] { return plan.Known[T]{Value: v, Err: err} }

// Plan says what makes "ssh ALIAS" mean want; nothing when it does already.
// An error that wraps ErrReadOnly comes with the actions that can be done all
// the same (our own file), so that the rest may work where only the Include
// line has to be added by hand.
func Plan(f Facts, want Stanza) ([]plan.Action, error) {
	text, err := Render(want)
	if err != nil {
		return nil, err
	}
	l, path := f.Layout, f.Layout.ConfPath(want.Alias)
	if f.Own.Err != nil {
		return nil, ui.Failed("reading %s: %w", path, f.Own.Err)
	}
	if f.DirMode.Err != nil {
		return nil, ui.Failed("reading %s: %w", l.ConfigDir, f.DirMode.Err)
	}
	legacy := ""
	for _, c := range f.Clashes {
		if c.Store != "" {
			return nil, storeClash(c, want.Alias)
		}
		if !c.Legacy {
			return nil, ui.Refused("%w: %s already has a \"Host %s\"", ErrAliasTaken, c, want.Alias).
				Hint(ui.Remark("rename that Host, or give the VM another name with --vm NAME"))
		}
		legacy = fmt.Sprintf("; the block aivm 0.3 left at %s stays and no longer counts", c)
	}
	var as []plan.Action
	own := f.Own.Value
	if !own.Exists || own.Mode != 0o600 || own.Target != own.Path && !sameDirLink(own) ||
		f.DirMode.Value != 0o700 || !bytes.Equal(own.Data, text) {
		as = append(as, plan.Action{
			ID:      "ssh.config:" + want.Alias,
			Why:     fmt.Sprintf("let \"ssh %s\" reach the VM, with its host key pinned%s", want.Alias, legacy),
			Shows:   []string{"write " + path},
			Consent: plan.None,
			Timing:  "ssh",
			Do:      func(context.Context) error { return writeEntry(path, text, want) },
		})
	}
	inc, err := planInclude(f)
	if err != nil && !errors.Is(err, ErrReadOnly) {
		return nil, err
	}
	return append(as, inc...), err
}

// sameDirLink reports whether only directories on the way are links, such as a
// ~/.config that lies elsewhere; the file itself must not be one.
func sameDirLink(f File) bool { return filepath.Base(f.Path) == filepath.Base(f.Target) }

func planInclude(f Facts) ([]plan.Action, error) {
	l := f.Layout
	if f.Guarded != nil {
		return nil, f.Guarded
	}
	if f.Config.Err != nil {
		return nil, l.readOnly(f.Config.Err)
	}
	c, in := f.Config.Value, store{l, f.same}
	out, err := ensureInclude(c.Data, in)
	if err != nil {
		return nil, l.explain(err)
	}
	if c.Exists && bytes.Equal(out, c.Data) {
		return nil, nil
	}
	if c.Blocked != nil {
		return nil, l.readOnly(c.Blocked)
	}
	why := "read aivm's files first in " + c.Path
	if own, _ := in.ownBlocks(splitLines(c.Data)); len(own) > 0 {
		why = "put aivm's Include back in order: ssh takes the first value it reads, so it has to come before everything else in " + c.Path
	}
	return []plan.Action{{
		ID:      "ssh.include",
		Why:     why,
		Shows:   writeShows(c),
		Diff:    unified(c, out),
		Consent: plan.Ask,
		Timing:  "ssh",
		Do: func(ctx context.Context) error {
			return l.edit(ctx, func(data []byte) ([]byte, error) { return ensureInclude(data, l.in(data)) })
		},
	}}, nil
}

func writeShows(c File) []string {
	if c.Target != c.Path {
		return []string{"write " + c.Target + " (where " + c.Path + " leads)"}
	}
	return []string{"write " + c.Path}
}

func unified(c File, out []byte) string {
	old := c.Path
	if !c.Exists {
		old = "/dev/null"
	}
	d := diff.Diff(old, c.Data, c.Path, out)
	// The library puts a "diff OLD NEW" line before the two file names.
	_, d, _ = bytes.Cut(d, []byte("\n"))
	return string(d)
}

// readOnly is the error for a configuration we cannot change: what to add by
// hand, and how to get the stanza itself.
func (l Layout) readOnly(cause error) error {
	line, err := l.IncludeLine()
	if err != nil {
		return err
	}
	return ui.Refused("%w", fmt.Errorf("%w: %w", ErrReadOnly, cause)).Hint(
		ui.Remark("add this as the first line of "+l.sshConfig()+": "+line),
		ui.CmdFor("or print the entry and put it where you like", "aivm vm ssh-config NAME"),
		ui.Remark("or let another file hold the line: set "+ConfigEnv+"=FILE and use ssh -F FILE"),
	)
}

func (l Layout) explain(err error) error {
	var m *markerError
	if errors.As(err, &m) {
		return damaged(l.sshConfig(), m)
	}
	return err
}

// Remains is what a VM that is to go has here, as ObserveRemains saw it.
type Remains struct {
	Layout    Layout
	VM, Alias string
	Err       error    // why the rest is not known
	Files     []string // those that are there
	Others    bool     // other VMs have files too
	// Config is the user's configuration; it is read only without Others. Its
	// error is why it cannot be edited.
	Config plan.Known[File]
	same   map[string]bool // what else it calls ConfigDir
}

// ObserveRemains looks for the files of a VM and its alias and, if no other VM
// has any, reads the user's configuration.
func ObserveRemains(l Layout, vm, alias string) Remains {
	r := Remains{Layout: l, VM: vm, Alias: alias}
	if r.Err = ValidAlias(alias); r.Err == nil {
		r.Err = checkVM(vm)
	}
	if r.Err != nil {
		return r
	}
	for _, p := range []string{l.hostKeyPath(vm), l.KnownHostsPath(vm), l.ConfPath(alias)} {
		_, err := os.Lstat(p)
		if err == nil {
			r.Files = append(r.Files, p)
		} else if !errors.Is(err, fs.ErrNotExist) {
			r.Err = ui.Failed("reading %s: %w", p, err)
			return r
		}
	}
	if r.Others, r.Err = l.otherConfs(alias); r.Err != nil || r.Others {
		return r
	}
	if err := l.Guarded(); err != nil {
		r.Config.Err = err
	} else {
		r.Config = known(readFile(l.sshConfig()))
		r.same = l.spellings(r.Config.Value.Data)
	}
	return r
}

// PlanRemove removes the host key and known_hosts of the VM, then our file of
// the alias, and with the last VM the Include line. A configuration that cannot
// be edited never keeps a VM from being deleted: an Include that matches nothing
// is harmless, so then it stays, and the plan says so.
func PlanRemove(r Remains) ([]plan.Action, error) {
	if r.Err != nil {
		return nil, r.Err
	}
	l := r.Layout
	var as []plan.Action
	if len(r.Files) > 0 {
		shows := make([]string, len(r.Files))
		for i, p := range r.Files {
			shows[i] = "rm " + p
		}
		as = append(as, plan.Action{
			ID:      "ssh.remove:" + r.Alias,
			Why:     fmt.Sprintf("forget the ssh alias %s and the VM's host key", r.Alias),
			Shows:   shows,
			Consent: plan.None, // part of "vm delete", which is typed
			Do:      func(context.Context) error { return removeOwn(r.Files, l.VMDir(r.VM)) },
		})
	}
	if r.Others {
		return as, nil
	}
	c, err := r.Config.Value, r.Config.Err
	var out []byte
	if err == nil {
		out, err = removeInclude(c.Data, store{l, r.same})
	}
	switch {
	case err == nil && bytes.Equal(out, c.Data):
		return as, nil
	case err == nil:
		err = c.Blocked
	}
	if err != nil {
		if len(as) > 0 {
			as[0].Why += fmt.Sprintf("; the Include line in %s stays: %v", l.sshConfig(), err)
		}
		return as, nil
	}
	return append(as, plan.Action{
		ID:      "ssh.include.remove",
		Why:     "it is this config's last VM: take the Include line of " + l.ConfigDir + " out of " + c.Path,
		Shows:   writeShows(c),
		Diff:    unified(c, out),
		Consent: plan.Ask,
		Do: func(ctx context.Context) error {
			return l.edit(ctx, func(data []byte) ([]byte, error) {
				// Another aivm may have made a VM since.
				if others, err := l.otherConfs(r.Alias); err != nil || others {
					return data, err
				}
				return removeInclude(data, l.in(data))
			})
		},
	}), nil
}

// otherConfs reports whether files of other VMs exist.
func (l Layout) otherConfs(alias string) (bool, error) {
	es, err := os.ReadDir(l.ConfigDir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, ui.Failed("reading %s: %w", l.ConfigDir, err)
	}
	for _, e := range es {
		if strings.HasSuffix(e.Name(), ".conf") && e.Name() != alias+".conf" {
			return true, nil
		}
	}
	return false, nil
}

// removeOwn removes files of ours, and dir if nothing else is in it: the sync
// manifest of another package may be.
func removeOwn(paths []string, dir string) error {
	for _, p := range paths {
		if err := os.Remove(p); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return ui.Failed("removing %s: %w", p, err)
		}
	}
	os.Remove(dir) //nolint:errcheck // stays when it is not empty
	return nil
}
