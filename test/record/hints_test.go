package record

import (
	"encoding/json"
	"strings"
	"testing"

	"aivm.dev/aivm/test/hints"
)

// placeholders stand for what only the person knows.
var placeholders = strings.NewReplacer("vm create NAME", "vm create spare", "NAME", "box", "FOLDER", homeDir+"/proj", "PROGRAM", "true", "SIZE", "5GB", "IMAGE", imageFile, "FILE", homeDir+"/f", "PATH", homeDir+"/elsewhere")

// checkHints runs what the hints of a failed command name, in the state that it
// left. A command that changes something is asked for its plan.
func (w *world) checkHints(t *testing.T, failed outcome) {
	t.Helper()
	stderr := failed.err
	var j struct {
		Error struct {
			Message string
			Hints   []string
		}
	}
	if json.Unmarshal([]byte(failed.out), &j) == nil && j.Error.Message != "" {
		stderr = "error: " + j.Error.Message + "\nhint: " + strings.Join(j.Error.Hints, "\nhint: ")
	}
	try := func(args []string) (int, string) {
		if strings.Join(args, " ") == "config edit" { // it wants a terminal
			return 0, ""
		}
		o := w.try(args...)
		return o.status, o.err
	}
	var last hints.Hint
	for _, h := range hints.Of(stderr) {
		if bad := hints.Check(h, last, placeholders, hints.Error(stderr), try); bad != "" {
			t.Errorf("the hint %q, %q does not work: %s", h.Text, h.Command, bad)
		}
		last = h
	}
}
