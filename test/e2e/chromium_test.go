package e2e

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// browser is a headless Chromium, driven over two pipes (its own
// --remote-debugging-pipe: JSON messages ended by NUL).
type browser struct {
	t       *testing.T
	out     *os.File
	in      *bufio.Reader
	session string
	id      int
}

func newBrowser(t *testing.T) *browser {
	t.Helper()
	path, err := exec.LookPath("chromium")
	if err != nil {
		t.Fatalf("%v (scripts/deps.sh installs it)", err)
	}
	toChild, out, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	in, fromChild, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	c := exec.CommandContext(ctx, path, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--window-size=1200,800",
		"--user-data-dir="+t.TempDir(), "--remote-debugging-pipe", "about:blank")
	c.ExtraFiles = []*os.File{toChild, fromChild}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	_ = toChild.Close()
	_ = fromChild.Close()
	t.Cleanup(func() {
		_ = out.Close()
		cancel()
		_ = c.Wait()
		_ = in.Close()
	})
	b := &browser{t: t, out: out, in: bufio.NewReaderSize(in, 1<<20)}
	target := b.call("Target.createTarget", map[string]any{"url": "about:blank"})
	b.session = b.call("Target.attachToTarget", map[string]any{"targetId": target["targetId"], "flatten": true})["sessionId"].(string)
	b.call("Page.enable", nil)
	return b
}

// call sends one command and reads until its answer.
func (b *browser) call(method string, params map[string]any) map[string]any {
	b.t.Helper()
	b.id++
	if params == nil {
		params = map[string]any{}
	}
	msg := map[string]any{"id": b.id, "method": method, "params": params}
	if b.session != "" {
		msg["sessionId"] = b.session
	}
	text, err := json.Marshal(msg)
	if err != nil {
		b.t.Fatal(err)
	}
	if _, err := b.out.Write(append(text, 0)); err != nil {
		b.t.Fatalf("%s: %v", method, err)
	}
	for {
		line, err := b.in.ReadBytes(0)
		if err != nil {
			b.t.Fatalf("%s: %v", method, err)
		}
		var got struct {
			ID     int
			Result map[string]any
			Error  *struct{ Message string }
		}
		if err := json.Unmarshal(line[:len(line)-1], &got); err != nil {
			b.t.Fatalf("%s: %v", method, err)
		}
		if got.ID != b.id {
			continue
		}
		if got.Error != nil {
			b.t.Fatalf("%s: %s", method, got.Error.Message)
		}
		return got.Result
	}
}

// eval returns what an expression of the page is.
func (b *browser) eval(expr string) any {
	b.t.Helper()
	r, _ := b.call("Runtime.evaluate", map[string]any{"expression": expr, "returnByValue": true})["result"].(map[string]any)
	return r["value"]
}

// until waits for an expression to be true.
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

// shot keeps a picture of the page and returns where.
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

// doubleClick clicks twice in the middle of the element an expression gives.
func (b *browser) doubleClick(element string) {
	b.t.Helper()
	at, ok := b.eval(fmt.Sprintf("(() => { const r = (%s).getBoundingClientRect(); return [r.x + r.width/2, r.y + r.height/2] })()", element)).([]any)
	if !ok {
		b.t.Fatalf("there is no %s", element)
	}
	for _, n := range []int{1, 2} {
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
