package editors

import (
	"context"
	"fmt"
	"strings"

	"aivm.dev/aivm/internal/ui"

	"aivm.dev/aivm/internal/editor"
	"aivm.dev/aivm/provision/target"
)

// CodeOptions are the flags of `code`.
type CodeOptions struct {
	target.FolderOptions
	target.SyncOptions
	Editor        string // "" = the VM's own setting, the config's, then auto
	Snapshot      bool   // keep the VM's disk first
	NoBrowser     bool
	ServerArchive string
	// Serving is told of code-server once it answers; it is served after that.
	Serving func(CodeResult) error
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

	Found  *editor.Found `json:"-"` // the editor of the run; nil: none
	Why    string        `json:"-"` // why none
	Timing *ui.Timing    `json:"-"`
}

// Lookup finds the editor before any work. A nil editor with a reason
// means: do everything else and print the recipe.
func (e Part) Lookup(want string) (*editor.Found, string, error) {
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

// offerExtension looks once, when the alias is made, whether the editor can
// open SSH hosts.
func (e Part) offerExtension(ctx context.Context, f editor.Found) {
	stop := e.Timing.Start("editor")
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
	if e.InTTY && !e.JSON {
		if yes, err := e.UI.Confirm(ctx, fmt.Sprintf("%s lacks the extension %s, without which it cannot open the VM. Install it?", f.Editor.Name, f.Editor.Extension), true); err == nil && yes {
			if err := editor.Open(ctx, f, []string{"--install-extension", f.Editor.Extension}, e.Stderr, e.Stderr); err != nil {
				e.UI.Warn("installing the extension: %v", err)
			}
			return
		}
	}
	e.UI.Warn("%s lacks the extension %s; to install it: %s", f.Editor.Name, f.Editor.Extension, cmd)
}
