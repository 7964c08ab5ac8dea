package e2e

import (
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"aivm.dev/aivm/test/chromium"
)

// browser is one tab of a headless Chromium.
type browser struct {
	t *testing.T
	*chromium.Page
}

func newBrowser(t *testing.T) *browser {
	t.Helper()
	return &browser{t, chromium.Start(t).NewPage()}
}

// call sends one DevTools command and returns its result.
func (b *browser) call(method string, params map[string]any) map[string]any {
	b.t.Helper()
	return b.Call(method, params)
}

// eval returns the value of a JavaScript expression in the page.
func (b *browser) eval(expr string) any {
	b.t.Helper()
	return b.Eval(expr)
}

// until waits until a JavaScript expression is true.
func (b *browser) until(what, expr string, limit time.Duration) {
	b.t.Helper()
	for end := time.Now().Add(limit); time.Now().Before(end); time.Sleep(300 * time.Millisecond) {
		if b.eval(expr) == true {
			return
		}
	}
	b.shot(what)
	b.t.Fatalf("the page never shows: %s\n%v", what, b.eval("document.body && document.body.innerText.slice(0, 2000)"))
}

// shot saves a screenshot of the page and returns its path.
func (b *browser) shot(name string) string {
	b.t.Helper()
	data, _ := b.call("Page.captureScreenshot", map[string]any{"format": "png"})["data"].(string)
	png, err := base64.StdEncoding.DecodeString(data)
	if err != nil {
		b.t.Fatal(err)
	}
	path := filepath.Join(cacheHome, "screenshots", name+".png")
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		b.t.Fatal(err)
	}
	if err := os.WriteFile(path, png, 0o644); err != nil {
		b.t.Fatal(err)
	}
	return path
}

// doubleClick double-clicks the middle of the element that a JavaScript expression returns.
func (b *browser) doubleClick(element string) {
	b.t.Helper()
	b.click(element, 1, 2)
}

// click clicks the middle of an element once for each clickCount (Input.dispatchMouseEvent).
func (b *browser) click(element string, counts ...int) {
	b.t.Helper()
	at, ok := b.eval(fmt.Sprintf("(() => { const r = (%s).getBoundingClientRect(); return [r.x + r.width/2, r.y + r.height/2] })()", element)).([]any)
	if !ok {
		b.t.Fatalf("the page has no element %s", element)
	}
	for _, n := range counts {
		for _, kind := range []string{"mousePressed", "mouseReleased"} {
			b.call("Input.dispatchMouseEvent", map[string]any{"type": kind, "x": at[0], "y": at[1], "button": "left", "clickCount": n})
		}
	}
}

// key presses a key with modifiers (2: Ctrl).
func (b *browser) key(key, code string, vk, modifiers int) {
	b.t.Helper()
	for _, kind := range []string{"rawKeyDown", "keyUp"} {
		b.call("Input.dispatchKeyEvent", map[string]any{"type": kind, "key": key, "code": code, "windowsVirtualKeyCode": vk, "modifiers": modifiers})
	}
}
