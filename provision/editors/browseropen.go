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

// firstPage is the way to the editor's first page.
type firstPage struct {
	address string // to print; it has a token if no browser was started
	opened  bool   // a browser was started
	remove  func() // removes the page file
}

// openBrowser starts the desktop's browser on the editor. The browser reads the token from a file
// that only this user can read, since other users can read command lines. Without a desktop, in a
// remote session, or with a browser that cannot read the file, the user opens the printed address
// instead.
func (e Part) openBrowser(ctx context.Context, o CodeOptions, p *codeserver.Proxy) firstPage {
	say := func(why string) firstPage {
		address, _ := p.Invite()
		if why != "" {
			e.UI.Warn("no browser was started: %s", why)
		}
		return firstPage{address: address, remove: func() {}}
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
	return firstPage{address: p.Origin() + "/", opened: true, remove: remove}
}

// awaitBrowser removes the page after the browser has opened it, and prints an address if the
// browser fails or does not open it in time.
func (e Part) awaitBrowser(ctx context.Context, p *codeserver.Proxy, used <-chan struct{}, ended <-chan error, remove func()) {
	defer remove()
	late := time.NewTimer(codeserver.InviteLifetime - 5*time.Second)
	defer late.Stop()
	for {
		select {
		case <-used:
			return
		case <-ctx.Done():
			return
		case err := <-ended:
			if err == nil {
				ended = nil // it passed the file to another process
				continue
			}
			e.UI.Warn("the browser could not be started: %v", err)
		case <-late.C:
			e.UI.Warn("the browser has not opened the editor")
		}
		e.printAddress(p)
		return
	}
}

func (e Part) printAddress(p *codeserver.Proxy) {
	address, _ := p.Invite()
	e.UI.Say("to open it yourself, once and within %.0f seconds: %s", codeserver.InviteLifetime.Seconds(), address)
}

// offerAddresses prints another address for each Enter, until ctx ends: a closed browser has lost
// its session.
func (e Part) offerAddresses(ctx context.Context, p *codeserver.Proxy) {
	if !e.InTTY || e.JSON {
		return
	}
	// If aivm runs in the background, a read from the terminal must fail instead of stopping it.
	signal.Ignore(syscall.SIGTTIN)
	for {
		_, err := e.UI.AskLine(ctx, "Press Enter for another address, Ctrl-C to stop.")
		if err != nil || errors.Is(ctx.Err(), context.Canceled) {
			return
		}
		e.printAddress(p)
	}
}
