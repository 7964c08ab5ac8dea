package provision

import (
	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/sshcfg"
)

// freeName refuses a name for a new VM under which ssh reaches something else
// today. A name nobody chose is replaced by the next that is free.
func (e *Env) freeName(w *want) error {
	name := w.name
	taken := sshcfg.Taken(e.SSH, name)
	for why, tries := taken, 0; why != ""; why, tries = sshcfg.Taken(e.SSH, w.name), tries+1 {
		if !w.autoName || tries == 100 {
			return ui.Refused("VM name %q cannot be an ssh alias: %s", name, taken).
				Hint("give the VM another name: aivm vm create NAME", "see what the name means to ssh now: ssh -G "+name)
		}
		w.rename()
	}
	return nil
}
