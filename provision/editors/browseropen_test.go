package editors

import (
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"aivm.dev/aivm/provision/loop/looptest"
	"aivm.dev/aivm/provision/session"

	"aivm.dev/aivm/internal/editor"
	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/provision/codeserver"
	"aivm.dev/aivm/sshcfg"
)

// output collects what was printed.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *output) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

// until waits for n addresses with a token, and returns the text printed so far.
func (s *output) until(t *testing.T, n int) string {
	t.Helper()
	token := regexp.MustCompile(`\?tkn=[0-9a-f]{48}`)
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		s.mu.Lock()
		text := s.b.String()
		s.mu.Unlock()
		if len(token.FindAllString(text, -1)) >= n {
			return text
		}
		if time.Now().After(end) {
			t.Fatalf("fewer than %d addresses were printed:\n%s", n, text)
		}
	}
}

// The token is only in the page; if no browser can be started, it is in the printed address.
func TestOpenBrowser(t *testing.T) {
	dir := t.TempDir()
	script := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte("#!/bin/sh\n"+text+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
		return path
	}
	works := script("works", `cat "$1" >"`+dir+`/page"; echo "$@" >"`+dir+`/argv.new"; mv "`+dir+`/argv.new" "`+dir+`/argv"`)
	fails := script("fails", "exit 3")
	for name, tc := range map[string]struct {
		browser string
		ssh     bool
		options CodeOptions
		opened  bool
		warning string
	}{
		"a browser":               {browser: works, opened: true},
		"one that fails":          {browser: fails, opened: true, warning: "could not be started: exit status 3"},
		"one that does not exist": {browser: dir + "/none", warning: "no browser listed in $BROWSER"},
		"none wanted":             {browser: works, options: CodeOptions{NoBrowser: true}},
		"no desktop":              {},
		"a remote session":        {browser: works, ssh: true},
		"one that starts a snap":  {browser: script("snapped", "exec /snap/bin/firefox"), warning: "a snap"},
	} {
		t.Run(name, func(t *testing.T) {
			values := map[string]string{"BROWSER": tc.browser, "XDG_RUNTIME_DIR": "/nowhere"}
			if tc.ssh {
				values["SSH_CONNECTION"] = "a 1 b 2"
			}
			env := editor.OSEnv()
			env.Getenv = func(name string) string { return values[name] }
			printed := &output{}
			e := For(looptest.LoopOn((&session.Session{Editor: env, Getenv: env.Getenv, SSH: sshcfg.Layout{StateDir: filepath.Join(dir, "state")}}).SetStreams(&ui.Streams{Err: printed, Out: printed})))
			p := &codeserver.Proxy{Folder: "/work"}
			if err := p.Listen(); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			go func() { _ = p.Serve(ctx) }()
			defer cancel()
			o := e.openBrowser(ctx, tc.options, p)
			defer o.remove()
			if o.opened != tc.opened || strings.Contains(o.address, "tkn=") == tc.opened || !strings.HasPrefix(o.address, p.Origin()+"/") {
				t.Errorf("%+v", o)
			}
			switch {
			case tc.warning != "" && tc.opened:
				if text := printed.until(t, 1); !strings.Contains(text, tc.warning) {
					t.Errorf("%s", text)
				}
			case tc.warning != "":
				if text := printed.b.String(); !strings.Contains(text, tc.warning) {
					t.Errorf("%s", text)
				}
			case tc.opened:
				for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
					if _, err := os.Stat(filepath.Join(dir, "argv")); err == nil {
						break
					}
				}
				page, _ := os.ReadFile(filepath.Join(dir, "page"))
				argv, _ := os.ReadFile(filepath.Join(dir, "argv"))
				if !strings.Contains(string(page), p.Origin()+"/?tkn=") || strings.Contains(string(argv), "tkn") || !strings.HasSuffix(string(argv), ".html\n") {
					t.Errorf("%s\n%s", argv, page)
				}
			}
			o.remove()
			if l, _ := os.ReadDir(filepath.Join(dir, "state", ".open")); len(l) > 0 {
				t.Errorf("left behind: %v", l)
			}
		})
	}
}

// Each Enter on a terminal prints another address.
func TestOfferAddresses(t *testing.T) {
	r, w := io.Pipe()
	printed := &output{}
	e := For(looptest.LoopOn(new(session.Session).SetStreams(&ui.Streams{In: r, InTTY: true, Err: printed, Out: printed})))
	p := &codeserver.Proxy{}
	if err := p.Listen(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	go func() { _ = p.Serve(ctx) }()
	defer cancel()
	done := make(chan struct{})
	go func() {
		defer close(done)
		e.offerAddresses(ctx, p)
	}()
	for n := range 2 {
		_, _ = io.WriteString(w, "\n")
		printed.until(t, n+1)
	}
	_ = w.Close()
	<-done
}
