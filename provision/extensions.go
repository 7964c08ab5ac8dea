package provision

import (
	"context"
	"strings"
	"time"

	"aivm.dev/aivm/internal/capture"
	"aivm.dev/aivm/internal/editor"
	"aivm.dev/aivm/internal/guest"
	"aivm.dev/aivm/internal/plan"
	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/settingsync"
)

// wantedExtensions turns "none", "workspace" or ids into ids.
func (e *Env) wantedExtensions(w *want, o SyncOptions, found *editor.Found) []string {
	words := o.Extensions
	if len(words) == 0 {
		words = w.record.Sync.Extensions
	}
	var out []string
	for _, word := range words {
		switch {
		case word == "none":
		case word == "workspace" && found != nil:
			ids, err := editor.WorkspaceExtensions(e.Editor, *found)
			if err != nil {
				e.warnOnce("the extensions of " + found.Editor.Name + " cannot be read: " + err.Error())
			}
			out = append(out, ids...)
		case word == "workspace":
		case settingsync.ValidExtension(word):
			out = append(out, word)
		default:
			e.warnOnce(ui.Clean(word) + " is no id of an extension, which looks like golang.go")
		}
	}
	return out
}

// extensionsLimit is how long a server may take to install what is missing.
const extensionsLimit = 10 * time.Minute

// planExtensions lets the editor's server in the guest install what it lacks.
// Like settings, it never keeps a folder from being opened.
func (e *Env) planExtensions(w *want, f *facts) []plan.Action {
	var out []plan.Action
	for _, in := range w.settings.round.Install {
		argv := []string{in.Program}
		for _, id := range in.IDs {
			argv = append(argv, "--install-extension", id)
		}
		if !strings.HasPrefix(in.Program, "./") {
			continue // the guest names something that is not below its home
		}
		out = append(out, plan.Action{
			ID: "settings.extensions", Why: "install in the guest, for " + in.Editor + ": " + few(in.IDs), Timing: "settings",
			Shows: []string{shellLine(argv) + "  (in the guest)"},
			Do: func(ctx context.Context) error {
				limited10, cancel := context.WithTimeout(ctx, extensionsLimit)
				defer cancel()
				said := &capture.Head{Limit: guestWords}
				code, err := f.conn.Run(limited10, guest.Cmd{Argv: argv, Stdout: said, Stderr: said})
				if ctx.Err() != nil {
					return ctx.Err()
				}
				if err != nil || code != 0 {
					w.settings.report.Problems = append(w.settings.report.Problems, settingsync.Problem{
						Path: few(in.IDs), What: "could not be installed in the guest: " + lastLine(said.String()),
					})
					e.UI.Warn("extensions %s could not be installed in the guest: %s", few(in.IDs), lastLine(said.String()))
				}
				return nil
			},
		})
	}
	return out
}

func shellLine(argv []string) string {
	words := make([]string, len(argv))
	for i, a := range argv {
		words[i] = shellQuote(a)
	}
	return strings.Join(words, " ")
}
