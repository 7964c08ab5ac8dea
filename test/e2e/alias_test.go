package e2e

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// checkAlias changes ~/.ssh/config under an alias that works. What the entry sets wins over a Host *;
// with what it cannot set, the real ssh fails, and the editor is not started.
func checkAlias(t *testing.T, w *world, vm, project string) {
	conf := filepath.Join(w.home, ".ssh/config")
	mine, err := os.ReadFile(conf)
	if err != nil {
		t.Fatal(err)
	}
	set := func(lines string) { write(t, conf, string(mine)+"Host *\n"+lines, 0o644) }
	defer write(t, conf, string(mine), 0o644)
	doctor := func() (state, text string) {
		var st struct {
			Checks []struct {
				ID, State, Detail string
				Evidence          []string
			}
		}
		if err := json.Unmarshal([]byte(w.aivm("", "host", "doctor", "--json").stdout), &st); err != nil {
			t.Fatal(err)
		}
		for _, c := range st.Checks {
			if c.ID == "ssh-config" {
				return c.State, c.Detail + strings.Join(c.Evidence, "\n")
			}
		}
		return "", ""
	}
	set("  PubkeyAcceptedAlgorithms rsa-sha2-512\n  AddressFamily inet6\n  Ciphers 3des-cbc\n  KexAlgorithms diffie-hellman-group1-sha1\n  MACs hmac-md5\n  HostKeyAlgorithms rsa-sha2-512\n  RevokedHostKeys /nonexistent\n  BindAddress ::1\n  SessionType none\n")
	if r := w.ssh(nil, vm, "true"); r.code != 0 {
		t.Errorf("ssh %s: %+v", vm, r)
	}
	if state, text := doctor(); state != "ok" || !strings.Contains(text, "ssh "+vm+": logs in") {
		t.Errorf("doctor: %s, %s", state, text)
	}
	set("  RemoteCommand tmux\n")
	if r := w.aivm(project, "code", "."); r.code != 2 || !strings.Contains(r.stderr, "was not started, because ssh "+vm+" does not reach VM") || !strings.Contains(r.stderr, "remotecommand is tmux") {
		t.Errorf("code: %+v", r)
	}
	if state, text := doctor(); state != "bad" || !strings.Contains(text, "does not log in") {
		t.Errorf("doctor: %s, %s", state, text)
	}
	write(t, conf, "Host other\n\tUser me\n"+string(mine), 0o644)
	if r := w.aivm("", "status", "--vm", vm, "--json"); !strings.Contains(r.stdout, "belongs to the Host or Match above it") {
		t.Errorf("status: %+v", r)
	}
	if r := w.aivm(project, "code", ".", "--yes"); r.code != 0 {
		t.Errorf("code moves the Include line: %+v", r)
	}
}
