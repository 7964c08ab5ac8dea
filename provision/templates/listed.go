package templates

import (
	"context"
	"time"
)

// Listed is a template as status, list and doctor show it, and with --json as in "aivm status".
type Listed struct {
	Name     string            `json:"name"`
	Key      string            `json:"key"`
	State    string            `json:"state"` // StateReady, StateStale or StateBuilding
	Why      string            `json:"why"`   // of a stale one; a remark about a ready one
	Size     int64             `json:"size"`
	Agents   map[string]string `json:"agents"` // installed agents and their versions
	Accel    string            `json:"accel,omitempty"`
	Image    string            `json:"image,omitempty"`
	MemoryMB int               `json:"memory_mb,omitempty"`
	CPUs     int               `json:"cpus,omitempty"`
	Created  string            `json:"created,omitempty"`
	Versions map[string]string `json:"versions"`
}

// The states of a template.
const (
	StateReady    = "ready"
	StateStale    = "stale"
	StateBuilding = "building"
)

// List lists the templates by name, and those of the config that were not built. It changes nothing.
// Without templates it starts no program.
func (e Part) List(ctx context.Context) ([]Listed, error) {
	store, err := e.Load()
	if err != nil {
		return nil, err
	}
	out := []Listed{}
	all, err := e.Backend.Published(nil)
	if err != nil {
		return nil, err
	}
	unfit := ""
	if len(all) > 0 {
		m, err := e.Backend.Check(ctx)
		if err != nil {
			unfit = err.Error()
		} else if all, err = e.Backend.Published(&m); err != nil {
			return nil, err
		}
	}
	seen := map[string]bool{}
	add := func(l Listed) {
		if e.Backend.Building(l.Name) {
			l.State = StateBuilding
		}
		if l.Versions == nil {
			l.Versions = map[string]string{}
		}
		l.Agents = map[string]string{}
		seen[l.Name] = true
		out = append(out, l)
	}
	for i := range all {
		p := all[i]
		if seen[p.Name] {
			continue // an older one, which the next setup removes
		}
		l := Listed{
			Name: p.Name, Key: p.Key, State: StateReady, Size: p.Size, Accel: p.Accel, Image: p.Setup.Spec.Image,
			MemoryMB: p.Setup.Spec.MemoryMB, CPUs: p.Setup.Spec.CPUs, Created: p.Created.Format(time.RFC3339), Versions: p.Setup.Versions,
		}
		if p.Damaged == "" && e.Now().Sub(p.Setup.Installed) > OldAfter {
			l.Why = "its packages are older than 30 days: aivm setup --upgrade"
		}
		for _, why := range []string{unfit, p.Stale, p.Damaged} {
			if why != "" {
				l.State, l.Why = StateStale, why
			}
		}
		add(l)
	}
	for _, t := range store.Config.Templates {
		if !seen[t.Name] {
			add(Listed{Name: t.Name, State: StateStale, Why: "it was not built", Image: t.Image, MemoryMB: t.MemoryMB, CPUs: t.CPUs})
		}
	}
	return out, nil
}
