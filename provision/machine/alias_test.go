package machine

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/provision/loop"
	"aivm.dev/aivm/provision/loop/looptest"
	"aivm.dev/aivm/provision/state"
	"aivm.dev/aivm/provision/target"
	"aivm.dev/aivm/sshcfg"
)

// An editor is not started over an alias that does not work; without one the fault is a
// warning. ssh -G is the real one.
func TestCheckAlias(t *testing.T) {
	w := looptest.New(t)
	e := For(w.Loop)
	inst := state.Instance{Address: "10.77.0.101", User: "agent", Identities: []string{"/k"}}
	st := e.Stanza("t", inst)
	as, err := sshcfg.Plan(sshcfg.Observe(e.SSH, st), st)
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range as {
		if err := a.Do(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(e.SSH.SSHConfigPath)
	if err != nil {
		t.Fatal(err)
	}
	e.Timing = ui.NewTiming("ssh")
	own, code := string(b), &AliasUser{Name: "Code"}
	other := filepath.Join(w.Dir, "other")
	refused := ui.Failed("ssh t does not log in: no")
	for name, tc := range map[string]struct {
		config  string
		planned bool
		user    *AliasUser
		login   error  // of ssh, if it is tried
		logins  int    // how often it is tried
		want    string // the error
		warning string
	}{
		"a second run":                       {own, false, code, refused, 0, "", ""},
		"the run that wrote it":              {own, true, code, nil, 1, "", ""},
		"the login fails":                    {own, true, code, refused, 1, "Code was not started, because ssh t does not reach VM t, which runs: ssh t does not log in: no", ""},
		"the login fails, no editor":         {own, true, nil, refused, 1, "", "ssh t does not reach the VM: ssh t does not log in: no"},
		"another run, no editor":             {"", false, nil, refused, 0, "", ""},
		"an addition":                        {own + "Host *\n  SendEnv SECRET\n", false, code, refused, 0, "", ""},
		"an addition, when it is written":    {own + "Host *\n  SendEnv SECRET\n", true, code, nil, 1, "", "your ssh configuration adds sendenv SECRET"},
		"a command":                          {own + "Host *\n  RemoteCommand tmux\n", false, code, refused, 1, "ssh t does not log in: no; remotecommand is tmux, not none (", ""},
		"a command that does no harm":        {own + "Host *\n  RequestTTY force\n", false, code, nil, 1, "", ""},
		"no Include line":                    {"# mine\n", false, code, nil, 0, "ssh does not read its entry", ""},
		"no file":                            {"", true, code, nil, 0, "ssh does not read its entry", ""},
		"the Include line below a Host":      {"Host x\n" + own, false, code, nil, 0, "ssh does not read its entry", ""},
		"another value first":                {"User root\n" + own, false, code, nil, 0, "user is root, not agent", ""},
		"no Include line, no editor":         {"# mine\n", true, nil, nil, 0, "", "ssh does not read its entry"},
		"another file, without the alias":    {own, false, &AliasUser{"Code", other}, nil, 0, "ssh does not read its entry", ""},
		"another file, which has the alias":  {"# mine\n", false, &AliasUser{"Code", other + "2"}, nil, 0, "", ""},
		"a file that ssh refuses":            {own + "NoSuchOption x\n", false, code, nil, 0, "nosuchoption", ""},
		"the login is interrupted by Ctrl-C": {own, true, code, context.Canceled, 1, "context canceled", ""},
	} {
		t.Run(name, func(t *testing.T) {
			w.Err.Reset()
			for path, text := range map[string]string{e.SSH.SSHConfigPath: tc.config, other: "# empty\n", other + "2": own} {
				if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			logins := 0
			e.LoginSSH = func(_ context.Context, l sshcfg.Layout, alias string) error {
				logins++
				if alias != "t" || tc.user != nil && tc.user.ConfigFile != "" && l.SSHConfigPath != tc.user.ConfigFile {
					t.Error(alias, l.SSHConfigPath)
				}
				return tc.login
			}
			err := e.CheckAlias(t.Context(), &target.Target{Name: "t"}, &loop.Facts{Inst: &inst, AliasPlanned: tc.planned}, tc.user)
			switch {
			case (err != nil) != (tc.want != ""), err != nil && !strings.Contains(strings.ToLower(err.Error()), strings.ToLower(tc.want)):
				t.Errorf("%v, not %q", err, tc.want)
			case logins != tc.logins:
				t.Errorf("%d logins, not %d", logins, tc.logins)
			case !strings.Contains(w.Err.String(), tc.warning), tc.warning == "" && w.Err.Len() > 0:
				t.Errorf("warnings %q, not %q", w.Err.String(), tc.warning)
			}
			var ue *ui.Error
			if errors.As(err, &ue) && strings.Contains(tc.want, "entry") && !strings.Contains(strings.Join(ue.HintLines(), "\n"), "should be: Include "+e.SSH.ConfigDir) {
				t.Errorf("hints %q", ue.HintLines())
			}
		})
	}
}
