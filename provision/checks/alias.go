package checks

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"

	"aivm.dev/aivm/internal/config"
	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/provision/host"
	"aivm.dev/aivm/provision/state"
	"aivm.dev/aivm/provision/target"
	"aivm.dev/aivm/sshcfg"
)

// fixAlias is the command that writes entries and the Include line again.
const fixAlias = "aivm host doctor --fix"

// readEntry reads the files of a VM's entry, and plans what is missing. It starts no program.
func (e Part) readEntry(p *SSHEntry) {
	st := e.Stanza(p.want.Name, *p.inst)
	f := sshcfg.Observe(e.SSH, st)
	p.Plan, p.err = sshcfg.Plan(f, st)
	p.path, p.absent = f.Own.Value.Path, f.Own.Err == nil && !f.Own.Value.Exists
	if len(p.Plan) > 0 {
		p.edited, p.broken = f.Differences(st)
	}
}

// examineEntry is readEntry, and compares what ssh makes of the alias with what aivm wrote.
func (e Part) examineEntry(ctx context.Context, p *SSHEntry) {
	if e.readEntry(p); p.err != nil && !errors.Is(p.err, sshcfg.ErrReadOnly) {
		return
	}
	ms, err := sshcfg.Verify(ctx, e.SSH, p.want.Name, e.Stanza(p.want.Name, *p.inst), nil)
	p.mismatches = ms
	if p.err == nil {
		p.err = err
	}
}

// tryLogins logs in with ssh over the alias of each VM whose SSH server answers and whose alias
// leads to it. unasked: libvirt did not say which VMs run.
func (e Part) tryLogins(ctx context.Context, vms []SSHEntry, servers []host.SSHServer, unasked bool) {
	if e.LoginSSH == nil {
		return
	}
	accepts := func(p *SSHEntry) bool {
		if unasked {
			_, err := e.banner(ctx, net.JoinHostPort(p.inst.Address, "22"))
			return err == nil || errors.Is(err, errSlowBanner)
		}
		return slices.ContainsFunc(servers, func(s host.SSHServer) bool {
			return s.Where == "VM "+p.want.Name && (s.Err == nil || errors.Is(s.Err, errSlowBanner))
		})
	}
	var wg sync.WaitGroup
	for i := range vms {
		p := &vms[i]
		if p.err != nil || p.inst == nil || slices.ContainsFunc(p.mismatches, sshcfg.Mismatch.Elsewhere) {
			continue
		}
		wg.Go(func() {
			if accepts(p) && e.silentKey(ctx, p.inst) {
				p.loginErr = e.LoginSSH(ctx, e.SSH, p.want.Name)
				p.loggedIn = p.loginErr == nil
			}
		})
	}
	wg.Wait()
}

// silentKey reports whether one of the VM's keys works without a touch of a hardware key.
func (e Part) silentKey(ctx context.Context, inst *state.Instance) bool {
	ids, err := e.SSH.IdentitiesAt(ctx, inst.Identities, e.Getenv)
	return err == nil && slices.ContainsFunc(ids, func(id sshcfg.Identity) bool { return !id.Hardware && id.Usable() })
}

// fault returns why the alias does not reach its VM, with the fixes; "" if it does, as far as
// it was examined.
func (p SSHEntry) fault() (detail string, fix []string) {
	var changed []string
	for _, m := range p.edited {
		changed = append(changed, ui.CleanTo(fmt.Sprintf("%s is %s, not %s", m.Option, cmp.Or(m.Got, "missing"), m.Want), 120))
	}
	rewrite := []string{fixAlias}
	switch {
	case p.inst == nil && p.err == nil:
		return "", nil
	case p.err != nil && !errors.Is(p.err, sshcfg.ErrReadOnly):
		c := verdict(host.Check{}, host.Bad, p.err)
		return c.Detail, c.Fix
	case p.absent:
		return "its entry is missing: " + p.path, rewrite
	case p.broken != nil:
		return "its entry was changed: " + ui.Clean(p.broken.Error()), rewrite
	case len(changed) > 0:
		return fmt.Sprintf("its entry was changed (%s): %s", p.edited[0].File, ui.Some(changed, 3)), rewrite
	}
	var all []string
	for _, m := range p.mismatches {
		if m.Option == "include" {
			if p.err != nil {
				return m.String(), verdict(host.Check{}, host.Bad, p.err).Fix
			}
			return m.String(), rewrite
		}
		if m.Added() {
			continue
		}
		all = append(all, m.String())
		if m.Hint != "" {
			fix = append(fix, m.Hint)
		}
	}
	if p.loginErr != nil {
		c := verdict(host.Check{}, host.Bad, p.loginErr)
		return strings.Join(append([]string{c.Detail}, all...), "; "), append(fix, c.Fix...)
	}
	if len(all) > 0 && len(p.Plan) > 0 {
		fix = rewrite // the entry is of an earlier aivm, which set fewer options
	}
	return strings.Join(all, "; "), fix
}

// additions returns what the user's configuration adds to the alias, with the fixes.
func (p SSHEntry) additions() (out, fix []string) {
	for _, m := range p.mismatches {
		if m.Added() {
			out = append(out, m.String())
			if m.Hint != "" {
				fix = append(fix, m.Hint)
			}
		}
	}
	return out, fix
}

// AliasCheck checks that ssh reads the VM's entry and uses its options.
func (e Part) AliasCheck(ctx context.Context, w *target.Target, inst *state.Instance) host.Check {
	c := host.NewCheck("alias", "SSH alias", host.OK, "ssh %s", w.Name)
	switch {
	case inst == nil:
		c.State, c.Detail = host.Skipped, "none yet"
		return c
	case e.HostFacts().Tools["ssh"] == "":
		c.State, c.Detail = host.Skipped, "ssh is not installed"
		return c
	}
	limited, cancel := context.WithTimeout(ctx, sshLimit)
	defer cancel()
	p := SSHEntry{want: w, inst: inst}
	e.examineEntry(limited, &p)
	if limited.Err() != nil && ctx.Err() == nil {
		c.State, c.Detail = host.Unknown, fmt.Sprintf("ssh did not finish reading its configuration within %s", sshLimit)
		return c
	}
	if detail, fix := p.fault(); detail != "" {
		c.State, c.Detail, c.Fix = host.Bad, fmt.Sprintf("ssh %s does not reach the VM: %s", w.Name, detail), fix
		return c
	}
	if added, _ := p.additions(); len(added) > 0 {
		c.Detail += "; " + ui.Some(added, 3)
	}
	return c
}

// AliasFault returns why ssh cannot use the alias of a VM, by the files alone; "" if it can, or
// the VM has none yet.
func (e Part) AliasFault(vm config.VM, inst *state.Instance) string {
	if inst == nil {
		return ""
	}
	p := SSHEntry{want: &target.Target{Name: vm.Name}, inst: inst}
	e.readEntry(&p)
	detail, _ := p.fault()
	if detail == "" && !e.SSH.Includes(vm.Name) {
		detail = "ssh does not read its entry " + e.SSH.ConfPath(vm.Name)
	}
	return ui.Clean(detail)
}
