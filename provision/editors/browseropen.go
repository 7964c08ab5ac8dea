package editors

import (
	"context"
	"errors"
	"os/exec"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"aivm.dev/aivm/internal/editor"
	"aivm.dev/aivm/provision/codeserver"
)

// opening is how a person gets to the editor's first page.
type opening struct {
	address string // to print: with a token if no browser was started on it
	opened  bool
	close   func() // takes the page away
}

// openBrowser has the desktop's browser open the editor. The token reaches it
// in a file that only this user can read, since command lines are public. On a
// machine without a desktop, in a session from elsewhere, or with a browser that
// cannot read the file, the address has to do.
func (e Part) openBrowser(ctx context.Context, o CodeOptions, p *codeserver.Proxy) opening {
	say := func(why string) opening {
		address, _ := p.Invite()
		if why != "" {
			e.UI.Warn("no browser is opened: %s", why)
		}
		return opening{address: address, close: func() {}}
	}
	_, remote := editor.RemoteSession(e.Editor)
	if o.NoBrowser || remote || e.Getenv("DISPLAY") == "" && e.Getenv("WAYLAND_DISPLAY") == "" && e.Getenv("BROWSER") == "" {
		return say("")
	}
	address, used := p.Invite()
	page, remove, err := codeserver.WritePage(codeserver.PageDir(e.Getenv("XDG_RUNTIME_DIR"), e.SSH.StateDir), address)
	if err != nil {
		return say(err.Error())
	}
	remove = sync.OnceFunc(remove)
	argv, why := editor.BrowserOpener(ctx, e.Editor, page)
	if argv == nil {
		remove()
		return say(why)
	}
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env = editor.Environ(e.Editor.Environ())
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		remove()
		return say(err.Error())
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	go e.awaitBrowser(ctx, p, used, ended, remove)
	return opening{address: p.Origin() + "/", opened: true, close: remove}
}

// awaitBrowser takes the page away once the browser has come for it, and prints
// an address if it does not come.
func (e Part) awaitBrowser(ctx context.Context, p *codeserver.Proxy, used <-chan struct{}, ended <-chan error, remove func()) {
	defer remove()
	late := time.NewTimer(codeserver.Invitation - 5*time.Second)
	defer late.Stop()
	for {
		select {
		case <-used:
			return
		case <-ctx.Done():
			return
		case err := <-ended:
			if err == nil {
				ended = nil // it has handed the file on
				continue
			}
			e.UI.Warn("the browser could not be started: %v", err)
		case <-late.C:
			e.UI.Warn("the browser has not opened the editor")
		}
		e.sayAddress(p)
		return
	}
}

func (e Part) sayAddress(p *codeserver.Proxy) {
	address, _ := p.Invite()
	e.UI.Say("to open it by hand, once and within %.0f seconds: %s", codeserver.Invitation.Seconds(), address)
}

// offerAddresses prints another address for each Enter, until ctx ends: a
// browser that was closed has lost its session.
func (e Part) offerAddresses(ctx context.Context, p *codeserver.Proxy) {
	if !e.InTTY || e.JSON {
		return
	}
	// In the background a read from the terminal must fail, not stop this run.
	signal.Ignore(syscall.SIGTTIN)
	for {
		_, err := e.UI.AskLine(ctx, "Enter: another address; Ctrl-C: end.")
		if err != nil || errors.Is(ctx.Err(), context.Canceled) {
			return
		}
		e.sayAddress(p)
	}
}
