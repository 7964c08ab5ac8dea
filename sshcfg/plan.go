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

// Reasons why a plan is refused; test with errors.Is.
var (
	// ErrReadOnly means that aivm cannot read or change the user's configuration.
	ErrReadOnly = errors.New("the ssh configuration cannot be edited")
	// ErrAliasTaken means that the alias has a Host line in the user's configuration, or
	// belongs to a VM of another store.
	ErrAliasTaken = errors.New("the ssh alias is taken")
)

// Facts holds what Observe found.
type Facts struct {
	Layout     Layout
	Config     plan.Known[File]        // the user's configuration
	otherPaths map[string]bool         // other paths it uses for ConfigDir
	Guarded    error                   // why it must not be used; nil if it may
	Own        plan.Known[File]        // the alias's stanza file
	DirMode    plan.Known[fs.FileMode] // of ConfigDir; 0 if it is missing
	// Clashes is only filled in if the stanza file does not exist yet; if it does, the alias
	// was checked when the file was written.
	Clashes []Clash
}

// Observe reads the user's configuration and the alias's stanza file. It only reads files
// and starts no program, so that it is cheap enough for every run.
func Observe(l Layout, want Stanza) Facts {
	f := Facts{Layout: l, Config: known(readFile(l.sshConfig()))}
	if err := ValidAlias(want.Alias); err != nil {
		f.Own = plan.Unknown[File](err)
		return f
	}
	if f.Guarded = l.Guarded(); f.Guarded == nil {
		f.otherPaths = l.spellings(f.Config.Value.Data)
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

// Plan returns the actions that make "ssh ALIAS" use want; none if it does already. With an
// error that wraps ErrReadOnly it still returns the action for aivm's own file, so that the
// alias works once the user has added the Include line manually.
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
		legacy = fmt.Sprintf("; the block aivm 0.3 wrote at %s stays but no longer has an effect", c)
	}
	var as []plan.Action
	own := f.Own.Value
	if !own.Exists || own.Mode != 0o600 || own.Target != own.Path && !sameDirLink(own) ||
		f.DirMode.Value != 0o700 || !bytes.Equal(own.Data, text) {
		as = append(as, plan.Action{
			ID:      "ssh.config:" + want.Alias,
			Why:     fmt.Sprintf("write the ssh alias %s for the VM, with its host key pinned%s", want.Alias, legacy),
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

// sameDirLink reports whether only directories of the path are links, such as a ~/.config
// elsewhere, and not the file itself.
func sameDirLink(f File) bool { return filepath.Base(f.Path) == filepath.Base(f.Target) }

// planInclude plans to add or repair aivm's Include in the user's configuration.
func planInclude(f Facts) ([]plan.Action, error) {
	l := f.Layout
	if f.Guarded != nil {
		return nil, f.Guarded
	}
	if f.Config.Err != nil {
		return nil, l.readOnly(f.Config.Err)
	}
	c, in := f.Config.Value, store{l, f.otherPaths}
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
	why := "add an Include line at the top of " + c.Path
	if own, _ := in.ownBlocks(splitLines(c.Data)); len(own) > 0 {
		why = "move aivm's Include line to the top of " + c.Path + ": ssh uses the first value it reads for an option"
	}
	return []plan.Action{{
		ID:      "ssh.include",
		Why:     why,
		Shows:   writeShows(c),
		Diff:    unified(c, out),
		Consent: plan.Ask,
		Timing:  "ssh",
		Do: func(ctx context.Context) error {
			return l.edit(ctx, func(data []byte) ([]byte, error) { return ensureInclude(data, l.storeIn(data)) })
		},
	}}, nil
}

// writeShows returns what a plan shows for writing c.
func writeShows(c File) []string {
	if c.Target != c.Path {
		return []string{"write " + c.Target + " (" + c.Path + " is a link to it)"}
	}
	return []string{"write " + c.Path}
}

// unified returns the unified diff from the content of c to out.
func unified(c File, out []byte) string {
	old := c.Path
	if !c.Exists {
		old = "/dev/null"
	}
	d := diff.Diff(old, c.Data, c.Path, out)
	// Drop the library's first line, "diff OLD NEW".
	_, d, _ = bytes.Cut(d, []byte("\n"))
	return string(d)
}

// readOnly returns the error for a configuration that aivm cannot change. Its hints are the
// line to add manually, and the command that prints the stanza.
func (l Layout) readOnly(cause error) error {
	line, err := l.IncludeLine()
	if err != nil {
		return err
	}
	return ui.Refused("%w", fmt.Errorf("%w: %w", ErrReadOnly, cause)).Hint(
		ui.Remark("add this as the first line of "+l.sshConfig()+": "+line),
		ui.CmdFor("or print the Host block of a VM and add it yourself", "aivm vm ssh-config NAME"),
		ui.Remark("or set "+ConfigEnv+"=FILE to have the line written to FILE, and use ssh -F FILE"),
	)
}

// explain turns a *markerError into an error with hints, and returns others unchanged.
func (l Layout) explain(err error) error {
	var m *markerError
	if errors.As(err, &m) {
		return damaged(l.sshConfig(), m)
	}
	return err
}

// Remains holds what ObserveRemains found of a VM that is to be deleted.
type Remains struct {
	Layout    Layout
	VM, Alias string
	Err       error    // why the other fields are not known
	Files     []string // existing files of the VM
	Others    bool     // other VMs have files too
	// Config is the user's configuration, read only if Others is false. Its error is the
	// reason why it cannot be edited.
	Config     plan.Known[File]
	made       *made           // aivm made it
	otherPaths map[string]bool // other paths it uses for ConfigDir
}

// ObserveRemains finds the files of a VM and its alias. If no other VM has files, it also
// reads the user's configuration.
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
		r.otherPaths = l.spellings(r.Config.Value.Data)
		r.made = l.readMade(r.Config.Value)
	}
	return r
}

// PlanRemove plans to remove the host key, known_hosts and stanza file of a VM and, with the
// last VM, the Include line, or the configuration if aivm made it and it has nothing else. If the configuration cannot be edited, the VM can still be
// deleted: the Include line stays, which is harmless since it matches no file, and the plan
// says so.
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
			Why:     fmt.Sprintf("remove the ssh alias %s and the VM's host key", r.Alias),
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
		out, err = removeInclude(c.Data, store{l, r.otherPaths})
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
	why, shows := "remove the Include line of "+l.ConfigDir+" from "+c.Path+": this config has no other VM", writeShows(c)
	if r.made != nil && len(out) == 0 {
		why, shows = "remove "+c.Path+", which aivm created and which contains nothing else", []string{"rm " + c.Target}
	}
	return append(as, plan.Action{
		ID:      "ssh.include.remove",
		Why:     why,
		Shows:   shows,
		Diff:    unified(c, out),
		Consent: plan.Ask,
		Do: func(ctx context.Context) error {
			return l.edit(ctx, func(data []byte) ([]byte, error) {
				// Another aivm process may have created a VM since the plan.
				if others, err := l.otherConfs(r.Alias); err != nil || others {
					return data, err
				}
				return removeInclude(data, l.storeIn(data))
			})
		},
	}), nil
}

// otherConfs reports whether stanza files of other VMs exist.
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

// removeOwn removes files of aivm, and dir if it is empty then. Another package may have a
// sync manifest in it.
func removeOwn(paths []string, dir string) error {
	for _, p := range paths {
		if err := os.Remove(p); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return ui.Failed("removing %s: %w", p, err)
		}
	}
	os.Remove(dir) //nolint:errcheck // fails if it is not empty
	return nil
}
