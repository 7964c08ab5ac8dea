package editor

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"aivm.dev/aivm/internal/ui"
)

// launcher returns a Found whose launcher is this shell script.
func launcher(t *testing.T, script string) Found {
	t.Helper()
	path := filepath.Join(t.TempDir(), "code")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	e, _ := ByID("code")
	return Found{Editor: e, Argv: []string{path}, How: "path", Environ: Environ(os.Environ())}
}

func TestOpenPassesArgsAndOutput(t *testing.T) {
	f := launcher(t, `printf '%s|' "$@"; echo "${ELECTRON_RUN_AS_NODE-clean}" >&2; read -r _ _ _ _ _ sid _ </proc/$$/stat; [ "$sid" = $$ ] && echo session >&2`)
	f.Environ = Environ([]string{"ELECTRON_RUN_AS_NODE=1", "PATH=" + os.Getenv("PATH")})
	var out, messages bytes.Buffer
	args := []string{"--remote", "ssh-remote+a", "/p q/it's\n"}
	if err := Open(t.Context(), f, args, &out, &messages); err != nil {
		t.Fatal(err)
	}
	if got := strings.Split(out.String(), "|"); !slices.Equal(got[:3], args) {
		t.Errorf("argv %q", got)
	}
	if messages.String() != "clean\nsession\n" {
		t.Errorf("stderr %q", &messages)
	}
	if err := Open(t.Context(), f, args, nil, nil); err != nil {
		t.Errorf("without streams: %v", err)
	}
}

func TestOpenShowsOutputOnFailure(t *testing.T) {
	f := launcher(t, `echo out; echo 'You are trying to start as root.' >&2; exit 7`)
	var messages bytes.Buffer
	err := Open(t.Context(), f, []string{"/a b"}, nil, &messages)
	var e *ui.Error
	if !errors.As(err, &e) || !strings.Contains(e.Message, "start as root") || !strings.Contains(e.Message, "exit status 7") {
		t.Fatalf("got %v", err)
	}
	if !strings.Contains(strings.Join(e.HintLines(), " "), "'/a b'") || !strings.Contains(messages.String(), "as root") {
		t.Errorf("hints %q, stderr %q", e.HintLines(), &messages)
	}
}

func TestOpenWithoutLauncher(t *testing.T) {
	var e *ui.Error
	if err := Open(t.Context(), Found{Argv: []string{"/nonexistent/code"}}, nil, nil, nil); !errors.As(err, &e) || !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v", err)
	}
	if err := Open(t.Context(), Found{}, nil, nil, nil); err == nil {
		t.Error("an empty Found was started")
	}
}

// TestOpenKeepsAForegroundEditor checks that an editor which is still running at the limit keeps
// running and can still write its output.
func TestOpenKeepsAForegroundEditor(t *testing.T) {
	mark := filepath.Join(t.TempDir(), "mark")
	f := launcher(t, `echo begun; sleep 1; echo more && echo alive >"`+mark+`"`)
	f.launcher = 300 * time.Millisecond
	var out bytes.Buffer
	if err := Open(t.Context(), f, nil, &out, nil); err != nil || out.String() != "begun\n" {
		t.Fatalf("%v, %q", err, &out)
	}
	for range 50 {
		if b, err := os.ReadFile(mark); err == nil && string(b) == "alive\n" {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	t.Error("the editor did not keep running")
}

func TestOpenIsCancelled(t *testing.T) {
	mark := filepath.Join(t.TempDir(), "mark")
	f := launcher(t, `trap 'echo gone >"`+mark+`"; exit 1' TERM; while :; do sleep 0.1; done`)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	began := time.Now()
	if err := Open(ctx, f, nil, nil, nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	if d := time.Since(began); d > 3*time.Second {
		t.Errorf("took %v", d)
	}
	for range 50 {
		if _, err := os.Stat(mark); err == nil {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	t.Error("the launcher was not stopped")
}

func TestRemoteExtension(t *testing.T) {
	for script, want := range map[string]bool{
		`[ "$*" = --list-extensions ] && printf 'a.b\nMS-vscode-remote.Remote-SSH\r\n'`: true,
		`echo ms-vscode-remote.remote-ssh-edit`:                                         false,
		`echo ms-vscode-remote.remote-ssh >&2`:                                          false,
		`:`:                                                                             false,
	} {
		got, err := remoteExtension(t.Context(), launcher(t, script))
		if err != nil || got != want {
			t.Errorf("%s: %v, %v", script, got, err)
		}
	}
	if _, err := remoteExtension(t.Context(), launcher(t, "echo no display >&2; exit 1")); err == nil || !strings.Contains(err.Error(), "no display") {
		t.Errorf("a failing editor: %v", err)
	}
	slow := launcher(t, "sleep 1")
	slow.launcher = 200 * time.Millisecond
	if _, err := remoteExtension(t.Context(), slow); !errors.Is(err, errStillRunning) {
		t.Errorf("a slow editor: %v", err)
	}
}
