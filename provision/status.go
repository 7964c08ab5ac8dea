package provision

import (
	"context"
	"fmt"

	"aivm.dev/aivm/internal/plan"
	"aivm.dev/aivm/provision/checks"
	"aivm.dev/aivm/provision/folders"
	"aivm.dev/aivm/provision/host"
	"aivm.dev/aivm/provision/images"
	"aivm.dev/aivm/provision/loop"
	"aivm.dev/aivm/provision/state"
	"aivm.dev/aivm/provision/target"
	"aivm.dev/aivm/provision/walls"
)

// Status is the JSON output of `status`.
type Status struct {
	Schema int    `json:"schema"`
	Config string `json:"config"`
	VM     string `json:"vm"`
	checks.Tally
	Wall Wall `json:"wall"`
	OneShots
	// Details and Next are set with --detail.
	Details []checks.Detail `json:"details,omitempty"`
	Next    []string        `json:"next,omitempty"`
	// Unmapped lists the users and groups of files in folders that the VM cannot change.
	Unmapped []folders.UnmappedOwner `json:"unmapped,omitempty"`
	// Repositories lists what git needs in the folders and the VM does not have.
	Repositories []folders.RepositoryOutside `json:"repositories,omitempty"`
	// Executed lists the changes of host-executed files.
	Executed []folders.HostExecutedChange `json:"executed,omitempty"`
	// Special lists device nodes, setuid and setgid files that appeared in folders that the VM can
	// write.
	Special []folders.SpecialFile `json:"special,omitempty"`
}

// Wall describes what the guest can reach and write.
type Wall struct {
	Sentence string   `json:"sentence"`
	Writable []string `json:"writable"`
}

// Status checks one VM, or only the host if there is no VM. It changes nothing and asks for no
// password; with sudo it may connect to libvirt through the privileged helper.
func (e *Env) Status(ctx context.Context, vmFlag string, sudo bool) (Status, error) {
	return e.status(ctx, vmFlag, sudo, false)
}

// StatusInDetail is Status with the facts, line by line, and the commands to try next.
func (e *Env) StatusInDetail(ctx context.Context, vmFlag string, sudo bool) (Status, error) {
	return e.status(ctx, vmFlag, sudo, true)
}

// RunReadiness checks only what "aivm run" needs: QEMU, the folder server, memory, the directory of the
// templates, and the template. ready: a run would resume.
func (e *Env) RunReadiness(ctx context.Context) (st Status, ready bool, err error) {
	store, err := e.Load()
	if err != nil {
		return Status{}, false, err
	}
	st = Status{Schema: 1, Config: store.Path, Tally: checks.Tally{Checks: []host.Check{}}, Wall: Wall{Writable: []string{}}, OneShots: e.OneShots(ctx)}
	st.Add(checks.For(e.Loop).OneShotChecks(ctx)...)
	template := st.OneShots.Check(store.Config.Run.Template)
	st.Add(template)
	return st, template.State == host.OK && st.Done == st.Total, nil
}

func (e *Env) status(ctx context.Context, vmFlag string, sudo, detail bool) (Status, error) {
	store, err := e.Load()
	if err != nil {
		return Status{}, err
	}
	st := Status{Schema: 1, Config: store.Path, Tally: checks.Tally{Checks: []host.Check{}}, Wall: Wall{Writable: []string{}}}
	st.OneShots = e.OneShots(ctx)
	oneShot := st.OneShots.Check(store.Config.Run.Template)
	res, err := store.Resolve(target.Cwd(), vmFlag)
	if err != nil {
		if vmFlag != "" {
			return st, checks.For(e.Loop).ExplainUnknown(ctx, store, err)
		}
		st.Add(append(checks.For(e.Loop).HostChecks(), oneShot)...)
		return st, nil
	}
	st.VM = res.VM
	w, err := target.Recorded(store, res.VM)
	if err != nil {
		return st, err
	}
	e.UseLibvirt(w.Libvirt)
	if w = w.WithGuest(); !sudo {
		w = w.WithoutSudo()
	}
	if sudo {
		if _, err := e.LibvirtWithHelp(ctx); err != nil {
			e.WarnOnce(err.Error())
		}
	}
	st.Add(checks.For(e.Loop).HostChecks()...)
	f, inst, err := e.Inspect(ctx, w)
	if err != nil {
		return st, err
	}
	defer f.Close()
	n := checks.NetworkOf(ctx, w, f)
	part, check := folders.For(e.Loop), checks.For(e.Loop)
	folderStatus := part.ObserveStatus(store.Config, w, f)
	st.Add(checks.NetworkCheck(w, n), walls.For(e.Loop).Check(ctx, w, f), images.For(e.Loop).Check(w), check.VMCheck(w, f), folderStatus.Check(w, f), check.AddressCheck(w, f, inst, n), checks.SSHCheck(w, f), check.AliasCheck(ctx, w, inst.Value))
	st.Add(folderStatus.Strays(w)...)
	hostExecuted, changes := part.HostExecutedCheck(ctx, w, f, folderStatus)
	st.Add(hostExecuted)
	st.Executed = changes
	special, files := part.SpecialCheck(ctx, w, f, folderStatus)
	st.Add(special)
	st.Special = files
	if c, owners, ok := part.OwnersCheck(ctx, w, f, folderStatus); ok {
		st.Add(c)
		st.Unmapped = owners
	}
	if c, repos, ok := part.RepositoryCheck(w, folderStatus); ok {
		st.Add(c)
		st.Repositories = repos
	}
	paths, sentence := folderStatus.Writable()
	st.Wall = Wall{Writable: paths, Sentence: fmt.Sprintf("VM %s %s. %s", w.Name, walls.AccessSentence(w.Network, f.WallRules()), sentence)}
	st.Add(oneShot)
	if detail {
		st.Details, st.Next = check.Details(ctx, w, f, n), st.Tally.Next(w, f)
	}
	return st, nil
}

// Inspect is Observe for status: errors that would prevent every plan (another machine answers at
// the VM's address, the state file is damaged) become facts. inst is the content of the state file,
// or why it cannot be read.
func (e *Env) Inspect(ctx context.Context, w *target.Target) (f *loop.Facts, inst plan.Known[*state.Instance], err error) {
	f, err = e.Observe(ctx, w, loop.NewProgress(w))
	if err == nil {
		return f, plan.Yes(f.Inst), nil
	}
	if ctx.Err() != nil {
		return nil, inst, err
	}
	f = &loop.Facts{ConnErr: err}
	if inst.Value, inst.Err = e.State().Instance(w.Name); inst.Err != nil {
		f.ConnErr = loop.ErrNotTried
	}
	f.Inst = inst.Value
	e.ObserveLibvirt(ctx, w, f)
	return f, inst, nil
}
