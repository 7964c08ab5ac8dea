package record

import (
	"encoding/json"
	"strings"
	"testing"

	"aivm.dev/aivm/test/hints"
)

// placeholders replaces words in hints that the user has to fill in.
var placeholders = strings.NewReplacer("vm create NAME", "vm create spare", "NAME", "box", "FOLDER", homeDir+"/proj", "PROGRAM", "true", "SIZE", "5GB", "IMAGE", imageFile, "FILE", homeDir+"/f", "PATH", homeDir+"/elsewhere")

// checkHints runs the commands in the hints of a failed command, in the world in which it ended. Commands
// with a dry run are only run with --dry-run.
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
		if strings.Join(args, " ") == "config edit" { // needs a terminal
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
