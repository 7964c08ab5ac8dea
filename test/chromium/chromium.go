// Package chromium drives a real headless Chromium for tests, over two pipes
// (its own --remote-debugging-pipe: JSON messages ended by NUL).
//
// It owns the process and its profile, which go with the test. A browser that
// is not installed fails the test.
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

// Browser is one process with one profile. It is used by one goroutine.
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

// Start starts one. It ends with the test.
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
		// Its helpers may write for a moment after it.
		for range 100 {
			if err = os.RemoveAll(profile); err == nil {
				return
			}
			time.Sleep(50 * time.Millisecond)
		}
		t.Errorf("the browser's profile: %v", err)
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

// Pages returns the addresses of all tabs.
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

// Cookie is one of the browser's, whoever set it.
type Cookie struct{ Name, Value, Domain, Path string }

// Cookies returns all of the browser's.
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

// Call sends one command to the tab.
func (p *Page) Call(method string, params map[string]any) map[string]any {
	p.t.Helper()
	return p.call(p.session, method, params)
}

// call sends one command and reads until its answer.
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

// Open has the tab go to an address, as if the person had typed it.
func (p *Page) Open(url string) {
	p.t.Helper()
	p.Call("Page.navigate", map[string]any{"url": url, "transitionType": "typed"})
}

// Eval returns what an expression of the page is; of a promise, what it
// becomes.
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

// Text is what a person reads on the page.
func (p *Page) Text() string {
	p.t.Helper()
	return fmt.Sprint(p.Eval("document.body ? document.body.innerText : ''"))
}
