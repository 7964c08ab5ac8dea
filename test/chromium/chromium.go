// Package chromium controls a real headless Chromium in tests, over two pipes (Chromium's
// --remote-debugging-pipe: JSON messages that end with NUL).
//
// The process and its profile are removed at the end of the test. If Chromium is not installed, the
// test fails.
package chromium

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"
)

// Browser is one process with one profile. It must be used by only one goroutine.
type Browser struct {
	t   testing.TB
	out *os.File
	in  *bufio.Reader
	id  int
}

// Page is one tab.
type Page struct {
	*Browser
	session, target string
}

// Start starts a browser, which runs until the test ends.
func Start(t testing.TB) *Browser {
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
	profile, err := os.MkdirTemp("", "aivm-chromium-")
	if err != nil {
		t.Fatal(err)
	}
	c := exec.Command(path, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--window-size=1200,800",
		"--disable-popup-blocking", "--user-data-dir="+profile, "--remote-debugging-pipe", "about:blank")
	c.ExtraFiles = []*os.File{toChild, fromChild}
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	err = c.Start()
	_ = toChild.Close()
	_ = fromChild.Close()
	t.Cleanup(func() {
		_ = out.Close()
		_ = in.Close()
		if c.Process != nil {
			_ = syscall.Kill(-c.Process.Pid, syscall.SIGKILL)
			_ = c.Wait()
		}
		// Child processes may still write for a moment.
		for range 100 {
			if err = os.RemoveAll(profile); err == nil {
				return
			}
			time.Sleep(50 * time.Millisecond)
		}
		t.Errorf("removing the browser's profile: %v", err)
	})
	if err != nil {
		t.Fatal(err)
	}
	return &Browser{t: t, out: out, in: bufio.NewReaderSize(in, 1<<20)}
}

// NewPage opens a tab.
func (b *Browser) NewPage() *Page {
	b.t.Helper()
	id, _ := b.call("", "Target.createTarget", map[string]any{"url": "about:blank"})["targetId"].(string)
	session, _ := b.call("", "Target.attachToTarget", map[string]any{"targetId": id, "flatten": true})["sessionId"].(string)
	p := &Page{b, session, id}
	p.Call("Page.enable", nil)
	return p
}

// Pages returns the URLs of all tabs.
func (b *Browser) Pages() (urls []string) {
	b.t.Helper()
	infos, _ := b.call("", "Target.getTargets", nil)["targetInfos"].([]any)
	for _, i := range infos {
		if m, ok := i.(map[string]any); ok && m["type"] == "page" {
			urls = append(urls, fmt.Sprint(m["url"]))
		}
	}
	return urls
}

// Cookie is a cookie in the browser.
type Cookie struct{ Name, Value, Domain, Path string }

// Cookies returns all cookies of the browser, of every site.
func (b *Browser) Cookies() (out []Cookie) {
	b.t.Helper()
	all, _ := b.call("", "Storage.getCookies", nil)["cookies"].([]any)
	for _, c := range all {
		if m, ok := c.(map[string]any); ok {
			out = append(out, Cookie{fmt.Sprint(m["name"]), fmt.Sprint(m["value"]), fmt.Sprint(m["domain"]), fmt.Sprint(m["path"])})
		}
	}
	return out
}

// Call sends one DevTools command to the tab and returns its result.
func (p *Page) Call(method string, params map[string]any) map[string]any {
	p.t.Helper()
	return p.call(p.session, method, params)
}

// call sends one command and reads messages until its reply arrives.
func (b *Browser) call(session, method string, params map[string]any) map[string]any {
	b.t.Helper()
	b.id++
	if params == nil {
		params = map[string]any{}
	}
	msg := map[string]any{"id": b.id, "method": method, "params": params}
	if session != "" {
		msg["sessionId"] = session
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

// Open loads a URL in the tab as if the user had typed it.
func (p *Page) Open(url string) {
	p.t.Helper()
	p.Call("Page.navigate", map[string]any{"url": url, "transitionType": "typed"})
}

// Eval returns the value of a JavaScript expression in the page; it waits for the value of a promise.
func (p *Page) Eval(expr string) any {
	p.t.Helper()
	r, _ := p.Call("Runtime.evaluate", map[string]any{"expression": expr, "returnByValue": true, "awaitPromise": true, "userGesture": true})["result"].(map[string]any)
	return r["value"]
}

// Until waits for an expression to be true and reports whether it was.
func (p *Page) Until(expr string, limit time.Duration) bool {
	p.t.Helper()
	for end := time.Now().Add(limit); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if p.Eval(expr) == true {
			return true
		}
	}
	return false
}

// Text returns the visible text of the page.
func (p *Page) Text() string {
	p.t.Helper()
	return fmt.Sprint(p.Eval("document.body ? document.body.innerText : ''"))
}
