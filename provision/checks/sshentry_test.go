package checks

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"aivm.dev/aivm/provision/host"
	"aivm.dev/aivm/provision/loop/looptest"
	"aivm.dev/aivm/provision/state"
	"aivm.dev/aivm/provision/target"
	"aivm.dev/aivm/sshcfg"
)

// The check names the options of a changed ssh entry.
func TestChangedEntry(t *testing.T) {
	w := looptest.New(t)
	e := For(w.Loop)
	inst := state.Instance{Address: "10.77.0.101", User: "agent", Identities: []string{"/k"}}
	text, err := sshcfg.Render(e.Stanza("t", inst))
	if err != nil {
		t.Fatal(err)
	}
	path := e.SSH.ConfPath("t")
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	general := "ssh does not read its entry " + path + ": " + e.SSH.SSHConfigPath + " does not include it"
	for name, tc := range map[string]struct{ from, to, want string }{
		"as written": {"", "", general}, // but no Include line
		"a comment":  {"# Written", "# I wrote", general},
		"an address": {"10.77.0.101", "10.0.0.9", "its entry was changed (" + path + "): HostName is 10.0.0.9, not 10.77.0.101"},
		"gone":       {"    ProxyCommand none\n", "", "its entry was changed (" + path + "): ProxyCommand is missing, not none"},
		"unreadable": {"Host t\n", "Match all\n", "its entry was changed: " + path + ": it is not a file written by aivm"},
	} {
		if err := os.WriteFile(path, []byte(strings.Replace(string(text), tc.from, tc.to, 1)), 0o600); err != nil {
			t.Fatal(err)
		}
		vms := []SSHEntry{{want: &target.Target{Name: "t"}, inst: &inst}}
		d := DoctorFacts{Host: host.Facts{Tools: map[string]string{"ssh": "/usr/bin/ssh"}}, VMs: vms}
		d.sshErr = e.examineSSH(t.Context(), vms)
		c := e.SSHConfigCheck(d)
		if c.State != host.Bad || !strings.HasPrefix(c.Detail, "ssh t does not reach its VM: "+tc.want) || len(c.Fix) != 1 || c.Fix[0] != "aivm host doctor --fix" {
			t.Errorf("%s: %+v", name, c)
		}
	}
}
