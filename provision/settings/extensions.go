package settings

import (
	"context"
	"slices"
	"strings"
	"time"

	"aivm.dev/aivm/internal/capture"
	"aivm.dev/aivm/internal/editor"
	"aivm.dev/aivm/internal/guest"
	"aivm.dev/aivm/internal/plan"
	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/provision/loop"
	"aivm.dev/aivm/provision/session"
	"aivm.dev/aivm/provision/target"
	"aivm.dev/aivm/settingsync"
)

// wantedExtensions resolves "none", "workspace" and ids to extension ids.
func (e Part) wantedExtensions(w *target.Target, o target.SyncOptions, found *editor.Found) []string {
	words := o.Extensions
	if len(words) == 0 {
		words = w.Record.Sync.Extensions
	}
	var out []string
	for _, word := range words {
		switch {
		case word == "none":
		case word == "workspace" && found != nil:
			ids, err := editor.WorkspaceExtensions(e.Editor, *found)
			if err != nil {
				e.WarnOnce("reading the extensions of " + found.Editor.Name + ": " + err.Error())
			}
			out = append(out, ids...)
		case word == "workspace":
		case settingsync.ValidExtension(word):
			out = append(out, word)
		default:
			e.WarnOnce(ui.Clean(word) + " is not an extension id such as golang.go")
		}
	}
	return out
}

// extensionsLimit bounds the time for a server to install missing extensions.
const extensionsLimit = 10 * time.Minute

// planExtensions plans the installation of missing extensions by the editor's server in the guest.
// As with settings, a failure never prevents opening the folder.
func (e Part) planExtensions(f *loop.Facts) []plan.Action {
	var out []plan.Action
	for _, in := range f.Settings.Round.Install {
		argv := []string{in.Program}
		for _, id := range in.IDs {
			argv = append(argv, "--install-extension", id)
		}
		if !strings.HasPrefix(in.Program, "./") {
			continue // the guest reported a path outside its home
		}
		out = append(out, plan.Action{
			ID: "settings.extensions", Why: "install extensions for " + in.Editor + " in the guest: " + session.Few(in.IDs), Timing: "settings",
			Shows: []string{session.ShellLine(argv) + "  (in the guest)"},
			Do: func(ctx context.Context) error {
				limited10, cancel := context.WithTimeout(ctx, extensionsLimit)
				defer cancel()
				output := &capture.Head{Limit: session.GuestOutputLimit}
				code, err := f.Conn.Run(limited10, guest.Cmd{Argv: argv, Stdout: output, Stderr: output})
				if ctx.Err() != nil {
					return ctx.Err()
				}
				if err != nil || code != 0 {
					done := f.Settings.Report()
					done.Problems = append(slices.Clone(done.Problems), settingsync.Problem{
						Path: session.Few(in.IDs), What: "could not be installed in the guest: " + session.LastLine(output.String()),
					})
					f.Settings.Done = &done
					e.UI.Warn("extensions %s could not be installed in the guest: %s", session.Few(in.IDs), session.LastLine(output.String()))
				}
				return nil
			},
		})
	}
	return out
}
