package provision

import "aivm.dev/aivm/sshcfg"

// freeName refuses a name for a new VM under which ssh reaches something else
// today. A name nobody chose is replaced by the next that is free.
func (e *Env) freeName(w *want) error {
	taken := sshcfg.Taken(e.SSH, w.name)
	for err, tries := taken, 0; err != nil; err, tries = sshcfg.Taken(e.SSH, w.name), tries+1 {
		if !w.autoName || tries == 100 {
			return taken
		}
		w.rename()
	}
	return nil
}
