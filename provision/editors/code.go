package editors

import (
	"context"
	"fmt"

	"aivm.dev/aivm/internal/ui"

	"aivm.dev/aivm/internal/editor"
	"aivm.dev/aivm/provision/session"
	"aivm.dev/aivm/provision/target"
)

// CodeOptions are the flags of `code`.
type CodeOptions struct {
	target.FolderOptions
	target.SyncOptions
	Editor        string // "": the VM's setting, else the config's, else auto
	Snapshot      bool   // snapshot the VM's disk first
	NoBrowser     bool
	ServerArchive string
	// Serving is called with the result when code-server answers, before it is served.
	Serving func(CodeResult) error
}

// CodeResult is what `code --json` prints.
type CodeResult struct {
	Schema   int    `json:"schema"`
	VM       string `json:"vm"`
	Alias    string `json:"alias"`
	Address  string `json:"address"`
	Folder   string `json:"folder"`
	GuestDst string `json:"guest_dst"`
	Mode     string `json:"mode"`
	Access   string `json:"access"`
	Opened   bool   `json:"opened"`
	Editor   string `json:"editor,omitempty"`
	URL      string `json:"url,omitempty"` // of code-server
	// GitProblem is what prevented the transfer of commits, of a folder in git mode.
	GitProblem *session.Problem   `json:"git_problem,omitempty"`
	Recipe     editor.Recipe      `json:"recipe"`
	Seconds    map[string]float64 `json:"seconds"`

	Found  *editor.Found `json:"-"` // the editor of the run; nil: none
	Why    string        `json:"-"` // why none
	Timing *ui.Timing    `json:"-"`
}

// Lookup finds the editor, before any other work. If the editor is nil and there is a reason, the
// caller does everything else and prints the recipe.
func (e Part) Lookup(want string) (*editor.Found, string, error) {
	if want == "" {
		want = "auto"
	}
	if reason, remote := editor.RemoteSession(e.Editor); remote && want == "auto" {
		return nil, "No editor is started on this machine: " + reason, nil
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

// NoEditor returns what the plan says if no editor will be opened, for the reason why of Lookup.
func (e Part) NoEditor(why string) string {
	if _, remote := editor.RemoteSession(e.Editor); !remote {
		first := editor.Editors()[0]
		why += "; to install " + first.Name + ": " + first.Install
	}
	return why + "; aivm will print how to open the folder (--editor print does so without this note)"
}

// offerExtension checks whether the editor can open SSH hosts, and offers to install the extension.
func (e Part) offerExtension(ctx context.Context, f editor.Found) {
	stop := e.Timing.Start("editor")
	defer stop()
	ok, err := editor.HasExtension(ctx, e.Editor, f)
	if ok {
		return
	}
	cmd := extensionCommand(f)
	if err != nil {
		e.UI.Warn("could not check whether %s has its Remote-SSH extension: %v; if the window stays empty, run: %s", f.Editor.Name, err, cmd)
		return
	}
	if e.InTTY && !e.JSON {
		if yes, err := e.UI.Confirm(ctx, fmt.Sprintf("%s needs the extension %s to open the VM. Install it?", f.Editor.Name, f.Editor.Extension), true); err == nil && yes {
			if err := editor.Open(ctx, f, []string{"--install-extension", f.Editor.Extension}, e.Stderr, e.Stderr); err != nil {
				e.UI.Warn("installing the extension: %v", err)
			}
			return
		}
	}
	e.UI.Warn("%s does not have the extension %s; to install it, run: %s", f.Editor.Name, f.Editor.Extension, cmd)
}
