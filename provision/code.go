package provision

import (
	"context"
	"fmt"
	"strings"

	"aivm.dev/aivm/internal/editor"
	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/sshcfg"
)

// CodeOptions are the flags of `code`.
type CodeOptions struct {
	FolderOptions
	SyncOptions
	Editor        string // "" = the VM's own setting, the config's, then auto
	Snapshot      bool   // keep the VM's disk first
	NoBrowser     bool
	ServerArchive string
}

// CodeResult is what `code --json` prints.
type CodeResult struct {
	Schema   int                `json:"schema"`
	VM       string             `json:"vm"`
	Alias    string             `json:"alias"`
	Address  string             `json:"address"`
	Folder   string             `json:"folder"`
	GuestDst string             `json:"guest_dst"`
	Mode     string             `json:"mode"`
	Access   string             `json:"access"`
	Opened   bool               `json:"opened"`
	Editor   string             `json:"editor,omitempty"`
	URL      string             `json:"url,omitempty"` // of code-server
	Recipe   editor.Recipe      `json:"recipe"`
	Seconds  map[string]float64 `json:"seconds"`
}

// Code takes a folder from nothing to an editor opened on it in a VM.
func (e *Env) Code(ctx context.Context, o CodeOptions) error {
	e.timing = ui.NewTiming("image", "define", "boot", "share", "ssh", "editor")
	if _, _, err := e.lookupEditor(o.Editor); err != nil {
		return err // asked for by name and missing: before any work
	}
	w, err := e.wantFolder(ctx, o.FolderOptions, true)
	if err != nil {
		return err
	}
	found, why, err := e.chooseEditor(o.Editor, w)
	if err != nil {
		return err
	}
	if err := e.checkEditor(w, found, o); err != nil {
		return err
	}
	e.wantSettings(w, o.SyncOptions, found)
	if o.Snapshot {
		if err := e.snapshotFirst(ctx, w); err != nil {
			return err
		}
	}
	w.boot, w.guest = true, true
	f, err := e.converge(ctx, w)
	if err != nil {
		return err
	}
	defer f.close()
	e.sayExecuted(w)
	e.inClone(ctx, w, f)
	recipe, err := editor.NewRecipe(w.name, w.openAt, f.inst.User)
	if err != nil {
		return err
	}
	if err := e.checkAlias(ctx, w, f); err != nil {
		return err
	}
	e.saySettings(w)
	res := CodeResult{
		Schema: 1, VM: w.name, Alias: w.name, Address: f.inst.Address, Folder: w.folder.HostPath, GuestDst: w.openAt,
		Mode: string(w.folder.Mode), Access: w.folder.Access, Recipe: recipe,
	}
	kind := editor.Print
	if found != nil {
		kind = found.Editor.Kind
		res.Editor = found.Editor.ID
	}
	switch {
	case kind == editor.Browser:
		return e.serveBrowser(ctx, w, f, o, res)
	case kind == editor.Terminal:
		e.UI.Say("%s", e.timing.Line())
		return e.remoteShell(ctx, w, f)
	case !kind.Here():
		if err := e.openEditor(ctx, w, f, *found, o); err != nil {
			e.UI.Say("%s", strings.TrimRight(recipe.Text(), "\n"))
			return err
		}
		res.Opened = true
	}
	res.Seconds = seconds(e.timing)
	if e.UI.JSON {
		return e.UI.PrintJSON(res)
	}
	switch {
	case res.Opened:
		e.UI.Say("Opened %s on folder %s in VM %s (ssh %s)", found.Editor.Name, w.openAt, w.name, w.name)
	case found != nil:
		e.UI.Result("%s", strings.TrimRight(recipe.All(), "\n"))
	default:
		e.UI.Say("%s. The VM is ready; to open the folder:", why)
		e.UI.Result("%s", strings.TrimRight(recipe.Text(), "\n"))
	}
	e.UI.Say("%s", e.timing.Line())
	return nil
}

func seconds(t *ui.Timing) map[string]float64 {
	out := map[string]float64{}
	for k, d := range t.Spent() {
		out[k] = float64(d.Milliseconds()) / 1000
	}
	return out
}

// lookupEditor finds the editor before any work. A nil editor with a reason
// means: do everything else and print the recipe.
func (e *Env) lookupEditor(want string) (*editor.Found, string, error) {
	if want == "" {
		want = "auto"
	}
	if reason, remote := editor.RemoteSession(e.Editor); remote && want == "auto" {
		return nil, "No editor is started here: " + reason, nil
	}
	f, err := editor.Lookup(e.Editor, want)
	if err != nil {
		if want == "auto" {
			return nil, "No editor is started: " + err.Error(), nil
		}
		return nil, "", err
	}
	return &f, "", nil
}

// checkAlias asks ssh, once when the alias was made, what it will really do.
func (e *Env) checkAlias(ctx context.Context, w *want, f *facts) error {
	if !f.aliasMade {
		return nil
	}
	stop := e.timing.Start("ssh")
	defer stop()
	ms, err := sshcfg.Verify(ctx, e.SSH, w.name, e.stanza(w, *f.inst), nil)
	if err != nil {
		return err
	}
	for _, m := range ms {
		e.UI.Warn("ssh %s: %s", w.name, m)
		if m.Hint != "" {
			e.UI.Warn("%s", m.Hint)
		}
	}
	return nil
}

// offerExtension looks once, when the alias is made, whether the editor can
// open SSH hosts.
func (e *Env) offerExtension(ctx context.Context, f editor.Found) {
	stop := e.timing.Start("editor")
	defer stop()
	ok, err := editor.RemoteExtension(ctx, f)
	if ok {
		return
	}
	cmd := fmt.Sprintf("%s --install-extension %s", strings.Join(f.Argv, " "), f.Editor.Extension)
	if err != nil {
		e.UI.Warn("whether %s has its Remote-SSH extension could not be seen: %v; if the window stays empty: %s", f.Editor.Name, err, cmd)
		return
	}
	if e.UI.InTTY && !e.UI.JSON {
		if yes, err := e.UI.Confirm(ctx, fmt.Sprintf("%s lacks the extension %s, without which it cannot open the VM. Install it?", f.Editor.Name, f.Editor.Extension), true); err == nil && yes {
			if err := editor.Open(ctx, f, []string{"--install-extension", f.Editor.Extension}, e.UI.Err, e.UI.Err); err != nil {
				e.UI.Warn("installing the extension: %v", err)
			}
			return
		}
	}
	e.UI.Warn("%s lacks the extension %s; to install it: %s", f.Editor.Name, f.Editor.Extension, cmd)
}
