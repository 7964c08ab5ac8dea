package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// The user of userWorld is a member of this group.
const (
	groupName = "aivm-e2e-project"
	groupGID  = "5555"
)

// groupFiles creates files of a group that the project's owner is in, and one of another group.
func groupFiles(t *testing.T, project string) {
	t.Helper()
	runHost(t, "sh", "-ec", `cd "$1"; mkdir team; touch team/f team/gone foreign; chown -R `+userName+`:`+groupGID+` team; chmod 664 team/f; chmod 2775 team; chown `+userName+`:5556 foreign; chmod 664 foreign`, "sh", project)
}

// checkGroups does in the guest what the owner may do on the host with the files of groupFiles.
func checkGroups(t *testing.T, w *world, vm, project string, ssh func(string) result) {
	r := ssh("cd " + project + " && echo x >>team/f && chmod 600 team/f && rm team/gone && echo y >team/new && mkdir team/sub" +
		" && chmod 2770 team && touch mine && chgrp " + groupGID + " mine && stat -c %a:%g team team/sub && id -G")
	lines := strings.Split(strings.TrimSpace(r.stdout), "\n")
	if r.code != 0 || len(lines) != 3 || lines[0] != "2770:5555" || !strings.HasPrefix(lines[1], "27") || !strings.HasSuffix(lines[1], ":5555") || !strings.Contains(" "+lines[2]+" ", " 5555 ") {
		t.Errorf("in the guest: %+v", r)
	}
	for _, name := range []string{"team", "team/f", "team/new", "team/sub", "mine"} {
		st, err := os.Stat(filepath.Join(project, name))
		if err != nil {
			t.Error(err)
		} else if s := st.Sys().(*syscall.Stat_t); s.Uid != userUID || s.Gid != 5555 {
			t.Errorf("%s belongs to %d:%d on the host", name, s.Uid, s.Gid)
		}
	}
	// A group that the owner is not in stays closed, for the guest's root too, and is named.
	if r := ssh("cd " + project + " && ! echo x >>foreign 2>/dev/null && ! sudo -n chgrp 5556 mine 2>/dev/null && ! sudo -n sh -c 'echo x >>foreign' 2>/dev/null"); r.code != 0 {
		t.Errorf("a group that the owner is not in: %+v", r)
	}
	if r := w.aivm(project, "status", "--vm", vm); !strings.Contains(r.stdout, "group 5556 (foreign)") || strings.Contains(r.stdout, groupName) {
		t.Errorf("status: %+v", r)
	}
	runHost(t, "rm", filepath.Join(project, "foreign"))
}
